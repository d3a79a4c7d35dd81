/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tunnel keys: the sender's identity travels in the VNI. */
#ifndef FIMBRIA_ENCAP_H
#define FIMBRIA_ENCAP_H

#include "helpers.h"
#include "identity.h"

static __always_inline int encapsulate(struct __sk_buff *skb, __u32 identity, __be32 endpoint)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = vni_of_identity(identity),
		.remote_ipv4 = bpf_ntohl(endpoint),
	};

	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), BPF_F_ZERO_CSUM_TX) < 0
		       ? -DROP_WRITE_ERROR
		       : 0;
}

/* Identity and outer source (network order) of a packet from the overlay. */
static __always_inline int decapsulated(struct __sk_buff *skb, __u32 *vni, __be32 *source)
{
	struct bpf_tunnel_key key = {};

	if (bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0) < 0)
		return -DROP_NO_TUNNEL_KEY;
	*vni = key.tunnel_id;
	*source = bpf_htonl(key.remote_ipv4);
	return 0;
}

#endif
