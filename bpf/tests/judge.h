/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A batch of policy lookups, element 0 of the map judge_cases: the caller fills count and the first
 * part of each case and runs judge_policy (judge.bpf.c), which fills the second part. Byte order as
 * in struct policy_key.
 */
#ifndef FIMBRIA_TESTS_JUDGE_H
#define FIMBRIA_TESTS_JUDGE_H

#include <linux/types.h>

enum { JUDGE_CASES_MAX = 512 };

struct judge_case {
	__u32 policy_id;
	__u32 identity; /* the peer's */
	__u32 cidr;     /* of the prefix that the peer's address is in; 0 none */
	__be16 dport;
	__u8 protocol;
	__u8 egress; /* 1 egress, 0 ingress */
	/* the answer */
	__s32 verdict; /* 0 allow, or minus the drop reason */
	__u32 rule_id;
	__u32 tier;    /* the policy that decided, or the last that was asked */
	__be16 proxy_port;
	__u8 shape;    /* of the entry that decided */
	__u8 match;    /* enum policy_match */
	__u8 enforced; /* 0: no policy says anything about this direction */
	__u8 pad[3];
};

struct judge_batch {
	__u32 count; /* at most JUDGE_CASES_MAX */
	__u32 pad;
	struct judge_case cases[JUDGE_CASES_MAX];
};

#endif
