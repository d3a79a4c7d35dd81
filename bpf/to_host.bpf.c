/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Ingress of cilium_host and cilium_net, what pods send to the host: counted, and traced if nothing is aggregated. */
#include "observe.h"

SEC("tc")
int to_host(struct __sk_buff *skb)
{
	return observe(skb, TRACE_TO_HOST);
}
