/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which question a packet puts to policy, and what becomes of the answer: the ends that are of this
 * node are judged one after the other, and what was judged is counted and reported, beside what a
 * shadow policy would have said. The lookup itself is policy.h's.
 */
#ifndef FIMBRIA_JUDGEMENT_H
#define FIMBRIA_JUDGEMENT_H

#include "events.h"
#include "identity.h"
#include "policy.h"

/* The endpoint that a program's events and counters are about. */
static __always_inline void report_hook(struct flow *f)
{
	/* from_host sees both: what the node's pods get, and what the node sends elsewhere */
	bool egress = is_outward(f->hook) || (f->hook == HOOK_HOST && !f->r.dst_lxc);

	f->r.source = egress ? f->r.src_lxc : f->r.dst_lxc;
	f->r.direction = egress ? DIR_EGRESS : DIR_INGRESS;
}

/* An end of a connection that is of this node, and whom it talks to. */
struct end {
	__u32 lxc;
	__u32 peer;
	const struct addr *address; /* the peer's */
	bool egress;
};

/* Judges an end by a policy and its tiers. Returns as policy_judge does. */
static __always_inline int judge_by(struct flow *f, const struct end *end, __u32 policy_id,
				    struct judgement *j)
{
	j->policy_id = policy_id;
	j->identity = end->peer;
	j->cidr = cidr_identity(end->peer, end->address, f->t.family);
	j->dport = f->q.dport;
	j->protocol = f->q.protocol;
	j->egress = end->egress;
	return policy_judge(j);
}

static __always_inline void report_judgement(struct flow *f, const struct judgement *j)
{
	f->r.policy_id = j->policy_id;
	f->r.rule = j->rule;
	f->r.match = j->match;
}

/* The policy that holds: a change that nobody confirmed in time is taken back. */
static __always_inline __u32 policy_in_force(const struct policy_ref *ref)
{
	__u32 now = bpf_jiffies64();

	return ref->until && (__s32)(ref->until - now) < 0 ? ref->fallback_id : ref->policy_id;
}

/* Reports what the shadow policy says, where the real one says otherwise. */
static __always_inline void compare_shadow(struct __sk_buff *skb, struct flow *f,
					   const struct end *end, __u32 policy_id, bool denied)
{
	struct judgement *j = &f->shadow;
	int ret;

	ret = judge_by(f, end, policy_id, j);
	if ((ret < 0) == denied)
		return;
	count_metric(ret < 0 ? METRIC_SHADOW_DENIED : METRIC_SHADOW_ALLOWED, f->r.direction,
		     skb->len);
	report_judgement(f, j);
	f->r.flags |= EVENT_F_SHADOW;
	f->r.verdict = ret < 0 ? ret : bpf_ntohs(j->proxy_port);
	emit(skb, f, EVENT_POLICY_VERDICT, 0);
	f->r.flags &= ~EVENT_F_SHADOW;
	f->r.verdict = 0;
}

/* Reports a verdict that lets a new flow pass, or sends it to a proxy. */
static __always_inline void report_verdict(struct __sk_buff *skb, struct flow *f,
					   const struct judgement *j)
{
	f->r.told = 1;
	f->r.verdict = bpf_ntohs(j->proxy_port);
	emit(skb, f, EVENT_POLICY_VERDICT, 0);
	f->r.verdict = 0;
}

/* One end's policy. Returns 0 or a negative reason. */
static __always_inline int judge_end(struct __sk_buff *skb, struct flow *f, const struct end *end,
				     __u32 *rule)
{
	struct policy_ref *ref = bpf_map_lookup_elem(&cilium_policy_ref, &end->lxc);
	struct judgement *j = &f->judgement;
	bool audit;
	int ret;

	f->r.source = end->lxc;
	f->r.direction = end->egress ? DIR_EGRESS : DIR_INGRESS;
	f->r.flags = 0;
	if (!ref)
		return DROP(f, FILE_JUDGEMENT, DROP_EP_NOT_READY);
	audit = ref->flags & POLICY_REF_F_AUDIT;
	ret = judge_by(f, end, policy_in_force(ref), j);
	if (f->q.fresh && ref->shadow_id)
		compare_shadow(skb, f, end, ref->shadow_id, ret < 0);
	report_judgement(f, j);
	if (j->rule)
		count_rule(j->rule, skb->len);
	if (ret < 0 && !audit)
		return DROP(f, FILE_JUDGEMENT, -ret);
	if (ret < 0 || j->proxy_port)
		f->r.flags |= audit ? EVENT_F_AUDITED : 0;
	*rule = j->rule;
	if (f->q.fresh && j->enforced)
		report_verdict(skb, f, j);
	if (j->proxy_port && !audit)
		return DROP(f, FILE_JUDGEMENT, DROP_NO_PROXY);
	return 0;
}

