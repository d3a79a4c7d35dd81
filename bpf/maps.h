/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps, with the owner of each: "agent" maps are written by nothing else and only read here,
 * "kernel" maps by the datapath (and conntrack's garbage collector). All but the scratch area are
 * pinned by name. max_entries of the cilium_ct tables and of cilium_events may
 * be overridden at load.
 */
#ifndef FIMBRIA_MAPS_H
#define FIMBRIA_MAPS_H

#include "abi.h"
#include "flow.h"
#include "helpers.h"

#define PINNED(name, kind, key_t, value_t, entries) \
	struct {                                        \
		__uint(type, kind);                         \
		__type(key, key_t);                         \
		__type(value, value_t);                     \
		__uint(max_entries, entries);               \
		__uint(pinning, PIN_BY_NAME);               \
	} name SEC(".maps")

/* agent: the node's own addresses, its pods' and its own */
PINNED(cilium_lxc, BPF_MAP_TYPE_HASH, struct endpoint_key, struct endpoint_info, 65535);

/* agent: the endpoint behind a host-side device */
PINNED(cilium_devices, BPF_MAP_TYPE_HASH, struct device_key, struct device_info, 4096);

/* agent: address -> identity and tunnel endpoint */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct ipcache_key);
	__type(value, struct ipcache_info);
	__uint(max_entries, 512000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, PIN_BY_NAME);
} cilium_ipcache SEC(".maps");

/* agent: addresses of the cluster's nodes */
PINNED(cilium_node_map, BPF_MAP_TYPE_HASH, struct node_key, struct node_info, 16384);

/* agent: prefixes that policies name -> their identities, for policy-cidr-match-mode */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__type(key, struct ipcache_key);
	__type(value, struct cidr_info);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(pinning, PIN_BY_NAME);
} cilium_cidr SEC(".maps");

/* agent: endpoint id -> policy id; the last one is ENDPOINT_HOST */
PINNED(cilium_policy_ref, BPF_MAP_TYPE_ARRAY, __u32, struct policy_ref, ENDPOINT_HOST + 1);

/* agent: policy id -> what is enforced */
PINNED(cilium_policy_info, BPF_MAP_TYPE_ARRAY, __u32, struct policy_info, 4096);

/* agent: policy id -> its entries; the inner maps differ in max_entries */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 4096);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
	__uint(pinning, PIN_BY_NAME);
	__array(
		values, struct {
			__uint(type, BPF_MAP_TYPE_HASH);
			__type(key, struct policy_key);
			__type(value, struct policy_entry);
			__uint(max_entries, 1);
		});
} cilium_policy SEC(".maps");

/* kernel: connections that both sides want */
PINNED(cilium_ct, BPF_MAP_TYPE_LRU_HASH, struct ct_key, struct ct_entry, 524288);

/* kernel: connections that are not established yet */
PINNED(cilium_ct_new, BPF_MAP_TYPE_LRU_HASH, struct ct_key, struct ct_entry, 65536);

/* kernel: ports of fragmented datagrams, IPv6 included */
PINNED(cilium_ipv4_frag_datagrams, BPF_MAP_TYPE_LRU_HASH, struct frag_key, struct frag_ports, 8192);

/* kernel: packets and bytes by reason and direction; direction 0 is what no verdict concerns */
PINNED(cilium_metrics, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct metrics_value, METRICS_ENTRIES);

/* kernel: how often a rule decided, and the bytes of the packets it decided on */
PINNED(cilium_rule_stats, BPF_MAP_TYPE_PERCPU_ARRAY, __u32, struct metrics_value,
       RULE_STATS_ENTRIES);

/* agent (revision), kernel (events_lost) */
PINNED(cilium_runtime_config, BPF_MAP_TYPE_ARRAY, __u32, struct runtime, 1);

/* kernel: events for monitors, struct event each; the agent (or an observer) reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
	__uint(pinning, PIN_BY_NAME);
} cilium_events SEC(".maps");

/* The packet in hand. TC programs run with softirqs off and never nest on a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct flow);
	__uint(max_entries, 1);
} flow_scratch SEC(".maps");

static __always_inline struct flow *current_flow(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&flow_scratch, &zero);
}

static __always_inline struct runtime *runtime_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cilium_runtime_config, &zero);
}

#endif
