/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ingress of the node's own devices. With native routing packets for pods arrive here, and with the
 * host firewall those for the node are judged; everything else belongs to the kernel. A source that
 * is of this node is forged, and so is a pod's that must come by the tunnel. Only to a node's
 * address do pods of other nodes send past the tunnel.
 */
#include "arrive.h"

static __always_inline int find_source(struct flow *f)
{
	struct ipcache_info *info;

	if (lookup_endpoint(&f->t.saddr, f->t.family))
		return DROP(f, FILE_FROM_NETDEV, DROP_INVALID_SIP);
	info = lookup_ipcache(&f->t.saddr, f->t.family);
	if (info && is_tunnelled(info) && f->r.dst_lxc != ENDPOINT_HOST)
		return DROP(f, FILE_FROM_NETDEV, DROP_UNKNOWN_SENDER);
	f->r.src_id = f->carried = outside_identity(info, f->t.family);
	return 0;
}

static __always_inline int stages(struct __sk_buff *skb, struct flow *f)
{
	int ret;

	if (f->parsed < PARSED_IP || read_header(skb, f) < 0)
		return STAGE_NEXT;
	find_destination(f);
	if (!f->r.dst_lxc)
		return STAGE_NEXT;
	if (f->r.dst_lxc == ENDPOINT_HOST && is_neighbour_discovery(skb, f))
		return STAGE_NEXT;
	report_hook(f);
	ret = find_source(f);
	return ret < 0 ? ret : deliver(skb, f);
}

static __always_inline int slow_path(struct __sk_buff *skb, struct flow *f)
{
	if (!begin(f, HOOK_NETDEV))
		return TC_NEXT;
	return finish(skb, f, stages(skb, f));
}

static __always_inline int handle(struct __sk_buff *skb)
{
	struct flow *f = current_flow();
	int ret;

	if (!f)
		return TC_NEXT;
	parse(skb, f);
	if (likely(f->parsed == PARSED_TUPLE)) {
		/* the overlay's own packets are the kernel's; from_overlay sees what is in them */
		if (!cfg_host_firewall && cfg_tunnel && f->t.protocol == IPPROTO_UDP &&
		    f->t.dport == bpf_htons(cfg_overlay_port))
			return TC_NEXT;
		merge_tunnel(f);
		ret = fast_path(skb, f, HOOK_NETDEV, 0, 0);
		if (likely(ret != FAST_MISS))
			return ret;
	}
	return slow_path(skb, f);
}

SEC("tc")
int from_netdev(struct __sk_buff *skb)
{
	return handle(skb);
}
