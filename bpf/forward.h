/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The two ways through a program. fast_path() takes packets of connections whose direction is
 * cached: one lookup, two of a half-open one, which moves here once it is established. Everything
 * else goes through the program's stages, and finish() is the one exit that forwards or drops,
 * counts and reports.
 */
#ifndef FIMBRIA_FORWARD_H
#define FIMBRIA_FORWARD_H

#include "conntrack.h"
#include "encap.h"
#include "events.h"
#include "icmp.h"
#include "licence.h"
#include "rewrite.h"
#include "verdict.h"

/* On a packet that another program will see on its device's way out: policy has been done. */
enum { MARK_JUDGED = 0x0f00, MARK_MASK = 0x0f00, FAST_MISS = -2 };

enum { TRACE_ALL = 0, TRACE_AGGREGATED = 3 };

/* Does a program stand for a hop? Not where the kernel has routed already. */
static __always_inline bool is_hop(__u8 hook)
{
	return hook == HOOK_CONTAINER || hook == HOOK_NETDEV || hook == HOOK_OVERLAY;
}

/* Sends the packet on. Returns what the program returns, or a negative reason. */
static __always_inline int send(struct __sk_buff *skb, const struct ct_dir *forward, __u8 family,
				__u8 hook)
{
	struct bpf_redir_neigh next = {};
	int ret;

	switch (forward->action) {
	case ACTION_PEER:
	case ACTION_REDIRECT:
		ret = rewrite(skb, family, is_hop(hook), forward, true);
		if (ret < 0)
			return ret;
		if (hook == HOOK_OVERLAY && skb->pkt_type)
			bpf_skb_change_type(skb, 0);
		if (forward->action == ACTION_PEER)
			return bpf_redirect_peer(forward->oif, 0);
		skb->mark = MARK_JUDGED;
		return bpf_redirect(forward->oif, 0);
	case ACTION_TUNNEL:
		ret = rewrite(skb, family, is_hop(hook), forward, false);
		if (ret < 0)
			return ret;
		ret = encapsulate(skb, forward->identity, forward->nexthop);
		return ret < 0 ? ret : bpf_redirect(forward->oif, 0);
	case ACTION_NEIGH:
		ret = rewrite(skb, family, is_hop(hook), forward, false);
		if (ret < 0)
			return ret;
		if (cfg_host_firewall)
			skb->mark = MARK_JUDGED;
		if (!forward->nexthop)
			return bpf_redirect_neigh(forward->oif, NULL, 0, 0);
		next.nh_family = AF_IP4;
		next.ipv4_nh = forward->nexthop;
		return bpf_redirect_neigh(forward->oif, &next, sizeof(next), 0);
	case ACTION_STACK:
		/* the kernel takes what the overlay carries for the node's own, whatever its MAC */
		if (hook == HOOK_OVERLAY && skb->pkt_type)
			bpf_skb_change_type(skb, 0);
		return STAGE_NEXT;
	}
	return -DROP_INVALID;
}

static __always_inline __u32 trace_point(__u8 action, __u32 dst_id, __u8 hook)
{
	switch (action) {
	case ACTION_PEER:
	case ACTION_REDIRECT:
		return TRACE_TO_LXC;
	case ACTION_TUNNEL:
		return TRACE_TO_OVERLAY;
	case ACTION_NEIGH:
		return TRACE_TO_NETWORK;
	default:
		if (hook == HOOK_TO_NETDEV)
			return TRACE_TO_NETWORK;
		return dst_id == ID_HOST ? TRACE_TO_HOST : TRACE_TO_STACK;
	}
}

static __always_inline __u32 arrival_point(__u8 hook)
{
	switch (hook) {
	case HOOK_CONTAINER:
		return TRACE_FROM_LXC;
	case HOOK_NETDEV:
		return TRACE_FROM_NETWORK;
	case HOOK_OVERLAY:
		return TRACE_FROM_OVERLAY;
	case HOOK_HOST:
	case HOOK_TO_NETDEV:
		return TRACE_FROM_HOST;
	default:
		return TRACE_FROM_STACK;
	}
}

/* What an event of a packet on the fast path says, from what the entry knows. */
static __always_inline void report_cached(struct flow *f, const struct ct_entry *e)
{
	__u8 d = f->d & 1;
	bool forth = d == (e->orig & 1);

	__builtin_memset(&f->r, 0, sizeof(f->r));
	f->r.src_id = e->dir[d].identity;
	f->r.dst_id = e->dir[!d].identity;
	f->r.src_lxc = forth ? e->src_lxc : e->dst_lxc;
	f->r.dst_lxc = forth ? e->dst_lxc : e->src_lxc;
	f->r.ct_state = forth ? CT_ESTABLISHED : CT_REPLY;
	report_entry(f, e);
}

