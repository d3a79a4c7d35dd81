/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The slow path once both ends are known: connection, policy, forwarding decision, and what is
 * remembered of them. See docs/DESIGN.md, "Conntrack".
 *
 *   entry, direction               policy                          then
 *   none, expired                  judged                          half-open entry made
 *   started over                   judged                          half-open entry made anew
 *   any, but the packet is a SYN   judged                          half-open entry made, or
 *                                                                  counted if it is sent again
 *   older, half-open is answered   –                               the older one is over
 *   opener's, cached and current   –                               counted
 *   opener's, stale                judged                          direction cached again
 *   reply's, opener's is current   –                               direction cached
 *   reply's, opener's is stale     judged for the opener's         direction cached
 *   half-open, establishes it      as above                        entry moved to cilium_ct
 *   ICMP error about a connection  as in a reply                   –
 *   other ICMP                     judged                          –
 *
 * A stale connection that policy denies stays stale: its entry is what tells that the packets of
 * the side that did not open it are replies, and not a connection of their own.
 */
#ifndef FIMBRIA_VERDICT_H
#define FIMBRIA_VERDICT_H

#include "conntrack.h"
#include "fib.h"
#include "judgement.h"

static __always_inline void report_entry(struct flow *f, const struct ct_entry *e)
{
	report_hook(f);
	f->r.rule = f->r.direction == DIR_EGRESS ? e->rule_egress : e->rule_ingress;
}

enum { CONNECTION_EXISTS = 1 };

/*
 * Remembers the connection in f->entry as half-open. With BPF_NOEXIST as mode it returns
 * CONNECTION_EXISTS, and nothing is done, if there is one for these ends already.
 */
static __always_inline int remember(struct flow *f, __u64 mode)
{
	long failed = bpf_map_update_elem(&cilium_ct_new, &f->key, &f->entry, mode);

	if (failed == -EEXIST && mode == BPF_NOEXIST)
		return CONNECTION_EXISTS;
	return failed < 0 ? DROP(f, FILE_CONNTRACK, DROP_CT_CREATE_FAILED) : 0;
}

/* A packet that opens: judged, routed, and remembered with one insert. */
__global int open_connection(struct __sk_buff *skb, struct flow *f, __u32 mode)
{
	__u32 now = now_jiffies();
	struct ct_entry *e;
	__u8 d;
	int ret;

	if (!f)
		return -DROP_INVALID;
	e = &f->entry;
	d = f->d & 1;
	ask_about_packet(f);
	f->q.fresh = 1;
	ret = judge(skb, f);
	if (ret < 0)
		return ret;
	ret = find_route(skb, f);
	if (ret < 0)
		return ret;
	__builtin_memset(e, 0, sizeof(*e));
	e->orig = d;
	e->flags = f->hook == HOOK_OVERLAY ? CT_F_FROM_TUNNEL : 0;
	e->rule_egress = f->q.rule_egress;
	e->rule_ingress = f->q.rule_ingress;
	e->src_lxc = f->r.src_lxc;
	e->dst_lxc = f->r.dst_lxc;
	e->created = now;
	e->dir[!d].identity = f->r.dst_id;
	ct_store(&e->dir[d], f, skb->ifindex);
	f->r.due = ct_touch(skb, f, e, now);
	return remember(f, mode);
}

/* Is the packet's direction cached, for packets that come as this one does? */
static __always_inline bool is_cached(const struct __sk_buff *skb, const struct flow *f,
				      const struct ct_dir *dir)
{
	return dir->revision == f->revision && dir->ifindex == skb->ifindex &&
	       dir->identity == f->carried &&
	       (f->hook != HOOK_OVERLAY || dir->nexthop == f->carrier);
}

/* Judges a packet of a connection that there is, and caches its direction anew. */
static __always_inline int renew_direction(struct __sk_buff *skb, struct flow *f,
					   struct ct_entry *e)
{
	__u8 d = f->d & 1, opener = e->orig & 1;
	bool current = e->dir[opener].revision == f->revision;
	int ret;

	if (d == opener) {
		ask_about_packet(f);
		if (is_icmp(f->key.protocol))
			f->q.dport = policy_port(f, opener);
		f->q.fresh = 0;
	} else if (!current) {
		ask_about_entry(f, e);
	}
	ret = d == opener || !current ? judge(skb, f) : 0;
	if (ret < 0)
		return ret;
	ret = find_route(skb, f);
	if (ret < 0)
		return ret;
	if (d == opener) {
		e->src_lxc = f->r.src_lxc;
		e->dst_lxc = f->r.dst_lxc;
		e->rule_egress = f->q.rule_egress;
		e->rule_ingress = f->q.rule_ingress;
		e->dir[!d].identity = e->dir[!d].revision ? e->dir[!d].identity : f->r.dst_id;
	}
	ct_store(&e->dir[d], f, skb->ifindex);
	return 0;
}

