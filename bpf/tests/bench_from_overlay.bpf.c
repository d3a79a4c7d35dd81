/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* from_overlay, repeated; and what the repetition itself costs. */
#include "from_overlay_hop.bpf.c"
#include "bench.h"

SEC("tc")
int bench_from_overlay(struct __sk_buff *skb)
{
	bench_renew(skb);
	arrive_by_tunnel(skb);
	return handle(skb);
}

SEC("tc")
int bench_base(struct __sk_buff *skb)
{
	bench_renew(skb);
	arrive_by_tunnel(skb);
	return TC_NEXT;
}
