/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The contract between the datapath and everything outside the kernel: map keys and values,
 * event records, shared numbers; nothing else. src/fimbria/datapath/abi.py is generated from
 * the BTF of this file (make abi), and the loader refuses an object whose fingerprint differs.
 *
 * Byte order: fields typed __be16/__be32 and addresses are in network order, the rest in host
 * order. Padding is explicit and must be zero, because map keys are compared byte by byte.
 */
#ifndef FIMBRIA_ABI_H
#define FIMBRIA_ABI_H

#include <linux/types.h>

/* One address type for both families: IPv4 is stored v4-mapped (::ffff:a.b.c.d). */
struct addr {
	union {
		__u8 b[16];
		__be32 w[4];
		__u64 q[2];
	};
};

enum family { FAMILY_IPV4 = 1, FAMILY_IPV6 = 2 };

enum direction { DIR_UNKNOWN = 0, DIR_INGRESS = 1, DIR_EGRESS = 2, DIR_SERVICE = 3 };

/* Reserved identities; numbers are Cilium's. */
enum identity {
	ID_UNKNOWN = 0,
	ID_HOST = 1,
	ID_WORLD = 2,
	ID_UNMANAGED = 3,
	ID_HEALTH = 4,
	ID_INIT = 5,
	ID_REMOTE_NODE = 6,
	ID_KUBE_APISERVER = 7,
	ID_INGRESS = 8,
	ID_WORLD_IPV4 = 9,
	ID_WORLD_IPV6 = 10,
};

/*
 * Identities that mean something on this node only carry their scope in the top byte: prefixes
 * that policies name, and nodes by their labels. They never travel in a VNI.
 */
enum identity_scope {
	ID_SCOPE_MASK = 0xff000000,
	ID_SCOPE_CIDR = 0x01000000,
	ID_SCOPE_NODE = 0x02000000,
};

/* Endpoint ids that are not a pod's (pods have 1 to 4095). */
enum endpoint_ids { ENDPOINT_HOST = 4096 };

/*
 * cilium_lxc: the node's own addresses. Layout as Cilium's, so that bpftool walkthroughs hold:
 * an IPv4 address stands in the first four bytes of ip, the other twelve are zero.
 */
struct endpoint_key {
	__u8 ip[16];
	__u8 family; /* enum family */
	__u8 key;
	__u16 cluster_id;
};

enum endpoint_flags { ENDPOINT_F_HOST = 1 };

struct endpoint_info {
	__u32 ifindex; /* host side of the veth pair; 0 for the node's own addresses */
	__u16 unused;
	__u16 lxc_id; /* endpoint id; 0 for the node's own addresses */
	__u32 flags;  /* enum endpoint_flags */
	__u32 pad1;
	__u8 mac[6]; /* inside the pod */
	__u16 pad2;
	__u8 node_mac[6]; /* host side */
	__u16 pad3;
	__u32 sec_id;
	__u32 pad4[3];
};

/* cilium_devices: what the shared programs know about the endpoint behind a host-side device. */
struct device_key {
	__u32 ifindex;
};

struct device_info {
	struct addr ip4; /* v4-mapped, zero if none: the only IPv4 source allowed here */
	struct addr ip6; /* zero if none: the only global IPv6 source allowed here */
	__u32 sec_id;
	__u16 lxc_id;
	__u16 flags;
	__u8 mac[6];      /* inside the pod */
	__u8 node_mac[6]; /* host side: the answer to ARP and neighbour solicitation */
	__u32 pad;
};

/*
 * cilium_ipcache: LPM trie, address -> identity and where it lives. Layout as Cilium's: prefixlen
 * is 32 (pad, family) + the prefix; an IPv4 address stands in the first four bytes.
 */
struct ipcache_key {
	__u32 prefixlen;
	__u16 cluster_id;
	__u8 pad;
	__u8 family;
	__u8 ip[16];
};

enum ipcache_flags { IPCACHE_F_SKIP_TUNNEL = 1 };

struct ipcache_info {
	__u32 sec_identity;
	__be32 tunnel_endpoint; /* 0: not behind a tunnel */
	__u16 pad;
	__u8 key;
	__u8 flags; /* enum ipcache_flags */
};

/*
 * cilium_cidr: LPM trie like cilium_ipcache's keys, prefix -> its identity. Asked only where
 * policy-cidr-match-mode lets rules by CIDR match addresses of the cluster (cfg_cidr_*).
 */
struct cidr_info {
	__u32 identity;
};

/* cilium_node_map: addresses of the cluster's nodes, in endpoint_key's address form. */
struct node_key {
	__u16 pad1;
	__u8 pad2;
	__u8 family;
	__u8 ip[16];
};