__global int trace_cached(struct __sk_buff *skb, struct flow *f, struct ct_entry *e)
{
	if (!f || !e)
		return 0;
	report_cached(f, e);
	if (cfg_trace == TRACE_ALL)
		emit(skb, f, EVENT_TRACE, arrival_point(f->hook));
	return emit(skb, f, EVENT_TRACE, trace_point(e->dir[f->d & 1].action, f->r.dst_id, f->hook));
}

__global int drop_cached(struct __sk_buff *skb, struct flow *f, struct ct_entry *e, int reason)
{
	bool untracked = reason == DROP_CT_CREATE_FAILED;

	if (!f || !e)
		return TC_SHOT;
	report_cached(f, e);
	return drop(skb, f, -DROP(f, untracked ? FILE_CONNTRACK : FILE_REWRITE, reason));
}

/*
 * A packet of a cached direction. vni and carrier are those of a packet from the overlay. Returns
 * what the program returns, or FAST_MISS with nothing done.
 */
static __always_inline int fast_path(struct __sk_buff *skb, struct flow *f, const __u8 hook,
				     __u32 vni, __be32 carrier)
{
	struct runtime *rt = runtime_config();
	bool due, half_open, moves, egress;
	struct ct_entry *e, *past;
	__u32 now = now_jiffies();
	struct ct_dir *dir;
	int ret;

	if (!rt || f->t.tcp_flags & TCP_SYN)
		return FAST_MISS;
	e = find_cached(f, now, &half_open, &past);
	if (!e)
		return FAST_MISS;
	dir = &e->dir[f->d & 1];
	if (dir->revision != rt->revision || dir->ifindex != skb->ifindex)
		return FAST_MISS;
	if (hook == HOOK_OVERLAY && (dir->identity != vni || dir->nexthop != carrier))
		return FAST_MISS;
	if (is_hop(hook) && f->t.ttl <= 1 && dir->action != ACTION_STACK)
		return FAST_MISS;
	f->hook = hook;
	if (unlikely(f->t.tcp_flags & TCP_CONTROL || is_closed(e)))
		due = ct_touch(skb, f, e, now);
	else
		due = ct_touch_open(skb, f, e, now);
	moves = half_open && establishes(e, f);
	if (moves && !keep(f, e, past, now))
		return drop_cached(skb, f, e, DROP_CT_CREATE_FAILED);
	if (due || cfg_trace < TRACE_AGGREGATED)
		trace_cached(skb, f, e);
	ret = send(skb, dir, f->t.family, hook);
	if (ret < 0)
		drop_cached(skb, f, e, -ret);
	if (moves)
		forget_half_open(f);
	if (ret < 0)
		return TC_SHOT;
	egress = is_outward(hook) || (hook == HOOK_HOST && dir->action == ACTION_TUNNEL);
	count_metric(0, egress ? DIR_EGRESS : DIR_INGRESS, skb->len);
	return ret == STAGE_NEXT ? TC_NEXT : ret;
}

/* Starts the slow path: what is known of the packet so far is its bytes. */
static __always_inline bool begin(struct flow *f, __u8 hook)
{
	struct runtime *rt = runtime_config();

	f->hook = hook;
	__builtin_memset(&f->r, 0, sizeof(f->r));
	f->carrier = 0;
	if (!rt)
		return false;
	f->revision = rt->revision;
	barrier();
	return true;
}

/* The packet may go: sends it. */
__global int dispatch(struct __sk_buff *skb, struct flow *f)
{
	int ret;

	if (!f)
		return -DROP_INVALID;
	f->forward.identity = f->carried;
	if (is_hop(f->hook) && f->t.ttl <= 1 && f->forward.action != ACTION_STACK)
		return DROP(f, FILE_REWRITE, DROP_TTL_EXCEEDED);
	if (cfg_trace == TRACE_ALL)
		emit(skb, f, EVENT_TRACE, arrival_point(f->hook));
	if ((f->r.due && !f->r.told) || cfg_trace < TRACE_AGGREGATED)
		emit(skb, f, EVENT_TRACE, trace_point(f->forward.action, f->r.dst_id, f->hook));
	ret = send(skb, &f->forward, f->t.family, f->hook);
	return ret < 0 ? DROP(f, FILE_REWRITE, -ret) : ret;
}

/* The one exit of the slow path. ret: a verdict to return, STAGE_NEXT, or a negative reason. */
static __always_inline int finish(struct __sk_buff *skb, struct flow *f, int ret)
{
	int answer;

	if (ret < 0) {
		answer = drop(skb, f, -ret);
		if (ret == -DROP_TTL_EXCEEDED) {
			ret = time_exceeded(skb, f);
			return ret < 0 ? answer : ret;
		}
		return answer;
	}
	count_metric(0, f->r.direction, skb->len);
	return ret == STAGE_NEXT ? TC_NEXT : ret;
}

#endif
