/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Connections: life time, TCP state, and what is cached per direction.
 *
 * There are two tables. A connection begins in cilium_ct_new, and moves to cilium_ct once both
 * sides want it; nothing that only opens can push it out there, or change it. Established flows do
 * with one lookup, because cilium_ct is asked first, except by a SYN and what may answer it:
 *
 *   TCP with      asks                        because
 *   SYN           cilium_ct_new, by insert    there it stays until it is answered, whatever an
 *                                             older connection over the same ports does meanwhile
 *   SYN and ACK   cilium_ct_new, cilium_ct    it may be that answer: the older one is over then
 *   RST           cilium_ct_new, cilium_ct    the same, without an end for the older one
 *   neither       cilium_ct, cilium_ct_new
 *
 * Counters and flags are plain adds and stores. A direction's packets of one flow run on one CPU
 * nearly always; where they do not, a count may miss a packet, never a verdict: verdicts are
 * guarded by the revision, which is cleared before a direction is rewritten and set after.
 */
#ifndef FIMBRIA_CONNTRACK_H
#define FIMBRIA_CONNTRACK_H

#include "config.h"
#include "events.h"
#include "flow.h"
#include "maps.h"
#include "parse.h"

enum { CT_F_CLOSED = CT_F_RX_CLOSING | CT_F_TX_CLOSING, EEXIST = 17 };

static __always_inline __u32 now_jiffies(void)
{
	return bpf_jiffies64();
}

static __always_inline bool is_expired(const struct ct_entry *e, __u32 now)
{
	return (__s32)(e->expires - now) < 0;
}

static __always_inline bool is_closed(const struct ct_entry *e)
{
	return (e->flags & CT_F_CLOSED) == CT_F_CLOSED;
}

static __always_inline __u32 lifetime(const struct ct_entry *e, __u8 protocol)
{
	if (protocol != IPPROTO_TCP)
		return cfg_ct_any * cfg_hz;
	if (is_closed(e))
		return cfg_ct_close * cfg_hz;
	return (e->flags & CT_F_SEEN_NON_SYN ? cfg_ct_tcp : cfg_ct_syn) * cfg_hz;
}