/* A packet of a connection that there is. */
__global int continue_connection(struct __sk_buff *skb, struct flow *f, struct ct_entry *e)
{
	int ret;

	if (!f || !e)
		return -DROP_INVALID;
	f->r.ct_state = (f->d & 1) == (e->orig & 1) ? CT_ESTABLISHED : CT_REPLY;
	if (is_cached(skb, f, &e->dir[f->d & 1])) {
		ct_recall(f, &e->dir[f->d & 1]);
	} else {
		ret = renew_direction(skb, f, e);
		if (ret < 0)
			return ret;
	}
	report_entry(f, e);
	f->r.due = ct_touch(skb, f, e, now_jiffies());
	return 0;
}

/* The connection that a table has for the packet's ends, if the packet belongs to it. */
static __always_inline struct ct_entry *continued(struct flow *f, struct ct_entry *e, __u32 now)
{
	e = alive(e, now);
	if (!e || !starts_over(e, f))
		return e;
	f->r.ct_state = CT_REOPENED;
	return NULL;
}

static __always_inline struct ct_entry *find_established(struct flow *f, __u32 now)
{
	return continued(f, bpf_map_lookup_elem(&cilium_ct, &f->key), now);
}

static __always_inline struct ct_entry *find_half_open(struct flow *f, __u32 now)
{
	return continued(f, bpf_map_lookup_elem(&cilium_ct_new, &f->key), now);
}

/* A packet of a flow, whatever the tables know of it. A SYN has been judged, and is in f->entry. */
static __always_inline int track(struct __sk_buff *skb, struct flow *f, __u32 now)
{
	bool begins = f->t.tcp_flags & (TCP_SYN | TCP_RST), half_open = begins, moves;
	struct ct_entry *e;
	int ret;

	f->r.ct_state = CT_NEW;
	e = begins ? find_half_open(f, now) : find_established(f, now);
	if (!e && is_syn(&f->t))
		return remember(f, BPF_ANY);
	if (!e) {
		half_open = !begins;
		e = begins ? find_established(f, now) : find_half_open(f, now);
	}
	if (!e) {
		ret = open_connection(skb, f, BPF_ANY);
		if (!ret && f->r.ct_state == CT_REOPENED)
			end_older(f, now);
		return ret;
	}
	moves = half_open && establishes(e, f);
	ret = continue_connection(skb, f, e);
	if (ret < 0)
		return ret;
	if (half_open && f->t.tcp_flags & TCP_SYN && (f->d & 1) != (e->orig & 1))
		end_older(f, now);
	if (!moves)
		return 0;
	if (!keep(f, e, bpf_map_lookup_elem(&cilium_ct, &f->key), now))
		return DROP(f, FILE_CONNTRACK, DROP_CT_CREATE_FAILED);
	forget_half_open(f);
	return 0;
}

/* An ICMP error, which passes if the connection it speaks of does; or ICMP that is no flow. */
__global int decide_icmp(struct __sk_buff *skb, struct flow *f)
{
	struct ct_entry *e = NULL;
	bool ask = true;
	int ret;

	if (!f)
		return -DROP_INVALID;
	if (f->tracking == TRACK_RELATED)
		e = find_related(f, now_jiffies());
	if (e) {
		f->r.ct_state = CT_RELATED;
		ask = e->dir[e->orig & 1].revision != f->revision;
		if (ask)
			ask_about_entry(f, e);
	} else {
		f->r.ct_state = CT_NEW;
		ask_about_packet(f);
		f->q.fresh = 1;
	}
	ret = ask ? judge(skb, f) : 0;
	if (ret < 0)
		return ret;
	if (e)
		report_entry(f, e);
	f->r.due = 1;
	return find_route(skb, f);
}

/* A packet of a flow for which the tables have to be asked. */
__global int decide_flow(struct __sk_buff *skb, struct flow *f)
{
	if (!f)
		return -DROP_INVALID;
	return track(skb, f, now_jiffies());
}

/*
 * Both ends are in f->r, the way on in f->forward. Returns 0 or a negative reason.
 *
 * A lookup that finds nothing costs as much as the insert's own, so a SYN does without: nearly
 * always it is the first packet. Only where it is not, because it was sent again or one that the
 * table still has came to nothing, the table is asked.
 */
static __always_inline int decide(struct __sk_buff *skb, struct flow *f)
{
	bool syn = is_syn(&f->t);
	int ret;

	if (f->hook == HOOK_OVERLAY)
		f->forward.nexthop = f->carrier;
	if (f->tracking != TRACK_FLOW)
		return decide_icmp(skb, f);
	if (!syn && !f->absent)
		return decide_flow(skb, f);
	f->r.ct_state = CT_NEW;
	/* an entry that another CPU makes meanwhile is overwritten with the same verdict */
	ret = open_connection(skb, f, syn ? BPF_NOEXIST : BPF_ANY);
	return ret == CONNECTION_EXISTS ? decide_flow(skb, f) : ret;
}

#endif
