/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Everything the loader has to cope with, in one small object. */
#include <linux/bpf.h>
#include "../../bpf/abi.h"

#define SEC(name) __attribute__((section(name), used))
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) type *name

static void *(*lookup)(void *map, const void *key) = (void *)1;
static long (*loop)(__u32 n, void *fn, void *ctx, __u64 flags) = (void *)181;
static long (*output)(void *map, void *data, __u64 size, __u64 flags) = (void *)130;

struct inner_def {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 8);
	TYPE(key, struct policy_key);
	TYPE(value, struct policy_entry);
};

struct {
	UINT(type, BPF_MAP_TYPE_HASH);
	UINT(max_entries, 16);
	UINT(pinning, 1);
	TYPE(key, struct endpoint_key);
	TYPE(value, struct endpoint_info);
} probe_lxc SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	UINT(max_entries, 4);
	UINT(pinning, 1);
	TYPE(key, __u32);
	struct inner_def *values[];
} probe_policy SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_LPM_TRIE);
	UINT(max_entries, 1024);
	UINT(map_flags, BPF_F_NO_PREALLOC);
	TYPE(key, struct ipcache_key);
	TYPE(value, struct ipcache_info);
} probe_ipcache SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	UINT(max_entries, 4);
	TYPE(key, __u32);
	TYPE(value, struct metrics_value);
} probe_metrics SEC(".maps");

struct {
	UINT(type, BPF_MAP_TYPE_RINGBUF);
	UINT(max_entries, 1 << 16);
} probe_events SEC(".maps");

const volatile __u32 cfg_answer = 7;
const volatile __u8 cfg_mac[6];
const volatile __u64 cfg_wide;
__u32 runs;
__u32 seed = 3;

static long add(__u32 i, __u32 *sum)
{
	*sum += i;
	return 0;
}

__attribute__((noinline)) int outer(__u32 n)
{
	__u32 sum = 0;

	loop(n, add, &sum, 0);
	return sum;
}

static __attribute__((noinline)) int count(__u32 index)
{
	struct metrics_value *m = lookup(&probe_metrics, &index);

	if (m)
		m->count++;
	return m ? 1 : 0;
}

SEC("tc") int probe_constants(struct __sk_buff *skb)
{
	runs++;
	return cfg_answer + cfg_mac[5] + (__u32)(cfg_wide >> 32) + seed;
}

SEC("tc") int probe_calls(struct __sk_buff *skb)
{
	return outer(5) + count(2);
}

SEC("tc") int probe_drop(struct __sk_buff *skb)
{
	return 2;
}

struct policy_case {
	__u32 policy;
	struct policy_key key;
	__u32 rule;
};

SEC("syscall") int probe_policy_lookup(struct policy_case *c)
{
	__u32 id = c->policy;
	struct policy_key key = c->key;
	void *inner = lookup(&probe_policy, &id);
	struct policy_entry *e;

	if (!inner)
		return -1;
	e = lookup(inner, &key);
	c->rule = e ? e->rule_id : 0;
	return e ? 1 : 0;
}

SEC("syscall") int probe_emit(struct event *ev)
{
	struct event copy = *ev;

	return output(&probe_events, &copy, sizeof(copy), 1);
}

SEC("tc") int probe_unsafe(struct __sk_buff *skb)
{
	char *data = (char *)(long)skb->data;

	return data[0];
}

char _license[] SEC("license") = "Dual BSD/GPL";
