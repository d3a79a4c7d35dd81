/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From bytes to a tuple. parse() reads what nearly every packet is (no options, no fragments, TCP,
 * UDP or ICMP echo) straight from the packet; parse_full() reads everything else and costs more.
 * Only this file, rewrite.h, icmp.h and neighbour.h know how the two families look on the wire.
 */
#ifndef FIMBRIA_PARSE_H
#define FIMBRIA_PARSE_H

#include "config.h"
#include "flow.h"
#include "helpers.h"
#include "maps.h"
#include "wire.h"

static __always_inline bool is_icmp(__u8 protocol)
{
	return protocol == IPPROTO_ICMP || protocol == IPPROTO_ICMPV6;
}

static __always_inline bool is_echo_request(const struct tuple *t)
{
	return t->icmp_type == (t->family == FAMILY_IPV4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST);
}

static __always_inline bool is_echo_reply(const struct tuple *t)
{
	return t->icmp_type == (t->family == FAMILY_IPV4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY);
}

/* Errors carry the packet that caused them. */
static __always_inline bool is_icmp_error(const struct tuple *t)
{
	if (t->family == FAMILY_IPV6)
		return t->icmp_type >= ICMPV6_DEST_UNREACH && t->icmp_type <= ICMPV6_PARAMPROB;
	return t->icmp_type == ICMP_DEST_UNREACH || t->icmp_type == ICMP_TIME_EXCEEDED ||
	       t->icmp_type == ICMP_PARAMETERPROB;
}

/* ICMPv6 between neighbours, which no router forwards. */
static __always_inline bool is_link_icmp6(const struct tuple *t)
{
	return t->protocol == IPPROTO_ICMPV6 && t->fragment != FRAGMENT_LATER &&
	       ((t->icmp_type >= MLD_QUERY && t->icmp_type <= ND_REDIRECT) ||
		t->icmp_type == MLD2_REPORT);
}

/* Reads ports straight from the packet. False: this needs parse_full(). */
static __always_inline bool parse_l4(struct tuple *t, const void *l4, const void *end)
{
	const struct icmp_head *icmp = l4;
	const struct l4_head *ports = l4;

	if (l4 + sizeof(*icmp) > end)
		return false;
	t->tcp_flags = 0;
	switch (t->protocol) {
	case IPPROTO_TCP:
		if (l4 + TCP_HEADER_MIN > end)
			return false;
		t->tcp_flags = ((const __u8 *)l4)[TCP_FLAGS_OFF];
		break;
	case IPPROTO_UDP:
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		t->icmp_type = icmp->type;
		t->icmp_code = icmp->code;
		/* with identifier 0 the two directions of an echo could not be told apart */
		if (!icmp->id)
			return false;
		if (is_echo_request(t)) {
			t->sport = icmp->id;
			t->dport = 0;
		} else if (is_echo_reply(t)) {
			t->sport = 0;
			t->dport = icmp->id;
		} else {
			return false;
		}
		return true;
	default:
		return false;
	}
	t->sport = ports->sport;
	t->dport = ports->dport;
	return true;
}

/* The common case; sets f->parsed, and with PARSED_TUPLE the tuple and the key. */
static __always_inline void parse(struct __sk_buff *skb, struct flow *f)
{
	const void *end = (void *)(long)skb->data_end;
	const struct ethhdr *eth = (void *)(long)skb->data;
	struct tuple *t = &f->t;

	f->parsed = PARSED_L2;
	f->absent = 0;
	f->time = 0;
	f->tracking = TRACK_FLOW;
	if ((const void *)(eth + 1) > end)
		return;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		const struct iphdr *ip = (const void *)(eth + 1);

		f->parsed = PARSED_IP;
		t->family = FAMILY_IPV4;
		if ((const void *)(ip + 1) > end || *(const __u8 *)ip != 0x45 ||
		    ip->frag_off & bpf_htons(IP4_MORE_FRAGMENTS | IP4_OFFSET) ||
		    ip->protocol == IPPROTO_ICMPV6 || !cfg_ipv4)
			return;
		addr_set_ip4(&t->saddr, ip->saddr);
		addr_set_ip4(&t->daddr, ip->daddr);
		t->protocol = ip->protocol;
		t->ttl = ip->ttl;
		t->l4_off = sizeof(*eth) + sizeof(*ip);
		if (!parse_l4(t, ip + 1, end))
			return;
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		const struct ipv6hdr *ip = (const void *)(eth + 1);

		f->parsed = PARSED_IP;
		t->family = FAMILY_IPV6;
		if ((const void *)(ip + 1) > end || ip->version != 6 ||
		    ip->nexthdr == IPPROTO_ICMP || !cfg_ipv6)
			return;
		__builtin_memcpy(&t->saddr, &ip->saddr, sizeof(t->saddr));
		__builtin_memcpy(&t->daddr, &ip->daddr, sizeof(t->daddr));
		t->protocol = ip->nexthdr;
		t->ttl = ip->hop_limit;
		t->l4_off = sizeof(*eth) + sizeof(*ip);
		if (!parse_l4(t, ip + 1, end))
			return;
	} else {
		if (eth->h_proto == bpf_htons(ETH_P_ARP))
			f->parsed = PARSED_ARP;
		return;
	}
	t->fragment = FRAGMENT_NONE;
	set_key(f, t);
	f->parsed = PARSED_TUPLE;
}