struct node_info {
	__u16 id;
	__u8 spi;
	__u8 pad;
};

/*
 * Policy in three steps, so that a switch is one write and equal policies are one map:
 *   cilium_policy_ref[lxc_id]     -> which policy an endpoint has
 *   cilium_policy_info[policy_id] -> what is enforced, and which key shapes exist
 *   cilium_policy[policy_id]      -> inner hash map of policy_key -> policy_entry
 * Tiers (ClusterNetworkPolicy) are policies in a row: admin -> the ordinary ones -> baseline,
 * linked by policy_info.next_id.
 * A policy id is filled before anything refers to it. While something does, all entries of an
 * identity that comes are added, or those of one that is gone removed; nothing else changes.
 * Policy id 0 is empty and enforces nothing; an endpoint without a policy yet must refer to
 * POLICY_ID_LOCKED, which enforces both directions and holds nothing.
 */
enum policy_ids { POLICY_ID_NONE = 0, POLICY_ID_LOCKED = 1 };

struct policy_ref {
	__u32 policy_id;
	__u32 shadow_id; /* audit: judged beside the real one; 0 none */
	__u32 flags;     /* enum policy_ref_flags */
	__u32 fallback_id; /* holds instead of policy_id once jiffies have passed `until` */
	__u32 until;     /* jiffies, low 32 bits, compared by signed difference; 0: never, and
	                  * fallback_id is policy_id, for who sees half of a change */
};

enum policy_ref_flags { POLICY_REF_F_AUDIT = 1 };

/*
 * A direction that is not enforced goes to the next tier unseen. One that is enforced and OPEN
 * does so on a miss; without OPEN a miss is a drop. Past the last tier everything is allowed.
 */
enum policy_flags {
	POLICY_F_INGRESS = 1,
	POLICY_F_EGRESS = 2,
	POLICY_F_INGRESS_OPEN = 4,
	POLICY_F_EGRESS_OPEN = 8,
};

/*
 * Shape s of a key: 0 any protocol and port; 1 one protocol, any port; 2..17 one protocol and
 * the first s-1 bits of the port (17: an exact port). Bit s of a mask says that the inner map
 * holds keys of that shape; the lookup visits them from the longest to the shortest.
 */
enum policy_shape { SHAPE_ANY = 0, SHAPE_PROTO = 1, SHAPE_PORT = 17, SHAPE_EGRESS = 0x80 };

struct policy_info {
	__u32 flags;         /* enum policy_flags */
	__u32 peer_shapes[2]; /* [0] ingress, [1] egress: keys with a peer identity */
	__u32 any_shapes[2];  /* the same for keys with identity 0 */
	__u32 next_id;       /* the next tier's policy; 0 none */
};

struct policy_key {
	__u32 identity; /* the peer; 0 any */
	__be16 dport;   /* the flow's destination port (ICMP: type), masked to the shape */
	__u8 protocol;  /* 0 any */
	__u8 shape;     /* enum policy_shape; | SHAPE_EGRESS for egress */
};

/* PASS: on to the next tier. An entry with a proxy port and without flags is a redirect. */
enum policy_entry_flags { POLICY_ENTRY_F_DENY = 1, POLICY_ENTRY_F_PASS = 2 };

/*
 * Precedence of entries: of the hits of one tier the highest decides, then the longest shape, then
 * the peer's side before the CIDR's before anyone's. Within one identity's keys no entry is left
 * that a key of higher precedence covers, so that each side's first hit is its highest. Ordinary
 * policies have the three below; in the other tiers rules count down from the first.
 */
enum policy_precedence { PRECEDENCE_ALLOW = 1, PRECEDENCE_REDIRECT = 2, PRECEDENCE_DENY = 3 };

struct policy_entry {
	__u32 rule_id; /* names the rule that made it; index of cilium_rule_stats */
	__be16 proxy_port;
	__u8 flags; /* enum policy_entry_flags */
	__u8 auth_type;
	__u32 precedence; /* enum policy_precedence, or a rank */
	__u32 pad;
};

/* Rule ids that no policy object made. */
enum rule_ids {
	RULE_NONE = 0,            /* nothing matched: default deny, or nothing enforced */
	RULE_ALLOW_LOCALHOST = 1, /* the node may reach its pods */
	RULE_ALLOW_ALL = 2,       /* selected only by policies without default deny */
	RULE_FIRST = 16,
};

/* cilium_ct: one entry per connection and node, for both directions and both families. */
struct ct_key {
	struct addr a, b; /* (a, port_a) <= (b, port_b), compared as two host-order u64 and a be16 */
	__be16 port_a, port_b;
	__u8 protocol;
	__u8 pad[3];
};

