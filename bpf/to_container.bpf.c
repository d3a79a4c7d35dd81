/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Egress of a pod's host-side device, attached with endpoint routes: judges what the kernel routed
 * to the pod. What another program delivers here by plain redirect is marked and passes.
 */
#include "arrive.h"

static __always_inline void find_source(struct flow *f)
{
	struct endpoint_info *ep = lookup_endpoint(&f->t.saddr, f->t.family);

	if (ep && ep->flags & ENDPOINT_F_HOST)
		f->r.src_id = ID_HOST;
	else
		f->r.src_id = outside_identity(lookup_ipcache(&f->t.saddr, f->t.family),
					       f->t.family);
	f->carried = f->r.src_id;
}

/* The kernel and the pod as neighbours; such packets are never forwarded. */
static __always_inline bool is_neighbour_discovery(struct __sk_buff *skb, struct flow *f)
{
	return f->t.family == FAMILY_IPV6 && f->t.protocol == IPPROTO_ICMPV6 &&
	       f->t.ttl == ND_HOPS && f->t.fragment == FRAGMENT_NONE &&
	       parse_ports(skb, &f->t) == 0 && is_link_icmp6(&f->t);
}

static __always_inline int stages(struct __sk_buff *skb, struct flow *f)
{
	int ret;

	if (f->parsed < PARSED_IP)
		return STAGE_NEXT; /* the kernel looks for its neighbour */
	f->r.direction = DIR_INGRESS;
	ret = read_header(skb, f);
	if (ret < 0)
		return DROP(f, FILE_TO_CONTAINER, -ret);
	if (f->parsed == PARSED_IP && is_neighbour_discovery(skb, f))
		return STAGE_NEXT;
	find_destination(f);
	if (!f->r.dst_lxc)
		return DROP(f, FILE_TO_CONTAINER, DROP_NON_LOCAL);
	find_source(f);
	return deliver(skb, f);
}

static __always_inline int slow_path(struct __sk_buff *skb, struct flow *f)
{
	if (!begin(f, HOOK_TO_CONTAINER))
		return TC_SHOT;
	return finish(skb, f, stages(skb, f));
}

static __always_inline int handle(struct __sk_buff *skb)
{
	struct flow *f = current_flow();
	int ret;

	if ((skb->mark & MARK_MASK) == MARK_JUDGED)
		return TC_NEXT;
	if (!f)
		return TC_SHOT;
	parse(skb, f);
	if (likely(f->parsed == PARSED_TUPLE)) {
		ret = fast_path(skb, f, HOOK_TO_CONTAINER, 0, 0);
		if (likely(ret != FAST_MISS))
			return ret;
	}
	return slow_path(skb, f);
}

SEC("tc")
int to_container(struct __sk_buff *skb)
{
	return handle(skb);
}
