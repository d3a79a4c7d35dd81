/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Policy lookup (docs/DESIGN.md, "Policy", "Tiers", "Precedence"). A key's shape says how much of
 * protocol and port it names; the lookup only visits shapes that the policy has, from the longest
 * to the shortest.
 *
 *   side   identity   shape      example                       match
 *   peer   peer's     2..17      from A to TCP 80-87           L3-L4
 *   peer   peer's     1          from A, any TCP               L3-proto
 *   peer   peer's     0          from A                        L3-only
 *   cidr   prefix's   as above   from 10.0.0.0/8, a node in it
 *   any    0          2..17      from anyone to TCP 80         L4-only
 *   any    0          1          from anyone, any TCP          proto-only
 *   any    0          0          from anyone                   all
 *
 * Each side's first hit counts. Of these the highest precedence decides, then the longer shape,
 * then the side that stands first above. What a tier leaves open goes to the next:
 *
 *   direction               hit               miss
 *   not enforced            next              next
 *   enforced                it decides        drop
 *   enforced and open       it decides        next
 *   any, PASS entry         next
 *   no tier is left         allowed, by RULE_ALLOW_ALL if any tier was enforced
 */
#ifndef FIMBRIA_POLICY_H
#define FIMBRIA_POLICY_H

#include "flow.h"
#include "maps.h"

enum { SHAPES = 18, TIERS = 3, POLICY_NEXT = 1 };

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

/* Takes a side's first hit if it is better than what the sides before it had. */
static __always_inline void policy_side(void *entries, struct judgement *j, __u32 identity,
					__u32 shapes)
{
	struct policy_key key = { .identity = identity };
	struct hit *best = &j->best;
	__u8 way = j->egress ? SHAPE_EGRESS : 0;
	struct policy_entry *entry;
	__u64 rank;
	__u32 s;
	int i;

	for (i = 0; i < SHAPES; i++) {
		if (!shapes)
			return;
		s = highest_bit(shapes);
		shapes &= ~(1u << s);
		key.protocol = j->protocol & shape_protocol[s];
		key.dport = j->dport & bpf_htons(shape_port[s]);
		key.shape = s | way;
		entry = bpf_map_lookup_elem(entries, &key);
		if (entry) {
			rank = (__u64)entry->precedence << 8 | (s + 1);
			if (rank <= best->rank)
				return;
			best->rank = rank;
			best->rule = entry->rule_id;
			best->proxy_port = entry->proxy_port;
			best->flags = entry->flags;
			best->peer = identity != 0;
			return;
		}
	}
}

static __always_inline __u8 match_of(__u8 shape, bool peer)
{
	if (shape == SHAPE_ANY)
		return peer ? MATCH_L3_ONLY : MATCH_ALL;
	if (shape == SHAPE_PROTO)
		return peer ? MATCH_L3_PROTO : MATCH_PROTO_ONLY;
	return peer ? MATCH_L3_L4 : MATCH_L4_ONLY;
}

/* Asks one tier, j->next_id. Returns 0 for allow, POLICY_NEXT, or a negative reason. */
__global int policy_tier(struct judgement *j)
{
	__u32 id, enforced, open, peer_shapes, any_shapes;
	struct policy_info *info;
	void *entries;

	if (!j)
		return -DROP_INVALID;
	id = j->next_id;
	info = bpf_map_lookup_elem(&cilium_policy_info, &id);
	if (!info)
		return -DROP_EP_NOT_READY;
	j->policy_id = id;
	j->next_id = info->next_id;
	if (j->egress) {
		enforced = info->flags & POLICY_F_EGRESS;
		open = info->flags & POLICY_F_EGRESS_OPEN;
		peer_shapes = info->peer_shapes[1];
		any_shapes = info->any_shapes[1];
	} else {
		enforced = info->flags & POLICY_F_INGRESS;
		open = info->flags & POLICY_F_INGRESS_OPEN;
		peer_shapes = info->peer_shapes[0];
		any_shapes = info->any_shapes[0];
	}
	if (!enforced)
		return POLICY_NEXT;
	j->enforced = 1;
	j->best.rank = 0;
	entries = bpf_map_lookup_elem(&cilium_policy, &id);
	if (entries) {
		policy_side(entries, j, j->identity, peer_shapes);
		if (j->cidr)
			policy_side(entries, j, j->cidr, peer_shapes);
		policy_side(entries, j, 0, any_shapes);
	}
	if (!j->best.rank)
		return open ? POLICY_NEXT : -DROP_POLICY;
	if (j->best.flags & POLICY_ENTRY_F_PASS)
		return POLICY_NEXT;
	j->shape = (__u8)j->best.rank - 1;
	j->match = match_of(j->shape, j->best.peer);
	j->rule = j->best.rule;
	if (j->best.flags & POLICY_ENTRY_F_DENY)
		return -DROP_POLICY_DENY;
	j->proxy_port = j->best.proxy_port;
	return 0;
}

/* Answers j. Returns 0 for allow (proxy_port: a redirect), or a negative reason. */
static __always_inline int policy_judge(struct judgement *j)
{
	int i, ret;

	j->rule = RULE_NONE;
	j->shape = 0;
	j->match = MATCH_NONE;
	j->proxy_port = 0;
	j->enforced = 0;
	j->next_id = j->policy_id;
	for (i = 0; i < TIERS; i++) {
		ret = policy_tier(j);
		if (ret != POLICY_NEXT)
			return ret;
		if (!j->next_id)
			break;
	}
	if (j->next_id)
		return -DROP_POLICY; /* a chain that is too long has not said all it has to say */
	if (j->enforced) {
		j->rule = RULE_ALLOW_ALL;
		j->match = MATCH_ALL;
	}
	return 0;
}

#endif
