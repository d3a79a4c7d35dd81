/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The policy lookup as a callable: a batch of questions in, answers out. */
#include "judge.h"
#include "licence.h"
#include "policy.h"

/* Index 0: the batch. A map, because offsets into a program's context must be constant. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct judge_batch);
	__uint(max_entries, 1);
} judge_cases SEC(".maps");

/* Verified once, instead of in every turn of the loop below. */
__global int answer(struct judgement *j)
{
	return j ? policy_judge(j) : -DROP_INVALID;
}

SEC("syscall")
int judge_policy(void *ctx __attribute__((unused)))
{
	struct judge_batch *batch;
	__u32 zero = 0, i;

	batch = bpf_map_lookup_elem(&judge_cases, &zero);
	if (!batch)
		return 1;
	for (i = 0; i < JUDGE_CASES_MAX && i < batch->count; i++) {
		struct judge_case *c = &batch->cases[i];
		struct judgement j = {
			.policy_id = c->policy_id,
			.identity = c->identity,
			.cidr = c->cidr,
			.dport = c->dport,
			.protocol = c->protocol,
			.egress = c->egress,
		};

		c->verdict = answer(&j);
		c->rule_id = j.rule;
		c->tier = j.policy_id;
		c->proxy_port = j.proxy_port;
		c->shape = j.shape;
		c->match = j.match;
		c->enforced = j.enforced;
	}
	return 0;
}