enum ct_flags {
	CT_F_RX_CLOSING = 0x1,
	CT_F_TX_CLOSING = 0x2,
	CT_F_LOOPBACK = 0x8,
	CT_F_SEEN_NON_SYN = 0x10,
	CT_F_NODE_PORT = 0x20,
	CT_F_PROXY_REDIRECT = 0x40,
	CT_F_DSR = 0x80,
	CT_F_FROM_TUNNEL = 0x400,
};

/* How a packet goes on; cached per direction. */
enum ct_action {
	ACTION_NONE = 0,
	ACTION_PEER = 1,     /* redirect_peer into the pod behind oif, with MACs */
	ACTION_REDIRECT = 2, /* redirect to oif's egress, with MACs */
	ACTION_TUNNEL = 3,   /* VXLAN to nexthop, identity in the VNI */
	ACTION_NEIGH = 4,    /* redirect_neigh on oif towards nexthop */
	ACTION_STACK = 5,    /* leave it to the kernel's routing */
};

/* One direction of a connection. revision 0: not judged yet. 64 bytes. */
struct ct_dir {
	__u32 revision;  /* runtime.revision that the verdict was taken at */
	__u32 ifindex;   /* the only device that may use this verdict */
	__u32 oif;
	__be32 nexthop;  /* tunnel endpoint or IPv4 gateway, 0 none; for packets that come by the
	                  * overlay the outer source that they must have */
	__u8 dmac[6];
	__u8 smac[6];
	__u32 last_report; /* jiffies of the last trace event */
	__u8 action;       /* enum ct_action */
	__u8 tcp_flags;    /* seen */
	__u16 pad;
	__u32 identity;    /* identity of this direction's sender, as carried or looked up */
	__u32 pad2[2];
	__u64 packets;
	__u64 bytes;
};

struct ct_entry {
	__u32 expires; /* jiffies, low 32 bits; compare by signed difference */
	__u16 flags;   /* enum ct_flags */
	__u8 orig;     /* which of dir[] opened the connection; dir[0] is a -> b */
	__u8 pad;
	__u32 rule_egress;  /* rule ids that allowed it, at the opener's and at the receiver's end */
	__u32 rule_ingress;
	__u16 src_lxc; /* local endpoint ids of the opener and the receiver; 0 not local */
	__u16 dst_lxc;
	__u16 rev_nat;
	__be16 proxy_port;
	__u32 backend_id;
	__u32 created; /* jiffies */
	__u32 pad2[2]; /* so that in the kernel's table each direction has a cache line of its own */
	struct ct_dir dir[2];
};

/* cilium_ipv4_frag_datagrams: ports of the first fragment, for the others. */
struct frag_key {
	struct addr saddr, daddr;
	__u32 id;
	__u8 protocol;
	__u8 pad[3];
};

struct frag_ports {
	__be16 sport, dport;
};

/* cilium_metrics: per-CPU array, index = reason | direction << 8. Reason 0: forwarded. */
enum metrics_layout { METRICS_DIR_SHIFT = 8, METRICS_ENTRIES = 1024 };

/* Reasons in cilium_metrics that are no drops: what a shadow policy would have done otherwise. */
enum metrics_reason { METRIC_SHADOW_DENIED = 64, METRIC_SHADOW_ALLOWED = 65 };

struct metrics_value {
	__u64 count;
	__u64 bytes;
};

/* cilium_rule_stats: per-CPU array, index = rule id; same value type. */
enum rule_stats_layout { RULE_STATS_ENTRIES = 65536 };

/* cilium_runtime_config: one element. Bumping revision sends every flow through the slow path. */
struct runtime {
	__u32 revision; /* never 0 */
	__u32 pad;
	__u64 events_lost; /* ring buffer full; counted by the datapath */
};

/* cilium_events: ring buffer of fixed records, so that a reader can take them as one array. */
enum event_type { EVENT_DROP = 1, EVENT_TRACE = 4, EVENT_POLICY_VERDICT = 5 };

enum trace_point {
	TRACE_TO_LXC = 0,
	TRACE_TO_PROXY = 1,
	TRACE_TO_HOST = 2,
	TRACE_TO_STACK = 3,
	TRACE_TO_OVERLAY = 4,
	TRACE_FROM_LXC = 5,
	TRACE_FROM_PROXY = 6,
	TRACE_FROM_HOST = 7,
	TRACE_FROM_STACK = 8,
	TRACE_FROM_OVERLAY = 9,
	TRACE_FROM_NETWORK = 10,
	TRACE_TO_NETWORK = 11,
};

