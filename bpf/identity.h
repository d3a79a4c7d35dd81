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

/* A tunnel carries the nodes as remote-node and all the world as 2; addresses tell which. */
static __always_inline __u32 identity_of_vni(__u32 vni, const struct addr *a, __u8 family)
{
	struct ipcache_info *info;

	if (vni == ID_WORLD)
		return world_identity(family);
	if (vni != ID_REMOTE_NODE)
		return vni;
	info = lookup_ipcache(a, family);
	return info && info->sec_identity == ID_KUBE_APISERVER ? ID_KUBE_APISERVER : vni;
}

static __always_inline __u32 vni_of_identity(__u32 identity)
{
	if (identity == ID_HOST)
		return ID_REMOTE_NODE;
	if (identity == ID_WORLD_IPV4 || identity == ID_WORLD_IPV6)
		return ID_WORLD;
	return identity;
}

#endif
