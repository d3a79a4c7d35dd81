/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Policy lookup (docs/DESIGN.md, "Policy"). A key's shape says how much of protocol and port it
 * names; the lookup only visits shapes that the policy has, from the longest to the shortest.
 *
 *   side   identity   shape      example                       match
 *   peer   peer's     2..17      from A to TCP 80-87           L3-L4
 *   peer   peer's     1          from A, any TCP               L3-proto
 *   peer   peer's     0          from A                        L3-only
 *   any    0          2..17      from anyone to TCP 80         L4-only
 *   any    0          1          from anyone, any TCP          proto-only
 *   any    0          0          from anyone                   all
 *
 * Each side's first hit counts. A deny on either side wins, named after the peer's side if that
 * one denies; otherwise the longer shape, the peer's side at equal length.
 */
#ifndef FIMBRIA_POLICY_H
#define FIMBRIA_POLICY_H

#include "flow.h"
#include "maps.h"

enum { SHAPES = 18 };

/* Question and answer of one policy lookup. */
struct judgement {
	__u32 policy_id;
	__u32 identity; /* the peer's */
	__be16 dport;
	__u8 protocol;
	__u8 egress; /* 1 egress, 0 ingress */
	__u32 rule;  /* from here on: the answer */
	__u8 shape;  /* of the entry that decided, without SHAPE_EGRESS */
	__u8 match;  /* enum policy_match */
	__u8 enforced; /* 0: the policy says nothing about this direction */
	__u8 pad;
	__be16 proxy_port;
	__u16 pad2;
};

/* What of protocol and port a shape names, by shape. */
static const __u8 shape_protocol[32] = {
	0,    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
	0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
};
static const __u16 shape_port[32] = {
	0,      0,      0x8000, 0xc000, 0xe000, 0xf000, 0xf800, 0xfc00, 0xfe00,
	0xff00, 0xff80, 0xffc0, 0xffe0, 0xfff0, 0xfff8, 0xfffc, 0xfffe, 0xffff,
};

/* Index of the highest bit, by the product of a de Bruijn number with all bits below it set;
 * volatile, or the compiler drops the mask that the verifier needs. */
static const volatile __u8 highest[32] = {
	0, 9,  1,  10, 13, 21, 2,  29, 11, 14, 16, 18, 22, 25, 3, 30,
	8, 12, 20, 28, 15, 17, 24, 7,  19, 27, 23, 6,  26, 5,  4, 31,
};

/* Without branches, each of which would double the verifier's work per turn of the loop. */
static __always_inline __u32 highest_bit(__u32 mask)
{
	mask |= mask >> 1;
	mask |= mask >> 2;
	mask |= mask >> 4;
	mask |= mask >> 8;
	mask |= mask >> 16;
	return highest[mask * 0x07c4acddu >> 27] & 31;
}

/* A side's first hit, by value: the verifier forbids arithmetic on pointers, which compilers like. */
struct hit {
	__u32 rule;
	__be16 proxy_port;
	__u8 flags; /* enum policy_entry_flags */
	__u8 shape;
};

/* First hit on one side; false if there is none. */
static __always_inline bool policy_side(void *entries, const struct judgement *j, __u32 identity,
					__u32 shapes, struct hit *hit)
{
	struct policy_key key = { .identity = identity };
	__u8 way = j->egress ? SHAPE_EGRESS : 0;
	struct policy_entry *entry;
	__u32 s;
	int i;

	for (i = 0; i < SHAPES; i++) {
		if (!shapes)
			return false;
		s = highest_bit(shapes);
		shapes &= ~(1u << s);
		key.protocol = j->protocol & shape_protocol[s];
		key.dport = j->dport & bpf_htons(shape_port[s]);
		key.shape = s | way;
		entry = bpf_map_lookup_elem(entries, &key);
		if (entry) {
			hit->rule = entry->rule_id;
			hit->proxy_port = entry->proxy_port;
			hit->flags = entry->flags;
			hit->shape = s;
			return true;
		}
	}
	return false;
}

static __always_inline __u8 match_of(__u8 shape, bool peer)
{
	if (shape == SHAPE_ANY)
		return peer ? MATCH_L3_ONLY : MATCH_ALL;
	if (shape == SHAPE_PROTO)
		return peer ? MATCH_L3_PROTO : MATCH_PROTO_ONLY;
	return peer ? MATCH_L3_L4 : MATCH_L4_ONLY;
}

/* Answers j. Returns 0 for allow, or a negative reason. */
static __always_inline int policy_judge(struct judgement *j)
{
	bool by_peer, has_peer = false, has_any = false;
	struct hit peer = {}, any = {};
	struct policy_info *info;
	void *entries;
	__u32 id, way;

	j->rule = RULE_NONE;
	j->shape = 0;
	j->match = MATCH_NONE;
	j->proxy_port = 0;
	j->enforced = 1;
	id = j->policy_id;
	way = j->egress & 1;
	info = bpf_map_lookup_elem(&cilium_policy_info, &id);
	if (!info)
		return -DROP_EP_NOT_READY;
	if (!(info->flags & (way ? POLICY_F_EGRESS : POLICY_F_INGRESS))) {
		j->enforced = 0;
		return 0;
	}
	entries = bpf_map_lookup_elem(&cilium_policy, &id);
	if (entries) {
		has_peer = policy_side(entries, j, j->identity, info->peer_shapes[way], &peer);
		has_any = policy_side(entries, j, 0, info->any_shapes[way], &any);
	}
	if (!has_peer && !has_any)
		return -DROP_POLICY;
	if (peer.flags & POLICY_ENTRY_F_DENY)
		by_peer = true;
	else if (any.flags & POLICY_ENTRY_F_DENY)
		by_peer = false;
	else
		by_peer = has_peer && (!has_any || peer.shape >= any.shape);
	if (by_peer)
		any = peer;
	j->shape = any.shape;
	j->match = match_of(any.shape, by_peer);
	j->rule = any.rule;
	j->proxy_port = any.proxy_port;
	return any.flags & POLICY_ENTRY_F_DENY ? -DROP_POLICY_DENY : 0;
}

#endif
