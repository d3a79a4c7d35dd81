/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet in hand: what the parser found, what the stages know about it, and how it goes on.
 * One per CPU (maps.h), because it is too large for the 512 bytes of a BPF stack.
 */
#ifndef FIMBRIA_FLOW_H
#define FIMBRIA_FLOW_H

#include "abi.h"
#include "helpers.h"

enum fragment { FRAGMENT_NONE = 0, FRAGMENT_FIRST = 1, FRAGMENT_LATER = 2 };

/*
 * One IP packet, either family. ICMP echo: the requester's port is the identifier, the other side's
 * is 0, so that a reply is the request's mirror image and a request from the other side is not.
 */
struct tuple {
	struct addr saddr, daddr;
	__be16 sport, dport;
	__u8 protocol;
	__u8 family; /* enum family */
	__u8 tcp_flags;
	__u8 ttl;
	__u8 icmp_type, icmp_code;
	__u8 fragment; /* enum fragment */
	__u8 pad;
	__u16 l4_off;
	__u16 pad2;
	__u32 fragment_id;
};

/* How far the parser got. Below PARSED_TUPLE there is no tuple. */
enum parsed {
	PARSED_L2 = 0,    /* neither IP nor ARP */
	PARSED_ARP = 1,
	PARSED_IP = 2,    /* IP, but nothing for the fast path: parse_full() finds out more */
	PARSED_TUPLE = 3, /* tuple and key are there */
};

enum tracking {
	TRACK_FLOW = 0,
	TRACK_RELATED = 1, /* an ICMP error; the key is that of the packet it carries */
	TRACK_NONE = 2,    /* ICMP that neither asks nor answers: judged packet by packet */
};

/* Which program has the packet; decides what may be done with it. */
enum hook {
	HOOK_CONTAINER = 1, /* from_container */
	HOOK_NETDEV = 2,
	HOOK_OVERLAY = 3,
	HOOK_HOST = 4,
	HOOK_TO_CONTAINER = 5,
	HOOK_TO_NETDEV = 6, /* only with the host firewall */
};

/* Does a program see what its endpoint sends, where the others see what it gets? */
static __always_inline bool is_outward(__u8 hook)
{
	return hook == HOOK_CONTAINER || hook == HOOK_TO_NETDEV;
}

/* What an event says beyond the tuple; zero until a stage knows better. */
struct report {
	__u32 src_id, dst_id;
	__u16 src_lxc, dst_lxc;
	__u16 source;   /* endpoint id that the packet is judged for */
	__u8 direction; /* enum direction, seen from source */
	__u8 ct_state;
	__u8 match;
	__u8 flags; /* EVENT_F_AUDITED, EVENT_F_SHADOW or 0 */
	__u8 file;
	__u8 due; /* 1: a trace event is due */
	__u16 line;
	__u8 told; /* 1: a verdict event has announced the flow; no trace event beside it */
	__u8 pad;
	__u32 rule, policy_id;
	__s32 verdict;
};

/* What is asked of policy about a connection: its ends, the opener's first. */
struct question {
	__u32 opener_id, receiver_id;
	__u16 opener_lxc, receiver_lxc; /* 0: not of this node, nothing to enforce there */
	__be16 dport;                   /* the receiver's; ICMP: the type that opens */
	__u8 protocol;
	__u8 fresh; /* 1: a new flow, whose verdict is reported */
	__u32 rule_egress, rule_ingress; /* the answer: what allowed it at either end */
	struct addr opener, receiver;    /* only with cfg_cidr_*: the ends' addresses */
};

/* The best entry so far, by value: the verifier forbids arithmetic on pointers, which compilers like.
 * rank: precedence, then shape + 1 in the lowest byte; 0 none. */
struct hit {
	__u64 rank;
	__u32 rule;
	__be16 proxy_port;
	__u8 flags; /* enum policy_entry_flags */
	__u8 peer;  /* 1: of the peer's or the CIDR's side */
};

/* Question and answer of one policy lookup. */
struct judgement {
	__u32 policy_id; /* of the first tier; in the answer, of the last that was asked */
	__u32 identity;  /* the peer's */
	__u32 cidr;      /* identity of the prefix that the peer's address is in; 0: no such side */
	__be16 dport;
	__u8 protocol;
	__u8 egress; /* 1 egress, 0 ingress */
	__u32 rule;  /* from here on: the answer */
	__u8 shape;  /* of the entry that decided, without SHAPE_EGRESS */
	__u8 match;  /* enum policy_match */
	__u8 enforced; /* 0: no tier says anything about this direction */
	__u8 pad;
	__be16 proxy_port; /* of a redirect */
	__u16 pad2;
	__u32 next_id; /* the tier after the last that was asked */
	struct hit best;
};

struct flow {
	struct ct_key key;
	struct tuple t;
	__u8 d; /* this packet's index in ct_entry.dir: 0 if its source is the key's a */
	__u8 tracking;
	__u8 parsed;
	__u8 hook;
	__u8 absent; /* 1: the fast path found no entry a moment ago */
	__u8 pad[3];
	__u32 revision; /* read before everything else in the slow path */
	__u32 carried;  /* source identity as the packet carries it, or as its address tells */
	__be32 carrier; /* outer source of a tunnelled packet */
	__u64 time;     /* of the packet's events; 0 until the first */
	struct report r;
	struct question q;
	struct judgement judgement, shadow; /* of one end: by its policy, by its shadow policy */
	struct ct_dir forward;
	struct ct_entry entry; /* a new connection is built here */
	__u8 buffer[112];      /* packets of our own are built here */
};

/* A negative reason for a stage to return; notes the place for the drop event. */
#define DROP(f, where, reason) ((f)->r.line = __LINE__, (f)->r.file = (where), -(int)(reason))

static __always_inline bool addr_equal(const struct addr *x, const struct addr *y)
{
	return x->q[0] == y->q[0] && x->q[1] == y->q[1];
}

static __always_inline bool addr_is_zero(const struct addr *x)
{
	return !(x->q[0] | x->q[1]);
}

static __always_inline void addr_set_ip4(struct addr *x, __be32 ip)
{
	x->q[0] = 0;
	x->w[2] = bpf_htonl(0xffff);
	x->w[3] = ip;
}

static __always_inline bool addr_is_link_local(const struct addr *x)
{
	return (x->w[0] & bpf_htonl(0xffc00000)) == bpf_htonl(0xfe800000);
}

/* Sorts the tuple's two ends into the key, and notes which of them is the sender. */
static __always_inline void set_key(struct flow *f, const struct tuple *t)
{
	bool swap;

	if (t->saddr.q[0] != t->daddr.q[0])
		swap = t->saddr.q[0] > t->daddr.q[0];
	else if (t->saddr.q[1] != t->daddr.q[1])
		swap = t->saddr.q[1] > t->daddr.q[1];
	else
		swap = t->sport > t->dport;
	f->d = swap;
	f->key.protocol = t->protocol;
	if (swap) {
		f->key.a = t->daddr;
		f->key.b = t->saddr;
		f->key.port_a = t->dport;
		f->key.port_b = t->sport;
	} else {
		f->key.a = t->saddr;
		f->key.b = t->daddr;
		f->key.port_a = t->sport;
		f->key.port_b = t->dport;
	}
}

#endif
