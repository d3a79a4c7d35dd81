/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the programs on the way into the node have in common: only packets for pods of this node
 * are judged. Whether a packet is for one is found out from its IP header alone, because the
 * host's own traffic may be of kinds that pods may not use.
 */
#ifndef FIMBRIA_ARRIVE_H
#define FIMBRIA_ARRIVE_H

#include "forward.h"

/* Reads the IP header. Returns 0, or a negative reason. */
static __always_inline int read_header(struct __sk_buff *skb, struct flow *f)
{
	return f->parsed == PARSED_IP ? parse_l3(skb, &f->t, sizeof(struct ethhdr)) : 0;
}

/* Judges and delivers a packet for a pod of this node; its source is in f->r and f->carried. */
static __always_inline int deliver(struct __sk_buff *skb, struct flow *f)
{
	int ret;

	f->r.direction = DIR_INGRESS;
	f->r.source = f->r.dst_lxc;
	if (f->parsed == PARSED_IP) {
		ret = parse_full(skb, f);
		if (ret < 0)
			return ret;
	}
	ret = decide(skb, f);
	return ret < 0 ? ret : dispatch(skb, f);
}

#endif
