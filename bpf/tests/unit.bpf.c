/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The benchmark's units: an empty program, and one lookup of a 16-byte key. */
#include "helpers.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u64[2]);
	__type(value, __u64);
	__uint(max_entries, 1024);
} table SEC(".maps");

SEC("tc")
int empty(struct __sk_buff *skb __attribute__((unused)))
{
	return TC_NEXT;
}

SEC("tc")
int one_lookup(struct __sk_buff *skb __attribute__((unused)))
{
	__u64 key[2] = { 1, 2 };

	return bpf_map_lookup_elem(&table, key) ? TC_SHOT : TC_NEXT;
}

char licence[] SEC("license") = "Dual BSD/GPL";
