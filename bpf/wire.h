/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Numbers and headers of the protocols, as far as the kernel's UAPI headers leave them out. */
#ifndef FIMBRIA_WIRE_H
#define FIMBRIA_WIRE_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

enum {
	TCP_FIN = 0x01,
	TCP_SYN = 0x02,
	TCP_RST = 0x04,
	TCP_ACK = 0x10,
	TCP_CONTROL = TCP_FIN | TCP_SYN | TCP_RST,
	TCP_FLAGS_OFF = 13,
	TCP_HEADER_MIN = 20,

	IP4_MORE_FRAGMENTS = 0x2000,
	IP4_OFFSET = 0x1fff,

	EXT_HOP_BY_HOP = 0,
	EXT_ROUTING = 43,
	EXT_FRAGMENT = 44,
	EXT_DEST_OPTS = 60,
	EXT_HEADERS_MAX = 6,

	/* linux/icmp.h and linux/icmpv6.h ask for a C library */
	ICMP_ECHOREPLY = 0,
	ICMP_DEST_UNREACH = 3,
	ICMP_ECHO = 8,
	ICMP_TIME_EXCEEDED = 11,
	ICMP_PARAMETERPROB = 12,
	ICMPV6_DEST_UNREACH = 1,
	ICMPV6_TIME_EXCEED = 3,
	ICMPV6_PARAMPROB = 4,
	ICMPV6_ECHO_REQUEST = 128,
	ICMPV6_ECHO_REPLY = 129,

	/* ICMPv6 that belongs to the link: multicast listeners and neighbour discovery */
	MLD_QUERY = 130,
	MLD_DONE = 132,
	ND_ROUTER_SOLICIT = 133,
	ND_SOLICIT = 135,
	ND_ADVERT = 136,
	ND_REDIRECT = 137,
	MLD2_REPORT = 143,
};

struct l4_head {
	__be16 sport, dport;
};

struct icmp_head {
	__u8 type, code;
	__be16 check;
	__be16 id, seq;
};

struct ext_head {
	__u8 next, length;
	__be16 offset_flags;
	__be32 id;
};

#endif
