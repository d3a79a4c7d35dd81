/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tunnel keys: the sender's identity travels in the VNI. */
#ifndef FIMBRIA_ENCAP_H
#define FIMBRIA_ENCAP_H

#include "helpers.h"
#include "identity.h"

/* The first two fields of the kernel's structure are all we need; it takes and gives just them. */
enum { TUNNEL_KEY_SHORT = offsetof(struct bpf_tunnel_key, remote_ipv6[1]) };

struct tunnel_key {
	__u32 vni;
	__be32 remote; /* host order, as the kernel's helper has it */
};

_Static_assert(sizeof(struct tunnel_key) == TUNNEL_KEY_SHORT, "what the kernel's helper takes");

static __always_inline int encapsulate(struct __sk_buff *skb, __u32 identity, __be32 endpoint)
{
	struct tunnel_key key = {
		.vni = vni_of_identity(identity),
		.remote = bpf_ntohl(endpoint),
	};

	return bpf_skb_set_tunnel_key(skb, (void *)&key, sizeof(key), BPF_F_ZERO_CSUM_TX) < 0
		       ? -DROP_WRITE_ERROR
		       : 0;
}

/* Identity and outer source (network order) of a packet from the overlay. */
static __always_inline int decapsulated(struct __sk_buff *skb, __u32 *vni, __be32 *source)
{
	struct tunnel_key key;

	if (bpf_skb_get_tunnel_key(skb, (void *)&key, sizeof(key), 0) < 0)
		return -DROP_NO_TUNNEL_KEY;
	*vni = key.vni;
	*source = bpf_htonl(key.remote);
	return 0;
}

#endif
