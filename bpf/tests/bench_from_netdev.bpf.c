/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* from_netdev, repeated; and what the repetition itself costs. */
#include "../from_netdev.bpf.c"
#include "bench.h"

SEC("tc")
int bench_from_netdev(struct __sk_buff *skb)
{
	bench_renew(skb);
	return handle(skb);
}

SEC("tc")
int bench_base(struct __sk_buff *skb)
{
	bench_renew(skb);
	return TC_NEXT;
}
