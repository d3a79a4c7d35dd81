/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Load-time constants. The loader writes them before the verifier runs, which then drops the
 * branches of what is switched off: one object serves all configurations. The comment above a
 * constant is its documentation. The values here are defaults.
 */
#ifndef FIMBRIA_CONFIG_H
#define FIMBRIA_CONFIG_H

#include "abi.h"

/* 1 if the cluster has IPv4; otherwise IPv4 packets of pods are dropped. */
const volatile __u8 cfg_ipv4 = 1;
/* 1 if the cluster has IPv6; otherwise IPv6 packets of pods are dropped. */
const volatile __u8 cfg_ipv6 = 1;
/* 1 to reach pods of other nodes by VXLAN (where the ipcache names a tunnel endpoint). */
const volatile __u8 cfg_tunnel = 1;
/* 1 for BPF host routing: redirect_peer into pods, redirect_neigh out of the node; 0 leaves what
 * leaves the node to the kernel's routing, and delivers through the pod's host-side device. */
const volatile __u8 cfg_host_routing = 1;
/* 1 if the kernel routes to pods' devices itself, where to_container judges what comes. */
const volatile __u8 cfg_endpoint_routes = 0;
/* Monitor aggregation: 0 traces every packet, at both ends of its way through a program; 1 and 2
 * only where it leaves; 3 and 4 at most every five seconds and on new TCP flags. */
const volatile __u8 cfg_trace = 3;
/* policy-cidr-match-mode: 1 lets rules by CIDR match the nodes' addresses too. */
const volatile __u8 cfg_cidr_nodes = 0;
/* policy-cidr-match-mode: 1 lets rules by CIDR match pods' addresses too. */
const volatile __u8 cfg_cidr_pods = 0;
/* 1 if the host firewall (enable-host-firewall) judges the node's own traffic. */
const volatile __u8 cfg_host_firewall = 0;
/* UDP port of the overlay, host order. Pods may not send to it. */
const volatile __u16 cfg_overlay_port = 8472;
/* Interface index of cilium_vxlan. */
const volatile __u32 cfg_overlay_ifindex = 0;
/* The node's own address in its pod network, which names it in ICMP errors; 0 sends none. */
const volatile __be32 cfg_router_ip4 = 0;
/* The same for IPv6, 16 bytes in network order. */
const volatile struct addr cfg_router_ip6 = {};
/* The kernel's CONFIG_HZ: jiffies per second. */
const volatile __u32 cfg_hz = 250;
/* Seconds that a connection lives after its last packet: TCP of which only SYN was seen. */
const volatile __u32 cfg_ct_syn = 60;
/* The same for TCP of which anything but SYN was seen. */
const volatile __u32 cfg_ct_tcp = 8000;
/* The same for every other protocol. */
const volatile __u32 cfg_ct_any = 60;
/* The same for TCP that both sides have closed. */
const volatile __u32 cfg_ct_close = 10;
/* Seconds between two trace events of one direction of a connection. */
const volatile __u32 cfg_trace_interval = 5;

#endif
