/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who is behind an address, as a callable: a batch of addresses in, identities out. The caller
 * fills count and address and family of each case, and runs identify.
 */
#include "identity.h"
#include "licence.h"

enum { IDENTIFY_CASES_MAX = 256 };

struct identify_case {
	struct addr address;
	__u32 family;
	/* the answer */
	__u32 identity;
	__u32 cidr; /* what rules by CIDR see of it beside that; 0 nothing */
	__u32 pad;
};

struct identify_batch {
	__u32 count; /* at most IDENTIFY_CASES_MAX */
	__u32 pad;
	struct identify_case cases[IDENTIFY_CASES_MAX];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct identify_batch);
	__uint(max_entries, 1);
} identify_cases SEC(".maps");

/* Verified once, instead of in every turn of the loop below. */
__global int answer(struct identify_case *c)
{
	struct endpoint_info *ep;

	if (!c)
		return 1;
	ep = lookup_endpoint(&c->address, c->family);
	c->identity = ep ? ep->sec_id
			 : outside_identity(lookup_ipcache(&c->address, c->family), c->family);
	c->cidr = cidr_identity(c->identity, &c->address, c->family);
	return 0;
}

/* Not a syscall program: those may not use tries. */
SEC("tc")
int identify(struct __sk_buff *skb __attribute__((unused)))
{
	struct identify_batch *batch;
	__u32 zero = 0, i;

	batch = bpf_map_lookup_elem(&identify_cases, &zero);
	if (!batch)
		return 1;
	for (i = 0; i < IDENTIFY_CASES_MAX && i < batch->count; i++)
		answer(&batch->cases[i]);
	return 0;
}
