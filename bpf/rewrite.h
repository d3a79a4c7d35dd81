/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Changes to a packet on its way through: hop count and MAC addresses. */
#ifndef FIMBRIA_REWRITE_H
#define FIMBRIA_REWRITE_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

#include "flow.h"
#include "helpers.h"

static __always_inline void copy_mac(__u8 *to, const __u8 *from)
{
	__builtin_memcpy(to, from, ETH_ALEN);
}

/* Takes one from TTL or hop limit; IPv4's checksum grows by what left (RFC 1624). */
static __always_inline void decrease_ttl(struct ethhdr *eth, __u8 family)
{
	if (family == FAMILY_IPV4) {
		struct iphdr *ip = (void *)(eth + 1);
		__u32 sum = ip->check + bpf_htons(0x0100);

		ip->check = sum + (sum >= 0xffff);
		ip->ttl--;
	} else {
		struct ipv6hdr *ip = (void *)(eth + 1);

		ip->hop_limit--;
	}
}

/*
 * Prepares the packet for its next device: one hop less if hop, forward's MACs if macs. The caller
 * has checked the TTL. Returns 0 or a negative reason.
 */
static __always_inline int rewrite(struct __sk_buff *skb, __u8 family, bool hop,
				   const struct ct_dir *forward, bool macs)
{
	struct ethhdr *eth = (void *)(long)skb->data;
	__u32 need = family == FAMILY_IPV4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr);

	/* the constant bound first, so that the verifier sees it for either family */
	if ((void *)(eth + 1) + sizeof(struct iphdr) > (void *)(long)skb->data_end ||
	    (void *)(eth + 1) + need > (void *)(long)skb->data_end)
		return -DROP_WRITE_ERROR;
	if (hop)
		decrease_ttl(eth, family);
	if (macs) {
		copy_mac(eth->h_dest, forward->dmac);
		copy_mac(eth->h_source, forward->smac);
	}
	return 0;
}

#endif
