/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Before each repetition of a test run the packet is made new again: its TTL (programs take one
 * off each time) and, for many flows in turn, its ports.
 */
#ifndef FIMBRIA_TESTS_BENCH_H
#define FIMBRIA_TESTS_BENCH_H

#include "helpers.h"

/* Flows that packets belong to in turn, at most 8 * 65536; 0: all to one. */
const volatile __u32 bench_flows = 0;

static __u32 bench_turn;

enum {
	BENCH_TTL_OFF = 22,
	BENCH_SPORT_OFF = 34,
	BENCH_DPORT_OFF = 36,
	BENCH_HEAD = 38,
	BENCH_TTL = 64,
	BENCH_PORT = 8080, /* and the seven after it */
};

static __always_inline void bench_renew(struct __sk_buff *skb)
{
	__u8 *data = (void *)(long)skb->data;

	if (data + BENCH_HEAD > (__u8 *)(long)skb->data_end)
		return;
	data[BENCH_TTL_OFF] = BENCH_TTL;
	if (bench_flows) {
		if (++bench_turn >= bench_flows)
			bench_turn = 0;
		*(__be16 *)(data + BENCH_SPORT_OFF) = bpf_htons(bench_turn);
		*(__be16 *)(data + BENCH_DPORT_OFF) = bpf_htons(BENCH_PORT + (bench_turn >> 16));
	}
}

#endif
