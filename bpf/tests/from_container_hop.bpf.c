/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* from_container, and what it would send into the tunnel: cb[0] the VNI, cb[1] the endpoint. */
#include "../from_container.bpf.c"

SEC("tc")
int from_container_hop(struct __sk_buff *skb)
{
	struct bpf_tunnel_key key = {};
	int ret = from_container(skb);

	skb->cb[0] = 0;
	skb->cb[1] = 0;
	/* of a key that was set, the remote end reads back as the local one */
	if (!bpf_skb_get_tunnel_key(skb, &key, sizeof(key), 0)) {
		skb->cb[0] = key.tunnel_id;
		skb->cb[1] = bpf_htonl(key.local_ipv4);
	}
	return ret;
}
