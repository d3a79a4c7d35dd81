/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Egress of cilium_vxlan: counted, and traced if nothing is aggregated. */
#include "observe.h"

SEC("tc")
int to_overlay(struct __sk_buff *skb)
{
	return observe(skb, TRACE_TO_OVERLAY);
}
