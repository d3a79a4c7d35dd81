/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ingress of a pod's host-side device: everything a pod sends. The pod's only neighbour is this
 * node; a packet that is not understood here goes nowhere.
 */
#include "forward.h"
#include "neighbour.h"

/* A pod sends from its own addresses only. */
static __always_inline int check_source(struct flow *f, const struct device_info *dev)
{
	const struct addr *own = f->t.family == FAMILY_IPV4 ? &dev->ip4 : &dev->ip6;

	if (addr_is_zero(own) || !addr_equal(&f->t.saddr, own))
		return DROP(f, FILE_FROM_CONTAINER, DROP_INVALID_SIP);
	if (f->t.protocol == IPPROTO_UDP && f->t.dport == bpf_htons(cfg_overlay_port))
		return DROP(f, FILE_FROM_CONTAINER, DROP_ENCAP_PROHIBITED);
	return 0;
}

static __always_inline int stages(struct __sk_buff *skb, struct flow *f)
{
	__u32 ifindex = skb->ifindex;
	struct device_info *dev;
	int ret;

	f->r.direction = DIR_EGRESS;
	dev = bpf_map_lookup_elem(&cilium_devices, &ifindex);
	if (!dev)
		return DROP(f, FILE_FROM_CONTAINER, DROP_EP_NOT_READY);
	f->r.src_id = f->carried = dev->sec_id;
	f->r.src_lxc = f->r.source = dev->lxc_id;
	if (f->parsed == PARSED_ARP)
		return cfg_ipv4 ? answer_arp(skb, f)
				: DROP(f, FILE_FROM_CONTAINER, DROP_UNKNOWN_L3);
	if (f->parsed == PARSED_L2)
		return DROP(f, FILE_FROM_CONTAINER, DROP_UNSUPPORTED_L2);
	if (f->parsed == PARSED_IP) {
		ret = parse_full(skb, f);
		if (ret < 0)
			return ret;
		if (is_link_icmp6(&f->t) && (addr_is_zero(&f->t.saddr) ||
					     addr_is_link_local(&f->t.saddr) ||
					     addr_equal(&f->t.saddr, &dev->ip6)))
			return answer_nd(skb, f);
	}
	ret = check_source(f, dev);
	if (ret < 0)
		return ret;
	find_destination(f);
	ret = decide(skb, f);
	return ret < 0 ? ret : dispatch(skb, f);
}

static __always_inline int slow_path(struct __sk_buff *skb, struct flow *f)
{
	if (!begin(f, HOOK_CONTAINER))
		return TC_SHOT;
	return finish(skb, f, stages(skb, f));
}

static __always_inline int handle(struct __sk_buff *skb)
{
	struct flow *f = current_flow();
	int ret;

	if (!f)
		return TC_SHOT;
	parse(skb, f);
	if (likely(f->parsed == PARSED_TUPLE)) {
		ret = fast_path(skb, f, HOOK_CONTAINER, 0, 0);
		if (likely(ret != FAST_MISS))
			return ret;
	}
	return slow_path(skb, f);
}

SEC("tc")
int from_container(struct __sk_buff *skb)
{
	return handle(skb);
}
