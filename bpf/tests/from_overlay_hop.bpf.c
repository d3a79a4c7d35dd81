/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A packet as it comes out of the tunnel, cb[0] the VNI, cb[1] the outer source; from_overlay. */
#include "../from_overlay.bpf.c"

static __always_inline int arrive_by_tunnel(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {
		.tunnel_id = skb->cb[0],
		.local_ipv4 = bpf_ntohl(skb->cb[1]),
	};

	return bpf_skb_set_tunnel_key(skb, &key, sizeof(key), 0);
}

SEC("tc")
int from_overlay_hop(struct __sk_buff *skb)
{
	return arrive_by_tunnel(skb) < 0 ? TC_SHOT : from_overlay(skb);
}
