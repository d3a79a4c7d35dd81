/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Where a packet goes on. What is known of the destination comes first:
 *
 *   endpoint of this node, a pod    PEER or REDIRECT into it
 *   the node itself                 STACK
 *   behind a tunnel endpoint        TUNNEL
 *   anything else, BPF routing      NEIGH by the kernel's FIB; STACK if that has no route, so
 *                                   that the kernel answers "unreachable" in its own words
 *   anything else, legacy routing   STACK
 */
#ifndef FIMBRIA_FIB_H
#define FIMBRIA_FIB_H

#include "config.h"
#include "flow.h"
#include "identity.h"
#include "rewrite.h"

enum { AF_IP4 = 2, AF_IP6 = 10, NEEDS_ROUTE = 0xff };

/* Delivery to a pod of this node. redirect_peer works from ingress hooks only. */
static __always_inline void forward_local(struct flow *f, const struct endpoint_info *ep)
{
	if (f->hook == HOOK_TO_CONTAINER) {
		f->forward.action = ACTION_STACK; /* the kernel is delivering it already */
		return;
	}
	f->forward.action = cfg_host_routing && f->hook != HOOK_HOST ? ACTION_PEER : ACTION_REDIRECT;
	f->forward.oif = ep->ifindex;
	copy_mac(f->forward.dmac, ep->mac);
	copy_mac(f->forward.smac, ep->node_mac);
}

static __always_inline bool is_tunnelled(const struct ipcache_info *info)
{
	return cfg_tunnel && info->tunnel_endpoint && !(info->flags & IPCACHE_F_SKIP_TUNNEL);
}

static __always_inline void forward_tunnel(struct flow *f, const struct ipcache_info *info)
{
	f->forward.action = ACTION_TUNNEL;
	f->forward.oif = cfg_overlay_ifindex;
	f->forward.nexthop = info->tunnel_endpoint;
}

/*
 * Whether the destination looks like a pod of this node; decides what is looked up first. What
 * arrives is mostly for this node.
 */
static __always_inline bool looks_near(const struct flow *f)
{
	if (f->hook != HOOK_CONTAINER)
		return true;
	if (f->t.family == FAMILY_IPV4)
		return !((f->t.daddr.w[3] ^ cfg_router_ip4) & bpf_htonl(0xffffff00));
	return f->t.daddr.q[0] == cfg_router_ip6.q[0];
}

static __always_inline bool find_endpoint(struct flow *f)
{
	struct endpoint_info *ep = lookup_endpoint(&f->t.daddr, f->t.family);

	if (!ep)
		return false;
	if (ep->flags & ENDPOINT_F_HOST) {
		f->r.dst_id = ID_HOST;
		f->r.dst_lxc = cfg_host_firewall ? ENDPOINT_HOST : 0;
		f->forward.action = ACTION_STACK;
		return true;
	}
	f->r.dst_id = ep->sec_id;
	f->r.dst_lxc = ep->lxc_id;
	forward_local(f, ep);
	return true;
}

/*
 * Who the packet is for, and how it goes there if that needs no routing table. Endpoints of this
 * node come before the ipcache; only an address that the ipcache has behind a tunnel cannot be one.
 */
static __always_inline void find_destination(struct flow *f)
{
	bool near = looks_near(f);
	struct ipcache_info *info;

	f->forward.oif = 0;
	f->forward.nexthop = 0;
	if (near && find_endpoint(f))
		return;
	info = lookup_ipcache(&f->t.daddr, f->t.family);
	if (info && is_tunnelled(info)) {
		f->r.dst_id = outside_identity(info, f->t.family);
		forward_tunnel(f, info);
		return;
	}
	if (!near && find_endpoint(f))
		return;
	f->r.dst_id = outside_identity(info, f->t.family);
	f->forward.action =
		cfg_host_routing && f->hook == HOOK_CONTAINER ? NEEDS_ROUTE : ACTION_STACK;
}

/* Asks the routing table, once the packet may go. An IPv6 gateway is looked up when sending. */
static __always_inline int find_route(struct __sk_buff *skb, struct flow *f)
{
	struct bpf_fib_lookup fib = {};
	long ret;

	if (f->forward.action != NEEDS_ROUTE)
		return 0;
	f->forward.action = ACTION_STACK;
	fib.ifindex = skb->ifindex;
	if (f->t.family == FAMILY_IPV4) {
		fib.family = AF_IP4;
		fib.ipv4_src = f->t.saddr.w[3];
		fib.ipv4_dst = f->t.daddr.w[3];
	} else {
		fib.family = AF_IP6;
		__builtin_memcpy(fib.ipv6_src, &f->t.saddr, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &f->t.daddr, sizeof(fib.ipv6_dst));
	}
	ret = bpf_fib_lookup(skb, &fib, sizeof(fib), 0);
	if (ret < 0)
		return DROP(f, FILE_FIB, DROP_NO_FIB);
	if (ret != BPF_FIB_LKUP_RET_SUCCESS && ret != BPF_FIB_LKUP_RET_NO_NEIGH)
		return 0;
	f->forward.action = ACTION_NEIGH;
	f->forward.oif = fib.ifindex;
	f->forward.nexthop = fib.family == AF_IP4 ? fib.ipv4_dst : 0;
	return 0;
}

#endif
