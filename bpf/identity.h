/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Who is behind an address: endpoints of this node, the ipcache for everyone else, the world
 * where neither knows. IPv4 addresses stand in the first four bytes of these keys.
 */
#ifndef FIMBRIA_IDENTITY_H
#define FIMBRIA_IDENTITY_H

#include "config.h"
#include "flow.h"
#include "maps.h"

static __always_inline void wire_address(__u8 ip[16], const struct addr *a, __u8 family)
{
	__be32 *w = (__be32 *)ip;

	if (family == FAMILY_IPV4) {
		w[0] = a->w[3];
		w[1] = w[2] = w[3] = 0;
	} else {
		__builtin_memcpy(ip, a, 16);
	}
}

/* The endpoint of this node with that address, the node itself included. */
static __always_inline struct endpoint_info *lookup_endpoint(const struct addr *a, __u8 family)
{
	struct endpoint_key key __attribute__((aligned(4))) = { .family = family };

	wire_address(key.ip, a, family);
	return bpf_map_lookup_elem(&cilium_lxc, &key);
}

static __always_inline struct ipcache_info *lookup_ipcache(const struct addr *a, __u8 family)
{
	struct ipcache_key key = { .family = family };

	key.prefixlen = 32 + (family == FAMILY_IPV4 ? 32 : 128);
	wire_address(key.ip, a, family);
	return bpf_map_lookup_elem(&cilium_ipcache, &key);
}

static __always_inline bool is_cluster_node(const struct addr *a, __u8 family)
{
	struct node_key key __attribute__((aligned(4))) = { .family = family };

	wire_address(key.ip, a, family);
	return bpf_map_lookup_elem(&cilium_node_map, &key);
}

static __always_inline __u32 world_identity(__u8 family)
{
	if (!cfg_ipv4 || !cfg_ipv6)
		return ID_WORLD;
	return family == FAMILY_IPV4 ? ID_WORLD_IPV4 : ID_WORLD_IPV6;
}

/*
 * Identity of an address outside this node. Never the host's: that is for the node's own
 * addresses, and those are endpoints.
 */
static __always_inline __u32 outside_identity(const struct ipcache_info *info, __u8 family)
{
	if (!info || info->sec_identity == ID_HOST || info->sec_identity == ID_UNKNOWN)
		return world_identity(family);
	return info->sec_identity;
}

static __always_inline __u32 scope_of(__u32 identity)
{
	return identity & ID_SCOPE_MASK;
}

static __always_inline bool is_world(__u32 identity)
{
	return identity == ID_WORLD || identity == ID_WORLD_IPV4 || identity == ID_WORLD_IPV6;
}

/*
 * A tunnel carries the nodes as remote-node and all the world as 2, and a connection remembers what
 * its packets carried. What either is to this node now, addresses tell.
 */
static __always_inline __u32 identity_of_vni(__u32 vni, const struct addr *a, __u8 family)
{
	bool world = is_world(vni) || scope_of(vni) == ID_SCOPE_CIDR;
	bool node = vni == ID_REMOTE_NODE || scope_of(vni) == ID_SCOPE_NODE;
	struct ipcache_info *info;
	__u32 known;

	if (!world && !node)
		return vni;
	info = lookup_ipcache(a, family);
	known = info ? info->sec_identity : ID_UNKNOWN;
	if (world)
		return scope_of(known) == ID_SCOPE_CIDR ? known : world_identity(family);
	if (known == ID_KUBE_APISERVER || scope_of(known) == ID_SCOPE_NODE)
		return known;
	return ID_REMOTE_NODE;
}

static __always_inline __u32 vni_of_identity(__u32 identity)
{
	if (identity == ID_HOST || scope_of(identity) == ID_SCOPE_NODE)
		return ID_REMOTE_NODE;
	if (is_world(identity) || scope_of(identity) == ID_SCOPE_CIDR)
		return ID_WORLD;
	return identity;
}

/*
 * What rules by CIDR see of a peer that is in the cluster: the identity of the longest prefix that
 * its address is in, if policy-cidr-match-mode says so; otherwise 0. Peers outside the cluster have
 * such an identity for their own.
 */
static __always_inline __u32 cidr_identity(__u32 identity, const struct addr *a, __u8 family)
{
	struct ipcache_key key = { .family = family };
	struct cidr_info *info;
	bool node;

	if (!cfg_cidr_nodes && !cfg_cidr_pods)
		return 0;
	if (!identity || is_world(identity) || scope_of(identity) == ID_SCOPE_CIDR)
		return 0;
	node = identity == ID_HOST || identity == ID_REMOTE_NODE ||
	       identity == ID_KUBE_APISERVER || scope_of(identity) == ID_SCOPE_NODE;
	if (!(node ? cfg_cidr_nodes : cfg_cidr_pods))
		return 0;
	key.prefixlen = 32 + (family == FAMILY_IPV4 ? 32 : 128);
	wire_address(key.ip, a, family);
	info = bpf_map_lookup_elem(&cilium_cidr, &key);
	return info ? info->identity : 0;
}

#endif
