/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* from_container, repeated; and what the repetition itself costs. */
#include "../from_container.bpf.c"
#include "bench.h"

SEC("tc")
int bench_from_container(struct __sk_buff *skb)
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
