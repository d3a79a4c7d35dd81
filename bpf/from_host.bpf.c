/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Egress of cilium_host: what the host sends, or routes, to pods. Pods of this node get it after
 * their ingress policy; pods of other nodes through the tunnel. The rest stays the kernel's. With
 * the host firewall the node's own packets are judged as such, too.
 */
#include "arrive.h"

static __always_inline int stages(struct __sk_buff *skb, struct flow *f)
{
	if (f->parsed < PARSED_IP || read_header(skb, f) < 0)
		return STAGE_NEXT;
	find_destination(f);
	if (!f->r.dst_lxc && f->forward.action != ACTION_TUNNEL)
		return STAGE_NEXT;
	find_routed_source(f);
	/* what the kernel routes for others to other nodes is no business of this one */
	if (f->r.dst_lxc || f->r.src_lxc)
		return deliver(skb, f);
	f->r.direction = DIR_EGRESS;
	return dispatch(skb, f);
}

static __always_inline int slow_path(struct __sk_buff *skb, struct flow *f)
{
	if (!begin(f, HOOK_HOST))
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
		ret = fast_path(skb, f, HOOK_HOST, 0, 0);
		if (likely(ret != FAST_MISS))
			return ret;
	}
	return slow_path(skb, f);
}

SEC("tc")
int from_host(struct __sk_buff *skb)
{
	return handle(skb);
}
