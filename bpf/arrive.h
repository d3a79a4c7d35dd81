/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the programs that see the node's own traffic have in common. Only packets for pods of this
 * node are judged, with the host firewall also those from and to the node's own addresses. Which
 * they are is found out from the IP header alone, because other traffic may be of any kind.
 */
#ifndef FIMBRIA_ARRIVE_H
#define FIMBRIA_ARRIVE_H

#include "forward.h"

/* Reads the IP header. Returns 0, or a negative reason. */
static __always_inline int read_header(struct __sk_buff *skb, struct flow *f)
{
	return f->parsed == PARSED_IP ? parse_l3(skb, &f->t, sizeof(struct ethhdr)) : 0;
}

/* Neighbours on a link looking for each other, after read_header(); never forwarded. */
static __always_inline bool is_neighbour_discovery(struct __sk_buff *skb, struct flow *f)
{
	return f->parsed == PARSED_IP && f->t.family == FAMILY_IPV6 &&
	       f->t.protocol == IPPROTO_ICMPV6 && f->t.ttl == ND_HOPS &&
	       f->t.fragment == FRAGMENT_NONE && parse_ports(skb, &f->t) == 0 &&
	       is_link_icmp6(&f->t);
}

/* The sender that the kernel routes for: the host is who has one of the node's addresses. */
static __always_inline void find_routed_source(struct flow *f)
{
	struct endpoint_info *ep = lookup_endpoint(&f->t.saddr, f->t.family);

	if (ep && ep->flags & ENDPOINT_F_HOST) {
		f->r.src_id = ID_HOST;
		f->r.src_lxc = cfg_host_firewall ? ENDPOINT_HOST : 0;
	} else {
		f->r.src_id = outside_identity(lookup_ipcache(&f->t.saddr, f->t.family),
					       f->t.family);
	}
	f->carried = f->r.src_id;
}

/*
 * The rest of the header. The node may use protocols that have no connections here: such packets
 * are judged one by one. Returns 0, or a negative reason.
 */
static __always_inline int read_rest(struct __sk_buff *skb, struct flow *f)
{
	int ret;

	if (f->parsed != PARSED_IP)
		return 0;
	ret = parse_full(skb, f);
	if (!cfg_host_firewall || ret != -DROP_CT_UNKNOWN_PROTO ||
	    (f->r.dst_lxc && f->r.dst_lxc != ENDPOINT_HOST))
		return ret;
	f->r.file = FILE_NONE;
	f->r.line = 0;
	f->t.sport = f->t.dport = 0;
	f->tracking = TRACK_NONE;
	f->parsed = PARSED_TUPLE;
	return 0;
}

/*
 * The tunnel's own packets have a source port for each flow inside. All of one direction between
 * two nodes are one connection: their sender's port does not count.
 */
static __always_inline void merge_tunnel(struct flow *f)
{
	__u8 sender = (f->d ^ (f->tracking == TRACK_RELATED)) & 1;
	__be16 port = bpf_htons(cfg_overlay_port);

	if (!cfg_host_firewall || !cfg_tunnel || f->key.protocol != IPPROTO_UDP)
		return;
	if (sender == 0 && f->key.port_b == port)
		f->key.port_a = 0;
	else if (sender == 1 && f->key.port_a == port)
		f->key.port_b = 0;
}

/* Judges a packet whose ends are in f->r and f->carried, and sends it on. */
static __always_inline int deliver(struct __sk_buff *skb, struct flow *f)
{
	int ret;

	report_hook(f);
	ret = read_rest(skb, f);
	if (ret < 0)
		return ret;
	if (f->hook == HOOK_NETDEV || f->hook == HOOK_TO_NETDEV)
		merge_tunnel(f);
	ret = decide(skb, f);
	return ret < 0 ? ret : dispatch(skb, f);
}

#endif
