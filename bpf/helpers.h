/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a BPF program needs beside the kernel's UAPI headers: the kernel's helpers by number, map
 * declarations (libbpf's BTF conventions, which the loader reads), byte order, barriers.
 */
#ifndef FIMBRIA_HELPERS_H
#define FIMBRIA_HELPERS_H

#include <linux/bpf.h>
#include <linux/types.h>

#define SEC(name) __attribute__((section(name), used))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
/* A global function is verified once, on its own, whatever calls it. */
#define __global __attribute__((noinline))

#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name
#define __array(name, val) typeof(val) *name[]
#define PIN_BY_NAME 1

#define offsetof(type, member) __builtin_offsetof(type, member)
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
/* Keeps the compiler from moving memory accesses; x86 keeps the order of stores by itself. */
#define barrier() __asm__ volatile("" ::: "memory")

typedef _Bool bool;
#define true 1
#define false 0
#define NULL ((void *)0)

#define bpf_htons(x) ((__be16)__builtin_bswap16(x))
#define bpf_ntohs(x) ((__u16)__builtin_bswap16(x))
#define bpf_htonl(x) ((__be32)__builtin_bswap32(x))
#define bpf_ntohl(x) ((__u32)__builtin_bswap32(x))

#define HELPER(ret, name, ...) static ret (*const bpf_##name)(__VA_ARGS__) = (void *)BPF_FUNC_##name

HELPER(void *, map_lookup_elem, void *map, const void *key);
HELPER(long, map_update_elem, void *map, const void *key, const void *value, __u64 flags);
HELPER(long, map_delete_elem, void *map, const void *key);
HELPER(__u64, jiffies64, void);
HELPER(__u64, ktime_get_coarse_ns, void);
HELPER(void *, ringbuf_reserve, void *map, __u64 size, __u64 flags);
HELPER(void, ringbuf_submit, void *data, __u64 flags);
HELPER(long, redirect, __u32 ifindex, __u64 flags);
HELPER(long, redirect_peer, __u32 ifindex, __u64 flags);
HELPER(long, redirect_neigh, __u32 ifindex, struct bpf_redir_neigh *params, int size, __u64 flags);
HELPER(long, skb_set_tunnel_key, struct __sk_buff *skb, struct bpf_tunnel_key *key, __u32 size,
       __u64 flags);
HELPER(long, skb_get_tunnel_key, struct __sk_buff *skb, struct bpf_tunnel_key *key, __u32 size,
       __u64 flags);
HELPER(long, skb_load_bytes, const void *skb, __u32 offset, void *to, __u32 len);
HELPER(long, skb_store_bytes, struct __sk_buff *skb, __u32 offset, const void *from, __u32 len,
       __u64 flags);
HELPER(long, skb_pull_data, struct __sk_buff *skb, __u32 len);
HELPER(long, skb_change_tail, struct __sk_buff *skb, __u32 len, __u64 flags);
HELPER(long, skb_change_type, struct __sk_buff *skb, __u32 type);
HELPER(__s64, csum_diff, __be32 *from, __u32 from_size, __be32 *to, __u32 to_size, __u32 seed);
HELPER(long, fib_lookup, void *ctx, struct bpf_fib_lookup *params, int len, __u32 flags);

#undef HELPER

/* What a TC program returns. NEXT lets other programs on the device run, then the kernel. */
enum { TC_NEXT = -1, TC_SHOT = 2 };

/* How a stage says TC_NEXT: negative numbers are drop reasons there. */
enum { STAGE_NEXT = 0x100 };

#endif
