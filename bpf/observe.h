/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Places where packets are only seen: no verdict, so they count under direction 0. */
#ifndef FIMBRIA_OBSERVE_H
#define FIMBRIA_OBSERVE_H

#include "events.h"
#include "licence.h"
#include "parse.h"

static __always_inline int observe(struct __sk_buff *skb, __u32 point)
{
	struct flow *f;

	count_metric(0, DIR_UNKNOWN, skb->len);
	if (cfg_trace == 0) {
		f = current_flow();
		if (f) {
			parse(skb, f);
			__builtin_memset(&f->r, 0, sizeof(f->r));
			emit(skb, f, EVENT_TRACE, point);
		}
	}
	return TC_NEXT;
}

#endif
