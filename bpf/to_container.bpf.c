/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Egress of a pod's host-side device, attached with endpoint routes: judges what the kernel routed
 * to the pod. What another program delivers here by plain redirect is marked and passes.
 */
#include "arrive.h"

static __always_inline int stages(struct __sk_buff *skb, struct flow *f)
{
	int ret;

	if (f->parsed < PARSED_IP)
		return STAGE_NEXT; /* the kernel looks for its neighbour */
	f->r.direction = DIR_INGRESS;
	ret = read_header(skb, f);
	if (ret < 0)
		return DROP(f, FILE_TO_CONTAINER, -ret);
	if (is_neighbour_discovery(skb, f))
		return STAGE_NEXT;
	find_destination(f);
	if (!f->r.dst_lxc || f->r.dst_lxc == ENDPOINT_HOST)
		return DROP(f, FILE_TO_CONTAINER, DROP_NON_LOCAL);
	find_routed_source(f);
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