/* Does the packet say that it opens a connection? */
static __always_inline bool is_syn(const struct tuple *t)
{
	return t->protocol == IPPROTO_TCP && (t->tcp_flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
}

/*
 * A packet that opens a connection although the table has one for its ends:
 *   SYN on a connection that either side has closed;
 *   SYN from the side that did not open it: a new connection the other way round;
 *   echo request against the direction of requests (identifier 0 only, parse.h).
 */
static __always_inline bool starts_over(const struct ct_entry *e, const struct flow *f)
{
	bool against = (f->d & 1) != (e->orig & 1);

	if (is_syn(&f->t))
		return against || e->flags & CT_F_CLOSED;
	return against && is_icmp(f->t.protocol) && is_echo_request(&f->t);
}

/* An entry, unless its time is over. */
static __always_inline struct ct_entry *alive(struct ct_entry *e, __u32 now)
{
	return e && !is_expired(e, now) ? e : NULL;
}

/* The entry of the connection that an ICMP error is about, if there is one. */
static __always_inline struct ct_entry *find_related(const struct flow *f, __u32 now)
{
	struct ct_entry *e = alive(bpf_map_lookup_elem(&cilium_ct, &f->key), now);

	return e ? e : alive(bpf_map_lookup_elem(&cilium_ct_new, &f->key), now);
}

/*
 * An older connection between the same ends is over, if there is one. Its entry stays until its
 * successor takes the place: an insert costs more.
 */
static __always_inline void end_older(const struct flow *f, __u32 now)
{
	struct ct_entry *e = bpf_map_lookup_elem(&cilium_ct, &f->key);

	if (e)
		e->expires = now - 1;
}

/* Has the side that did not open the half-open connection sent anything? */
static __always_inline bool is_answered(const struct ct_entry *e)
{
	return e->dir[!(e->orig & 1)].packets;
}

/*
 * Does this packet of a half-open connection establish it? TCP's opener does, once it answers the
 * answer: refused connections, and openings that nobody meant (the opener's kernel resets them),
 * never get that far. Elsewhere the answer itself does.
 */
static __always_inline bool establishes(const struct ct_entry *e, const struct flow *f)
{
	bool back = (f->d & 1) != (e->orig & 1);

	if (f->key.protocol != IPPROTO_TCP)
		return back;
	return !back && is_answered(e) && !is_closed(e) && !(f->t.tcp_flags & (TCP_SYN | TCP_RST));
}

/*
 * An entry for the fast path, from the table that its packet asks first; past is what cilium_ct has
 * of an older connection. Half-open entries only take packets there that neither begin nor end
 * anything.
 */
static __always_inline struct ct_entry *find_cached(struct flow *f, __u32 now, bool *half_open,
						    struct ct_entry **past)
{
	bool ends = f->t.tcp_flags & (TCP_FIN | TCP_RST);
	struct ct_entry *e;

	*half_open = false;
	*past = NULL;
	if (f->t.tcp_flags & TCP_RST && bpf_map_lookup_elem(&cilium_ct_new, &f->key))
		return NULL;
	e = bpf_map_lookup_elem(&cilium_ct, &f->key);
	if (likely(e && !is_expired(e, now)))
		return e;
	*past = e;
	*half_open = true;
	e = alive(bpf_map_lookup_elem(&cilium_ct_new, &f->key), now);
	f->absent = !e;
	return e && !ends && !is_closed(e) ? e : NULL;
}

/* Writes a connection over one that is past; what tells that it is not comes last. */
static __always_inline void replace(struct ct_entry *past, const struct ct_entry *e)
{
	past->flags = e->flags;
	past->orig = e->orig;
	__builtin_memcpy(&past->rule_egress, &e->rule_egress,
			 sizeof(*e) - offsetof(struct ct_entry, rule_egress));
	barrier();
	past->expires = e->expires;
}

/*
 * Both sides want a half-open connection: cilium_ct gets it, in place of what is past, and its own
 * table is to forget it once the entry is not needed any more. False if there is no room.
 */
static __always_inline bool keep(const struct flow *f, const struct ct_entry *e,
				 struct ct_entry *past, __u32 now)
{
	long failed;

	/* another CPU may have been faster, with the same entry */
	if (past) {
		if (is_expired(past, now))
			replace(past, e);
		return true;
	}
	failed = bpf_map_update_elem(&cilium_ct, &f->key, e, BPF_NOEXIST);
	return failed >= 0 || failed == -EEXIST;
}

static __always_inline void forget_half_open(const struct flow *f)
{
	bpf_map_delete_elem(&cilium_ct_new, &f->key);
}

/* TCP state, life time, counters. Is a trace event due? */
static __always_inline bool ct_touch(struct __sk_buff *skb, const struct flow *f,
				     struct ct_entry *e, __u32 now)
{
	__u8 flags = f->t.tcp_flags & TCP_CONTROL;
	struct ct_dir *dir = &e->dir[f->d & 1];
	__u8 fresh = flags & ~dir->tcp_flags;
	bool due;

	if (f->t.protocol == IPPROTO_TCP && f->t.fragment != FRAGMENT_LATER) {
		if (flags & (TCP_FIN | TCP_RST))
			e->flags |= (f->d & 1) == (e->orig & 1) ? CT_F_TX_CLOSING : CT_F_RX_CLOSING;
		if (flags & TCP_RST &&
		    (!(e->flags & CT_F_SEEN_NON_SYN) ||
		     !(e->dir[0].tcp_flags & e->dir[1].tcp_flags & TCP_SYN)))
			e->flags |= CT_F_CLOSED; /* refused by either side before it was open */
		if (!(flags & TCP_SYN))
			e->flags |= CT_F_SEEN_NON_SYN;
		dir->tcp_flags |= f->t.tcp_flags;
	}
	e->expires = now + lifetime(e, f->t.protocol);
	due = fresh || !dir->packets || now - dir->last_report >= cfg_trace_interval * cfg_hz;
	if (due)
		dir->last_report = now;
	dir->packets++;
	dir->bytes += skb->len;
	return due;
}

/* The same for a connection that is open, and a packet that does not end it. */
static __always_inline bool ct_touch_open(struct __sk_buff *skb, const struct flow *f,
					  struct ct_entry *e, __u32 now)
{
	struct ct_dir *dir = &e->dir[f->d & 1];
	bool due = now - dir->last_report >= cfg_trace_interval * cfg_hz;
	__u32 expires;

	if (f->t.protocol == IPPROTO_TCP) {
		expires = now + cfg_ct_tcp * cfg_hz;
		if (!(e->flags & CT_F_SEEN_NON_SYN))
			e->flags |= CT_F_SEEN_NON_SYN;
		if (f->t.tcp_flags & ~dir->tcp_flags)
			dir->tcp_flags |= f->t.tcp_flags;
	} else {
		expires = now + cfg_ct_any * cfg_hz;
	}
	/* a second's delay spares most packets a write to the entry's first cache line */
	if ((__s32)(expires - e->expires) > (__s32)cfg_hz)
		e->expires = expires;
	if (due)
		dir->last_report = now;
	dir->packets++;
	dir->bytes += skb->len;
	return due;
}

/* Caches how packets of this direction go on. The revision comes last. */
static __always_inline void ct_store(struct ct_dir *dir, const struct flow *f, __u32 ifindex)
{
	dir->revision = 0;
	barrier();
	dir->ifindex = ifindex;
	dir->oif = f->forward.oif;
	dir->nexthop = f->forward.nexthop;
	__builtin_memcpy(dir->dmac, f->forward.dmac, sizeof(dir->dmac));
	__builtin_memcpy(dir->smac, f->forward.smac, sizeof(dir->smac));
	dir->action = f->forward.action;
	dir->identity = f->carried;
	barrier();
	dir->revision = f->revision;
}

/* The same in the other direction: how packets go on when the cached decision still holds. */
static __always_inline void ct_recall(struct flow *f, const struct ct_dir *dir)
{
	f->forward.oif = dir->oif;
	f->forward.nexthop = dir->nexthop;
	__builtin_memcpy(f->forward.dmac, dir->dmac, sizeof(dir->dmac));
	__builtin_memcpy(f->forward.smac, dir->smac, sizeof(dir->smac));
	f->forward.action = dir->action;
	f->forward.identity = dir->identity;
}

#endif
