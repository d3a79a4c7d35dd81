/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The benchmark's units: an empty program, one lookup of a 16-byte key, one insert into a table
 * like conntrack's. */
#include "abi.h"
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

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct ct_key);
	__type(value, struct ct_entry);
	__uint(max_entries, 524288);
} connections SEC(".maps");

static struct ct_entry fresh;
static struct ct_key next;

SEC("tc")
int one_insert(struct __sk_buff *skb __attribute__((unused)))
{
	next.a.w[0]++;
	bpf_map_update_elem(&connections, &next, &fresh, BPF_ANY);
	return TC_NEXT;
}

char licence[] SEC("license") = "Dual BSD/GPL";
