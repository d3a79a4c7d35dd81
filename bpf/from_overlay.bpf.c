/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ingress of cilium_vxlan. The sender's identity is the VNI, which is believed because the outer
 * source is a node of this cluster. With the host firewall the node itself is a receiver, too.
 */
#include "arrive.h"

static __always_inline int find_source(struct __sk_buff *skb, struct flow *f)
{
	struct addr outer;
	int ret;

	ret = decapsulated(skb, &f->carried, &f->carrier);
	if (ret < 0)
		return DROP(f, FILE_FROM_OVERLAY, DROP_NO_TUNNEL_KEY);
	f->r.src_id = f->carried;
	if (f->carried == ID_HOST || f->carried == ID_UNKNOWN)
		return DROP(f, FILE_FROM_OVERLAY, DROP_INVALID_IDENTITY);
	addr_set_ip4(&outer, f->carrier);
	if (!is_cluster_node(&outer, FAMILY_IPV4))
		return DROP(f, FILE_FROM_OVERLAY, DROP_UNKNOWN_SENDER);
	f->r.src_id = identity_of_vni(f->carried, &f->t.saddr, f->t.family);
	return 0;
}

static __always_inline int stages(struct __sk_buff *skb, struct flow *f)
{
	int ret;

	f->r.direction = DIR_INGRESS;
	if (f->parsed < PARSED_IP)
		return DROP(f, FILE_FROM_OVERLAY, DROP_UNSUPPORTED_L2);
	ret = read_header(skb, f);
	if (ret < 0)
		return DROP(f, FILE_FROM_OVERLAY, -ret);
	ret = find_source(skb, f);
	if (ret < 0)
		return ret;
	find_destination(f);
	if (f->r.dst_lxc)
		return deliver(skb, f);
	f->r.direction = DIR_UNKNOWN;
	if (skb->pkt_type)
		bpf_skb_change_type(skb, 0);
	return STAGE_NEXT;
}

static __always_inline int slow_path(struct __sk_buff *skb, struct flow *f)
{
	if (!begin(f, HOOK_OVERLAY))
		return TC_SHOT;
	return finish(skb, f, stages(skb, f));
}

static __always_inline int handle(struct __sk_buff *skb)
{
	struct flow *f = current_flow();
	__be32 carrier;
	__u32 vni;
	int ret;

	if (!f)
		return TC_SHOT;
	parse(skb, f);
	if (likely(f->parsed == PARSED_TUPLE) && !decapsulated(skb, &vni, &carrier)) {
		ret = fast_path(skb, f, HOOK_OVERLAY, vni, carrier);
		if (likely(ret != FAST_MISS))
			return ret;
	}
	return slow_path(skb, f);
}

SEC("tc")
int from_overlay(struct __sk_buff *skb)
{
	return handle(skb);
}