enum ct_state { CT_NEW = 0, CT_ESTABLISHED = 1, CT_REPLY = 2, CT_RELATED = 3, CT_REOPENED = 4 };

enum event_flags {
	EVENT_F_IPV6 = 1,
	EVENT_F_AUDITED = 2,
	EVENT_F_PORTS = 4, /* sport and dport are known */
	EVENT_F_SHADOW = 8, /* the verdict of the shadow policy, where it differs from the real one */
};

enum policy_match {
	MATCH_NONE = 0,
	MATCH_L3_ONLY = 1,
	MATCH_L3_L4 = 2,
	MATCH_L4_ONLY = 3,
	MATCH_ALL = 4,
	MATCH_L3_PROTO = 5,
	MATCH_PROTO_ONLY = 6,
};

struct event {
	__u64 time;     /* ns, coarse monotonic clock */
	__u8 type;      /* enum event_type */
	__u8 subtype;   /* drop reason, or trace point */
	__u16 source;   /* local endpoint id that the event is about; 0 none */
	__u8 direction; /* enum direction, seen from source */
	__u8 ct_state;
	__u8 flags;     /* enum event_flags */
	__u8 match;     /* enum policy_match */
	struct addr saddr, daddr;
	__be16 sport, dport; /* ICMP: type and code in dport's bytes, identifier in sport */
	__u8 protocol;
	__u8 tcp_flags;
	__u16 dst_id;  /* endpoint id of a local destination */
	__u32 src_label, dst_label;
	__u32 rule;    /* the rule that decided; RULE_NONE if none did */
	__s32 verdict; /* policy verdict: 0 allow, >0 proxy port, <0 minus the drop reason */
	__u32 ifindex; /* device the packet came by */
	__u32 length;  /* bytes, without the outer header */
	__u32 policy_id; /* the judging endpoint's tier that decided, or was asked last; 0 none */
	__u16 line;    /* where in the C source a drop was decided, */
	__u8 file;     /* and the file's number */
	__u8 pad;
};

/* Numbers of the C source files in struct event: file. */
enum source_file {
	FILE_NONE = 0,
	FILE_PARSE = 1,
	FILE_NEIGHBOUR = 2,
	FILE_IDENTITY = 3,
	FILE_CONNTRACK = 4,
	FILE_POLICY = 5,
	FILE_FIB = 6,
	FILE_ENCAP = 7,
	FILE_REWRITE = 8,
	FILE_ICMP = 9,
	FILE_VERDICT = 10,
	FILE_FROM_CONTAINER = 11,
	FILE_FROM_NETDEV = 12,
	FILE_FROM_OVERLAY = 13,
	FILE_FROM_HOST = 14,
	FILE_TO_CONTAINER = 15,
	FILE_JUDGEMENT = 16,
};

/* Numbers of drop reasons: Cilium's, negated on the way through the stages. */
enum drop_reason {
	DROP_INVALID_SIP = 132,
	DROP_POLICY = 133,
	DROP_INVALID = 134,
	DROP_CT_INVALID_HDR = 135,
	DROP_FRAG_NEEDED = 136,
	DROP_CT_UNKNOWN_PROTO = 137,
	DROP_UNKNOWN_L3 = 139,
	DROP_MISSED_TAIL_CALL = 140,
	DROP_WRITE_ERROR = 141,
	DROP_UNKNOWN_L4 = 142,
	DROP_NO_TUNNEL_KEY = 147,
	DROP_NON_LOCAL = 150,
	DROP_STALE_OR_UNROUTABLE = 151,
	DROP_CT_CREATE_FAILED = 155,
	DROP_INVALID_EXTHDR = 156,
	DROP_FRAG_NOSUPPORT = 157,
	DROP_NO_TUNNEL_ENDPOINT = 160,
	DROP_HOST_UNREACHABLE = 164,
	DROP_UNSUPPORTED_L2 = 166,
	DROP_NO_FIB = 169,
	DROP_ENCAP_PROHIBITED = 170,
	DROP_INVALID_IDENTITY = 171,
	DROP_UNKNOWN_SENDER = 172,
	DROP_FRAG_NOT_FOUND = 175,
	DROP_FORBIDDEN_ICMP6 = 176,
	DROP_NO_PROXY = 178, /* a layer 7 rule redirects to a proxy, and none listens */
	DROP_POLICY_DENY = 181,
	DROP_INVALID_VNI = 183,
	DROP_TTL_EXCEEDED = 196,
	DROP_HOST_NOT_READY = 202,
	DROP_EP_NOT_READY = 203,
};

#endif
