/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP that the datapath sends itself: time exceeded, back the way the packet came. It carries the
 * packet's IP header and the eight bytes after it (RFC 792; RFC 4443 allows more).
 */
#ifndef FIMBRIA_ICMP_H
#define FIMBRIA_ICMP_H

#include "config.h"
#include "encap.h"
#include "flow.h"
#include "parse.h"
#include "rewrite.h"

struct icmp4_error {
	struct iphdr ip;
	struct icmp_head icmp;
	__u8 cause[28];
};

struct icmp6_error {
	struct ipv6hdr ip;
	struct icmp_head icmp;
	__u8 cause[48];
};

struct pseudo6 {
	struct addr saddr, daddr;
	__be32 length, next;
};

enum { ICMP_HOPS = 64, ND_HOPS = 255 };

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u16 checksum(void *data, __u32 length, __u32 seed)
{
	return fold(bpf_csum_diff(NULL, 0, data, length, seed));
}

/* Checksum of an ICMPv6 message of a multiple of four bytes, with its pseudo header. */
static __always_inline __u16 checksum6(const struct addr *saddr, const struct addr *daddr,
				       void *message, __u32 length)
{
	struct pseudo6 pseudo = {
		.saddr = *saddr,
		.daddr = *daddr,
		.length = bpf_htonl(length),
		.next = bpf_htonl(IPPROTO_ICMPV6),
	};

	return checksum(message, length,
			bpf_csum_diff(NULL, 0, (__be32 *)&pseudo, sizeof(pseudo), 0));
}

static __always_inline int write_time_exceeded4(struct __sk_buff *skb, struct flow *f)
{
	struct icmp4_error *e = (void *)f->buffer;

	if (!cfg_router_ip4 ||
	    bpf_skb_load_bytes(skb, sizeof(struct ethhdr), e->cause, sizeof(e->cause)) < 0)
		return -DROP_TTL_EXCEEDED;
	__builtin_memset(e, 0, offsetof(struct icmp4_error, cause));
	*(__u8 *)&e->ip = 0x45;
	e->ip.tot_len = bpf_htons(sizeof(*e));
	e->ip.ttl = ICMP_HOPS;
	e->ip.protocol = IPPROTO_ICMP;
	e->ip.saddr = cfg_router_ip4;
	e->ip.daddr = f->t.saddr.w[3];
	e->ip.check = checksum(&e->ip, sizeof(e->ip), 0);
	e->icmp.type = ICMP_TIME_EXCEEDED;
	e->icmp.check = checksum(&e->icmp, sizeof(e->icmp) + sizeof(e->cause), 0);
	if (bpf_skb_change_tail(skb, sizeof(struct ethhdr) + sizeof(*e), 0) < 0 ||
	    bpf_skb_store_bytes(skb, sizeof(struct ethhdr), e, sizeof(*e), 0) < 0)
		return -DROP_TTL_EXCEEDED;
	return 0;
}

static __always_inline int write_time_exceeded6(struct __sk_buff *skb, struct flow *f)
{
	struct icmp6_error *e = (void *)f->buffer;
	struct addr router = { .q = { cfg_router_ip6.q[0], cfg_router_ip6.q[1] } };

	if (addr_is_zero(&router) ||
	    bpf_skb_load_bytes(skb, sizeof(struct ethhdr), e->cause, sizeof(e->cause)) < 0)
		return -DROP_TTL_EXCEEDED;
	__builtin_memset(e, 0, offsetof(struct icmp6_error, cause));
	e->ip.version = 6;
	e->ip.payload_len = bpf_htons(sizeof(*e) - sizeof(e->ip));
	e->ip.nexthdr = IPPROTO_ICMPV6;
	e->ip.hop_limit = ICMP_HOPS;
	__builtin_memcpy(&e->ip.saddr, &router, sizeof(router));
	__builtin_memcpy(&e->ip.daddr, &f->t.saddr, sizeof(router));
	e->icmp.type = ICMPV6_TIME_EXCEED;
	e->icmp.check = checksum6(&router, &f->t.saddr, &e->icmp, sizeof(*e) - sizeof(e->ip));
	if (bpf_skb_change_tail(skb, sizeof(struct ethhdr) + sizeof(*e), 0) < 0 ||
	    bpf_skb_store_bytes(skb, sizeof(struct ethhdr), e, sizeof(*e), 0) < 0)
		return -DROP_TTL_EXCEEDED;
	return 0;
}

/*
 * Turns a packet whose time is over into the answer to its sender. Returns what the program
 * returns, or DROP_TTL_EXCEEDED if there is no answer: to ICMP errors, to fragments, without an
 * address of our own.
 */
__global int time_exceeded(struct __sk_buff *skb, struct flow *f)
{
	struct ethhdr eth;
	__u8 mac[ETH_ALEN];
	int ret;

	if (!f)
		return -DROP_INVALID;
	if (f->tracking != TRACK_FLOW || f->t.fragment == FRAGMENT_LATER)
		return -DROP_TTL_EXCEEDED;
	ret = f->t.family == FAMILY_IPV4 ? write_time_exceeded4(skb, f)
					 : write_time_exceeded6(skb, f);
	if (ret < 0)
		return ret;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) < 0)
		return -DROP_TTL_EXCEEDED;
	copy_mac(mac, eth.h_dest);
	copy_mac(eth.h_dest, eth.h_source);
	copy_mac(eth.h_source, mac);
	if (bpf_skb_store_bytes(skb, 0, &eth, sizeof(eth), 0) < 0)
		return -DROP_TTL_EXCEEDED;
	if (f->hook != HOOK_OVERLAY)
		return bpf_redirect(skb->ifindex, 0);
	if (encapsulate(skb, ID_HOST, f->carrier) < 0)
		return -DROP_TTL_EXCEEDED;
	return bpf_redirect(cfg_overlay_ifindex, 0);
}

#endif
