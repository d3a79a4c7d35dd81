/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Egress of the node's own devices. With the host firewall packets from the node's own addresses
 * are judged, the tunnel's among them; what pods send was judged where it came from. Everything
 * else is counted, and traced if nothing is aggregated.
 */
#include "arrive.h"
#include "observe.h"

/* Everything leaves by the device that it is on: only whom it is for matters. */
static __always_inline void find_receiver(struct flow *f)
{
	f->forward.oif = 0;
	f->forward.nexthop = 0;
	f->forward.action = ACTION_STACK;
	f->r.dst_id = outside_identity(lookup_ipcache(&f->t.daddr, f->t.family), f->t.family);
}

static __always_inline int stages(struct __sk_buff *skb, struct flow *f)
{
	if (f->parsed < PARSED_IP || read_header(skb, f) < 0)
		return STAGE_NEXT;
	find_routed_source(f);
	if (!f->r.src_lxc || is_neighbour_discovery(skb, f)) {
		if (cfg_trace == TRACE_ALL)
			emit(skb, f, EVENT_TRACE, TRACE_TO_NETWORK);
		return STAGE_NEXT;
	}
	find_receiver(f);
	return deliver(skb, f);
}

static __always_inline int slow_path(struct __sk_buff *skb, struct flow *f)
{
	if (!begin(f, HOOK_TO_NETDEV))
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
		merge_tunnel(f);
		ret = fast_path(skb, f, HOOK_TO_NETDEV, 0, 0);
		if (likely(ret != FAST_MISS))
			return ret;
	}
	return slow_path(skb, f);
}

SEC("tc")
int to_netdev(struct __sk_buff *skb)
{
	if (!cfg_host_firewall || (skb->mark & MARK_MASK) == MARK_JUDGED)
		return observe(skb, TRACE_TO_NETWORK);
	return handle(skb);
}
