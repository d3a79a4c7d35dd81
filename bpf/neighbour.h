/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ARP and neighbour discovery on a pod's device. The pod's only neighbour is the host side of its
 * veth pair: whatever address it asks for, that one answers. The pod's own address is not
 * answered for, so that duplicate address detection finds nobody.
 */
#ifndef FIMBRIA_NEIGHBOUR_H
#define FIMBRIA_NEIGHBOUR_H

#include "flow.h"
#include "icmp.h"
#include "parse.h"
#include "rewrite.h"

struct arp_packet {
	struct ethhdr eth;
	__be16 hardware, protocol;
	__u8 hardware_length, protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_ip[4];
	__u8 target_mac[ETH_ALEN];
	__u8 target_ip[4];
} __attribute__((packed));

struct nd_message {
	__u8 type, code;
	__be16 check;
	__be32 flags;
	struct addr target;
	__u8 option, option_length;
	__u8 mac[ETH_ALEN];
};

enum { ARPHRD_ETHER = 1, ARPOP_REQUEST = 1, ARPOP_REPLY = 2 };

enum { ND_SOLICITED_OVERRIDE_ROUTER = 0xe0000000, ND_OPTION_TARGET = 2 };

static __always_inline __be32 load_ip4(const __u8 *bytes)
{
	__be32 ip;

	__builtin_memcpy(&ip, bytes, sizeof(ip));
	return ip;
}

/* Answers an ARP request. Returns what the program returns, or a negative reason. */
__global int answer_arp(struct __sk_buff *skb, struct flow *f)
{
	__u32 ifindex = skb->ifindex;
	struct device_info *dev = bpf_map_lookup_elem(&cilium_devices, &ifindex);
	struct arp_packet *arp;

	if (!f)
		return -DROP_INVALID;
	if (!dev)
		return DROP(f, FILE_NEIGHBOUR, DROP_EP_NOT_READY);
	arp = (void *)f->buffer;
	if (bpf_skb_load_bytes(skb, 0, arp, sizeof(*arp)) < 0 ||
	    arp->hardware != bpf_htons(ARPHRD_ETHER) || arp->protocol != bpf_htons(ETH_P_IP))
		return DROP(f, FILE_NEIGHBOUR, DROP_INVALID);
	if (load_ip4(arp->sender_ip) != dev->ip4.w[3] || addr_is_zero(&dev->ip4))
		return DROP(f, FILE_NEIGHBOUR, DROP_INVALID_SIP);
	/* the kernel may ask for the pod if it routes to its device: the answer is for it */
	if (arp->operation == bpf_htons(ARPOP_REPLY) && cfg_endpoint_routes)
		return STAGE_NEXT;
	if (arp->operation != bpf_htons(ARPOP_REQUEST) ||
	    load_ip4(arp->target_ip) == dev->ip4.w[3])
		return DROP(f, FILE_NEIGHBOUR, DROP_UNSUPPORTED_L2);
	copy_mac(arp->eth.h_dest, arp->sender_mac);
	copy_mac(arp->eth.h_source, dev->node_mac);
	arp->operation = bpf_htons(ARPOP_REPLY);
	copy_mac(arp->target_mac, arp->sender_mac);
	copy_mac(arp->sender_mac, dev->node_mac);
	__builtin_memcpy(arp->sender_ip, arp->target_ip, 4);
	__builtin_memcpy(arp->target_ip, &dev->ip4.w[3], 4);
	if (bpf_skb_store_bytes(skb, 0, arp, sizeof(*arp), 0) < 0)
		return DROP(f, FILE_NEIGHBOUR, DROP_WRITE_ERROR);
	return bpf_redirect(ifindex, 0);
}

/*
 * ICMPv6 of the link. Solicitations for any address but the pod's own are answered; the rest
 * (router solicitations, listener reports, duplicate address detection) ends here, counted.
 */
__global int answer_nd(struct __sk_buff *skb, struct flow *f)
{
	__u32 ifindex = skb->ifindex;
	struct device_info *dev = bpf_map_lookup_elem(&cilium_devices, &ifindex);
	struct nd_message *nd;
	struct ipv6hdr *ip;
	struct ethhdr *eth;

	if (!f)
		return -DROP_INVALID;
	if (!dev)
		return DROP(f, FILE_NEIGHBOUR, DROP_EP_NOT_READY);
	eth = (void *)f->buffer;
	ip = (void *)(eth + 1);
	nd = (void *)(ip + 1);
	if (bpf_skb_load_bytes(skb, f->t.l4_off, nd, offsetof(struct nd_message, option)) < 0)
		return DROP(f, FILE_NEIGHBOUR, DROP_FORBIDDEN_ICMP6);
	if (nd->type == ND_ADVERT && cfg_endpoint_routes && addr_equal(&nd->target, &dev->ip6))
		return STAGE_NEXT;
	if (nd->type != ND_SOLICIT || nd->code || f->t.ttl != ND_HOPS ||
	    addr_is_zero(&f->t.saddr) || addr_equal(&nd->target, &dev->ip6) ||
	    addr_equal(&nd->target, &f->t.saddr))
		return DROP(f, FILE_NEIGHBOUR, DROP_FORBIDDEN_ICMP6);
	if (bpf_skb_change_tail(skb, sizeof(*eth) + sizeof(*ip) + sizeof(*nd), 0) < 0)
		return DROP(f, FILE_NEIGHBOUR, DROP_WRITE_ERROR);
	copy_mac(eth->h_dest, dev->mac);
	copy_mac(eth->h_source, dev->node_mac);
	eth->h_proto = bpf_htons(ETH_P_IPV6);
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->payload_len = bpf_htons(sizeof(*nd));
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->hop_limit = ND_HOPS;
	__builtin_memcpy(&ip->saddr, &nd->target, sizeof(nd->target));
	__builtin_memcpy(&ip->daddr, &f->t.saddr, sizeof(f->t.saddr));
	nd->type = ND_ADVERT;
	nd->code = 0;
	nd->check = 0;
	nd->flags = bpf_htonl(ND_SOLICITED_OVERRIDE_ROUTER);
	nd->option = ND_OPTION_TARGET;
	nd->option_length = 1;
	copy_mac(nd->mac, dev->node_mac);
	nd->check = checksum6(&nd->target, &f->t.saddr, nd, sizeof(*nd));
	if (bpf_skb_store_bytes(skb, 0, eth, sizeof(*eth) + sizeof(*ip) + sizeof(*nd), 0) < 0)
		return DROP(f, FILE_NEIGHBOUR, DROP_WRITE_ERROR);
	return bpf_redirect(ifindex, 0);
}

#endif
