/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a program leaves behind: counters and event records. Per-CPU counters need no atomics;
 * events are records of one size in a ring buffer that nobody is woken for.
 */
#ifndef FIMBRIA_EVENTS_H
#define FIMBRIA_EVENTS_H

#include "config.h"
#include "flow.h"
#include "maps.h"
#include "parse.h"

static __always_inline void count_metric(__u32 reason, __u32 direction, __u32 length)
{
	__u32 index = reason | direction << METRICS_DIR_SHIFT;
	struct metrics_value *m = bpf_map_lookup_elem(&cilium_metrics, &index);

	if (m) {
		m->count++;
		m->bytes += length;
	}
}

static __always_inline void count_rule(__u32 rule, __u32 length)
{
	struct metrics_value *m = bpf_map_lookup_elem(&cilium_rule_stats, &rule);

	if (m) {
		m->count++;
		m->bytes += length;
	}
}

/* One record about f->t and f->r. Returns 0, or 1 if the ring was full. */
__global int emit(struct __sk_buff *skb, struct flow *f, __u32 type, __u32 subtype)
{
	struct runtime *rt;
	struct event *e;

	if (!f)
		return 1;
	e = bpf_ringbuf_reserve(&cilium_events, sizeof(*e), 0);
	if (!e) {
		rt = runtime_config();
		if (rt)
			__sync_fetch_and_add(&rt->events_lost, 1);
		return 1;
	}
	if (!f->time)
		f->time = bpf_ktime_get_coarse_ns();
	e->time = f->time;
	e->type = type;
	e->subtype = subtype;
	e->source = f->r.source;
	e->direction = f->r.direction;
	e->ct_state = f->r.ct_state;
	e->flags = f->r.flags;
	e->match = f->r.match;
	e->sport = 0;
	e->dport = 0;
	e->protocol = 0;
	e->tcp_flags = 0;
	if (f->parsed >= PARSED_TUPLE) {
		e->saddr = f->t.saddr;
		e->daddr = f->t.daddr;
		e->protocol = f->t.protocol;
		e->flags |= EVENT_F_PORTS | (f->t.family == FAMILY_IPV6 ? EVENT_F_IPV6 : 0);
		if (is_icmp(f->t.protocol)) {
			e->sport = f->t.sport | f->t.dport;
			e->dport = bpf_htons(f->t.icmp_type << 8 | f->t.icmp_code);
		} else {
			e->sport = f->t.sport;
			e->dport = f->t.dport;
			e->tcp_flags = f->t.tcp_flags;
		}
	} else {
		/* not understood far enough to say more */
		__builtin_memset(&e->saddr, 0, sizeof(e->saddr));
		__builtin_memset(&e->daddr, 0, sizeof(e->daddr));
		e->flags |= f->parsed == PARSED_IP && f->t.family == FAMILY_IPV6 ? EVENT_F_IPV6 : 0;
	}
	e->dst_id = f->r.dst_lxc;
	e->src_label = f->r.src_id;
	e->dst_label = f->r.dst_id;
	e->rule = f->r.rule;
	e->verdict = f->r.verdict;
	e->ifindex = skb->ifindex;
	e->length = skb->len;
	e->policy_id = f->r.policy_id;
	e->line = f->r.line;
	e->file = f->r.file;
	e->pad = 0;
	bpf_ringbuf_submit(e, BPF_RB_NO_WAKEUP);
	return 0;
}

/* The end of a packet: counted and reported. */
static __always_inline int drop(struct __sk_buff *skb, struct flow *f, int reason)
{
	f->r.verdict = -reason;
	count_metric(reason, f->r.direction, skb->len);
	emit(skb, f, EVENT_DROP, reason);
	return TC_SHOT;
}

#endif