/* IPv4 header at off, options skipped. */
static __always_inline int parse_ip4(struct __sk_buff *skb, struct tuple *t, __u32 off)
{
	struct iphdr ip;
	__u16 fragment;

	if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) < 0 || ip.version != 4 || ip.ihl < 5)
		return -DROP_INVALID;
	addr_set_ip4(&t->saddr, ip.saddr);
	addr_set_ip4(&t->daddr, ip.daddr);
	t->protocol = ip.protocol;
	t->ttl = ip.ttl;
	t->l4_off = off + ip.ihl * 4;
	t->fragment_id = ip.id;
	fragment = bpf_ntohs(ip.frag_off);
	if (fragment & IP4_OFFSET)
		t->fragment = FRAGMENT_LATER;
	else
		t->fragment = fragment & IP4_MORE_FRAGMENTS ? FRAGMENT_FIRST : FRAGMENT_NONE;
	return 0;
}

/* IPv6 header at off, and the extension headers behind it. */
static __always_inline int parse_ip6(struct __sk_buff *skb, struct tuple *t, __u32 off)
{
	struct ipv6hdr ip;
	__u8 next;
	int i;

	if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) < 0 || ip.version != 6)
		return -DROP_INVALID;
	__builtin_memcpy(&t->saddr, &ip.saddr, sizeof(t->saddr));
	__builtin_memcpy(&t->daddr, &ip.daddr, sizeof(t->daddr));
	t->ttl = ip.hop_limit;
	t->fragment = FRAGMENT_NONE;
	next = ip.nexthdr;
	off += sizeof(ip);
	for (i = 0; i < EXT_HEADERS_MAX; i++) {
		struct ext_head ext;

		if (next != EXT_HOP_BY_HOP && next != EXT_ROUTING && next != EXT_DEST_OPTS &&
		    next != EXT_FRAGMENT)
			break;
		if (bpf_skb_load_bytes(skb, off, &ext, sizeof(ext)) < 0)
			return -DROP_INVALID_EXTHDR;
		if (next == EXT_FRAGMENT) {
			__u16 flags = bpf_ntohs(ext.offset_flags);

			t->fragment_id = ext.id;
			if (flags & 0xfff8)
				t->fragment = FRAGMENT_LATER;
			else if (flags & 1)
				t->fragment = FRAGMENT_FIRST;
			off += sizeof(ext);
		} else {
			off += (ext.length + 1) * 8;
		}
		next = ext.next;
		if (t->fragment == FRAGMENT_LATER)
			break; /* what follows is somewhere inside the datagram */
	}
	if (i == EXT_HEADERS_MAX)
		return -DROP_INVALID_EXTHDR;
	t->protocol = next;
	t->l4_off = off;
	return 0;
}

/* IP header at off of the family t->family. Returns 0 or a negative reason. */
__global int parse_l3(struct __sk_buff *skb, struct tuple *t, __u32 off)
{
	if (!t)
		return -DROP_INVALID;
	return t->family == FAMILY_IPV4 ? parse_ip4(skb, t, off) : parse_ip6(skb, t, off);
}

/* Ports, or what stands for them, at t->l4_off. Returns 0 or a negative reason. */
__global int parse_ports(struct __sk_buff *skb, struct tuple *t)
{
	struct icmp_head icmp;
	struct l4_head ports;

	if (!t)
		return -DROP_INVALID;
	t->tcp_flags = 0;
	if (t->protocol == (t->family == FAMILY_IPV4 ? IPPROTO_ICMP : IPPROTO_ICMPV6)) {
		if (bpf_skb_load_bytes(skb, t->l4_off, &icmp, sizeof(icmp)) < 0)
			return -DROP_CT_INVALID_HDR;
		t->icmp_type = icmp.type;
		t->icmp_code = icmp.code;
		t->sport = is_echo_request(t) ? icmp.id : 0;
		t->dport = is_echo_reply(t) ? icmp.id : 0;
		return 0;
	}
	if (t->protocol != IPPROTO_TCP && t->protocol != IPPROTO_UDP && t->protocol != IPPROTO_SCTP)
		return -DROP_CT_UNKNOWN_PROTO;
	if (bpf_skb_load_bytes(skb, t->l4_off, &ports, sizeof(ports)) < 0)
		return -DROP_CT_INVALID_HDR;
	t->sport = ports.sport;
	t->dport = ports.dport;
	return 0;
}