/* Both ends' policies, as far as they are of this node. */
__global int judge(struct __sk_buff *skb, struct flow *f)
{
	struct end end;
	int ret;

	if (!f)
		return -DROP_INVALID;
	f->q.rule_egress = RULE_NONE;
	f->q.rule_ingress = RULE_NONE;
	if (f->q.opener_lxc) {
		end.lxc = f->q.opener_lxc;
		end.peer = f->q.receiver_id;
		end.address = &f->q.receiver;
		end.egress = true;
		ret = judge_end(skb, f, &end, &f->q.rule_egress);
		if (ret < 0)
			return ret;
	}
	if (f->q.receiver_lxc) {
		end.lxc = f->q.receiver_lxc;
		end.peer = f->q.opener_id;
		end.address = &f->q.opener;
		end.egress = false;
		ret = judge_end(skb, f, &end, &f->q.rule_ingress);
		if (ret < 0)
			return ret;
	}
	report_hook(f);
	return 0;
}

/* Port that policy knows a tracked connection by: its receiver's. */
static __always_inline __be16 policy_port(const struct flow *f, __u8 opener)
{
	if (f->key.protocol == IPPROTO_ICMP)
		return bpf_htons(ICMP_ECHO);
	if (f->key.protocol == IPPROTO_ICMPV6)
		return bpf_htons(ICMPV6_ECHO_REQUEST);
	return opener ? f->key.port_a : f->key.port_b;
}

/* Addresses are only looked at where rules by CIDR see more than identities. */
static __always_inline void ask_about_ends(struct flow *f, const struct addr *opener,
					   const struct addr *receiver)
{
	if (cfg_cidr_nodes || cfg_cidr_pods) {
		f->q.opener = *opener;
		f->q.receiver = *receiver;
	}
}

/* The packet itself is what is judged: it opens, or belongs to nothing. */
static __always_inline void ask_about_packet(struct flow *f)
{
	f->q.opener_id = f->r.src_id;
	f->q.receiver_id = f->r.dst_id;
	f->q.opener_lxc = f->r.src_lxc;
	f->q.receiver_lxc = f->r.dst_lxc;
	f->q.protocol = f->t.protocol;
	f->q.dport = is_icmp(f->t.protocol) ? bpf_htons(f->t.icmp_type) : f->t.dport;
	ask_about_ends(f, &f->t.saddr, &f->t.daddr);
}

/* The entry's connection is what is judged, for a packet that travels against it. */
__global int ask_about_entry(struct flow *f, const struct ct_entry *e)
{
	const struct addr *from, *to;
	__u8 opener;

	if (!f || !e)
		return -DROP_INVALID;
	opener = e->orig & 1;
	from = opener ? &f->key.b : &f->key.a;
	to = opener ? &f->key.a : &f->key.b;
	f->q.opener_lxc = e->src_lxc;
	f->q.receiver_lxc = e->dst_lxc;
	f->q.opener_id = identity_of_vni(e->dir[opener].identity, from, f->t.family);
	f->q.protocol = f->key.protocol;
	f->q.dport = policy_port(f, opener);
	f->q.fresh = 0;
	ask_about_ends(f, from, to);
	if (f->tracking == TRACK_RELATED) {
		f->q.receiver_id = identity_of_vni(e->dir[!opener].identity, to, f->t.family);
		return 0;
	}
	/* of a reply both ends were looked up just now */
	f->q.opener_lxc = f->r.dst_lxc;
	f->q.receiver_lxc = f->r.src_lxc;
	f->q.receiver_id = f->r.src_id;
	if (f->r.dst_lxc)
		f->q.opener_id = f->r.dst_id;
	return 0;
}

#endif