/* Fragments: the first leaves its ports for the others. */
static __always_inline int parse_fragment(struct __sk_buff *skb, struct flow *f)
{
	struct tuple *t = &f->t;
	struct frag_key key = {
		.saddr = t->saddr,
		.daddr = t->daddr,
		.id = t->fragment_id,
		.protocol = t->protocol,
	};
	struct frag_ports *found, ports;
	int ret;

	if (t->fragment == FRAGMENT_LATER) {
		found = bpf_map_lookup_elem(&cilium_ipv4_frag_datagrams, &key);
		if (!found)
			return DROP(f, FILE_PARSE, DROP_FRAG_NOT_FOUND);
		t->sport = found->sport;
		t->dport = found->dport;
		t->tcp_flags = 0;
		if (is_icmp(t->protocol)) {
			bool v4 = t->family == FAMILY_IPV4;

			t->icmp_type = t->sport ? (v4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST)
						: (v4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY);
			t->icmp_code = 0;
		}
		return 0;
	}
	ret = parse_ports(skb, t);
	if (ret < 0)
		return DROP(f, FILE_PARSE, -ret);
	if (t->protocol == IPPROTO_TCP &&
	    bpf_skb_load_bytes(skb, t->l4_off + TCP_FLAGS_OFF, &t->tcp_flags, 1) < 0)
		return DROP(f, FILE_PARSE, DROP_CT_INVALID_HDR);
	if (t->fragment == FRAGMENT_FIRST) {
		ports.sport = t->sport;
		ports.dport = t->dport;
		bpf_map_update_elem(&cilium_ipv4_frag_datagrams, &key, &ports, BPF_ANY);
	}
	return 0;
}

/*
 * An ICMP error: the key becomes that of the packet it carries. An error concerns the sender of
 * that packet, so it must be addressed to it, and its sender is the packet's other end or a router.
 */
static __always_inline int parse_related(struct __sk_buff *skb, struct flow *f)
{
	struct tuple inner = { .family = f->t.family };

	if (parse_l3(skb, &inner, f->t.l4_off + sizeof(struct icmp_head)) < 0 ||
	    inner.fragment == FRAGMENT_LATER || parse_ports(skb, &inner) < 0)
		return DROP(f, FILE_PARSE, DROP_INVALID);
	if (!addr_equal(&inner.saddr, &f->t.daddr))
		return DROP(f, FILE_PARSE, DROP_INVALID);
	/* a pod only knows of packets that were sent to it */
	if (f->hook == HOOK_CONTAINER && !addr_equal(&inner.daddr, &f->t.saddr))
		return DROP(f, FILE_PARSE, DROP_INVALID_SIP);
	f->tracking = TRACK_RELATED;
	set_key(f, &inner);
	f->d ^= 1; /* the error travels against the packet it carries */
	return 0;
}

/*
 * Everything that parse() leaves: options, extension headers, fragments, SCTP, ICMP other than
 * echo, headers outside the linear part. Returns 0 or a negative reason.
 */
__global int parse_full(struct __sk_buff *skb, struct flow *f)
{
	int ret;

	if (!f)
		return -DROP_INVALID;
	/* the node may use a family that its pods have not */
	if (!(f->t.family == FAMILY_IPV4 ? cfg_ipv4 : cfg_ipv6) &&
	    !(cfg_host_firewall && (f->hook == HOOK_NETDEV || f->hook == HOOK_TO_NETDEV)))
		return DROP(f, FILE_PARSE, DROP_UNKNOWN_L3);
	ret = parse_l3(skb, &f->t, sizeof(struct ethhdr));
	if (ret < 0)
		return DROP(f, FILE_PARSE, -ret);
	ret = parse_fragment(skb, f);
	if (ret < 0)
		return ret;
	f->parsed = PARSED_TUPLE;
	f->tracking = TRACK_FLOW;
	if (is_icmp(f->t.protocol)) {
		if (is_icmp_error(&f->t))
			return parse_related(skb, f);
		if (!is_echo_request(&f->t) && !is_echo_reply(&f->t))
			f->tracking = TRACK_NONE;
	}
	set_key(f, &f->t);
	return 0;
}

#endif
