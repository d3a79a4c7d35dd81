"""Map keys and values, event records and shared numbers of the datapath.

Generated from the BTF of bpf/abi.h by scripts/gen_abi.py (make abi); do not edit.

Every class is an immutable value: `pack()` gives the exact bytes that stand in a map, `unpack()`
takes them apart, `SIZE` is their number. Integers are presented in host meaning, also those that
are big-endian in the map; addresses, MACs and other byte arrays are `bytes` of their exact
length. Padding is not presented and always packed as zeros. Fields not given are zero. `unpack`
raises ValueError for another length, `pack` struct.error or ValueError for what does not fit.
"""
# A field may be called count, which is a method of tuples.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, Final, NamedTuple, Self

_Bytes = bytes


def _be(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def _exact(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise ValueError(f"{len(value)} bytes where exactly {size} belong")
    return value


def _whole(name: str, data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{name}: {len(data)} bytes, expected {size}")
    return data


class Family(IntEnum):
    """enum family."""

    IPV4 = 1
    IPV6 = 2


class Direction(IntEnum):
    """enum direction."""

    UNKNOWN = 0
    INGRESS = 1
    EGRESS = 2
    SERVICE = 3


class Identity(IntEnum):
    """Reserved identities; numbers are Cilium's."""

    UNKNOWN = 0
    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8
    WORLD_IPV4 = 9
    WORLD_IPV6 = 10


class IdentityScope(IntEnum):
    """Identities that mean something on this node only carry their scope in the top byte:
    prefixes that policies name, and nodes by their labels. They never travel in a VNI."""

    MASK = 4278190080
    CIDR = 16777216
    NODE = 33554432


class EndpointIds(IntEnum):
    """Endpoint ids that are not a pod's (pods have 1 to 4095)."""

    HOST = 4096


class EndpointFlags(IntFlag):
    """enum endpoint_flags."""

    HOST = 0x1


class IpcacheFlags(IntFlag):
    """enum ipcache_flags."""

    SKIP_TUNNEL = 0x1


class PolicyIds(IntEnum):
    """Policy in three steps, so that a switch is one write and equal policies are one map:
    cilium_policy_ref[lxc_id] -> which policy an endpoint has cilium_policy_info[policy_id] ->
    what is enforced, and which key shapes exist cilium_policy[policy_id] -> inner hash map of
    policy_key -> policy_entry Tiers (ClusterNetworkPolicy) are policies in a row: admin -> the
    ordinary ones -> baseline, linked by policy_info.next_id. A policy id is filled before
    anything refers to it. While something does, all entries of an identity that comes are
    added, or those of one that is gone removed; nothing else changes. Policy id 0 is empty and
    enforces nothing; an endpoint without a policy yet must refer to POLICY_ID_LOCKED, which
    enforces both directions and holds nothing."""

    NONE = 0
    LOCKED = 1


class PolicyRefFlags(IntFlag):
    """enum policy_ref_flags."""

    AUDIT = 0x1


class PolicyFlags(IntFlag):
    """A direction that is not enforced goes to the next tier unseen. One that is enforced and
    OPEN does so on a miss; without OPEN a miss is a drop. Past the last tier everything is
    allowed."""

    INGRESS = 0x1
    EGRESS = 0x2
    INGRESS_OPEN = 0x4
    EGRESS_OPEN = 0x8


class PolicyShape(IntEnum):
    """Shape s of a key: 0 any protocol and port; 1 one protocol, any port; 2..17 one protocol
    and the first s-1 bits of the port (17: an exact port). Bit s of a mask says that the inner
    map holds keys of that shape; the lookup visits them from the longest to the shortest."""

    ANY = 0
    PROTO = 1
    PORT = 17
    EGRESS = 128


class PolicyEntryFlags(IntFlag):
    """PASS: on to the next tier. An entry with a proxy port and without flags is a redirect."""

    DENY = 0x1
    PASS = 0x2


class PolicyPrecedence(IntEnum):
    """Precedence of entries: of the hits of one tier the highest decides, then the longest
    shape, then the peer's side before the CIDR's before anyone's. Within one identity's keys no
    entry is left that a key of higher precedence covers, so that each side's first hit is its
    highest. Ordinary policies have the three below; in the other tiers rules count down from
    the first."""

    ALLOW = 1
    REDIRECT = 2
    DENY = 3


class RuleIds(IntEnum):
    """Rule ids that no policy object made."""

    NONE = 0
    ALLOW_LOCALHOST = 1
    ALLOW_ALL = 2
    FIRST = 16


class CtFlags(IntFlag):
    """enum ct_flags."""

    RX_CLOSING = 0x1
    TX_CLOSING = 0x2
    LOOPBACK = 0x8
    SEEN_NON_SYN = 0x10
    NODE_PORT = 0x20
    PROXY_REDIRECT = 0x40
    DSR = 0x80
    FROM_TUNNEL = 0x400


class CtAction(IntEnum):
    """How a packet goes on; cached per direction."""

    NONE = 0
    PEER = 1
    REDIRECT = 2
    TUNNEL = 3
    NEIGH = 4
    STACK = 5


class MetricsLayout(IntEnum):
    """cilium_metrics: per-CPU array, index = reason | direction << 8. Reason 0: forwarded."""

    DIR_SHIFT = 8
    ENTRIES = 1024


class MetricsReason(IntEnum):
    """Reasons in cilium_metrics that are no drops: what a shadow policy would have done
    otherwise."""

    DENIED = 64
    ALLOWED = 65


class RuleStatsLayout(IntEnum):
    """cilium_rule_stats: per-CPU array, index = rule id; same value type."""

    ENTRIES = 65536


class EventType(IntEnum):
    """cilium_events: ring buffer of fixed records, so that a reader can take them as one
    array."""

    DROP = 1
    TRACE = 4
    POLICY_VERDICT = 5


class TracePoint(IntEnum):
    """enum trace_point."""

    TO_LXC = 0
    TO_PROXY = 1
    TO_HOST = 2
    TO_STACK = 3
    TO_OVERLAY = 4
    FROM_LXC = 5
    FROM_PROXY = 6
    FROM_HOST = 7
    FROM_STACK = 8
    FROM_OVERLAY = 9
    FROM_NETWORK = 10
    TO_NETWORK = 11


class CtState(IntEnum):
    """enum ct_state."""

    NEW = 0
    ESTABLISHED = 1
    REPLY = 2
    RELATED = 3
    REOPENED = 4


class EventFlags(IntFlag):
    """enum event_flags."""

    IPV6 = 0x1
    AUDITED = 0x2
    PORTS = 0x4
    SHADOW = 0x8


class PolicyMatch(IntEnum):
    """enum policy_match."""

    NONE = 0
    L3_ONLY = 1
    L3_L4 = 2
    L4_ONLY = 3
    ALL = 4
    L3_PROTO = 5
    PROTO_ONLY = 6


class SourceFile(IntEnum):
    """Numbers of the C source files in struct event: file."""

    NONE = 0
    PARSE = 1
    NEIGHBOUR = 2
    IDENTITY = 3
    CONNTRACK = 4
    POLICY = 5
    FIB = 6
    ENCAP = 7
    REWRITE = 8
    ICMP = 9
    VERDICT = 10
    FROM_CONTAINER = 11
    FROM_NETDEV = 12
    FROM_OVERLAY = 13
    FROM_HOST = 14
    TO_CONTAINER = 15
    JUDGEMENT = 16


class DropReason(IntEnum):
    """Numbers of drop reasons: Cilium's, negated on the way through the stages."""

    INVALID_SIP = 132
    POLICY = 133
    INVALID = 134
    CT_INVALID_HDR = 135
    FRAG_NEEDED = 136
    CT_UNKNOWN_PROTO = 137
    UNKNOWN_L3 = 139
    MISSED_TAIL_CALL = 140
    WRITE_ERROR = 141
    UNKNOWN_L4 = 142
    NO_TUNNEL_KEY = 147
    NON_LOCAL = 150
    STALE_OR_UNROUTABLE = 151
    CT_CREATE_FAILED = 155
    INVALID_EXTHDR = 156
    FRAG_NOSUPPORT = 157
    NO_TUNNEL_ENDPOINT = 160
    HOST_UNREACHABLE = 164
    UNSUPPORTED_L2 = 166
    NO_FIB = 169
    ENCAP_PROHIBITED = 170
    INVALID_IDENTITY = 171
    UNKNOWN_SENDER = 172
    FRAG_NOT_FOUND = 175
    FORBIDDEN_ICMP6 = 176
    NO_PROXY = 178
    POLICY_DENY = 181
    INVALID_VNI = 183
    TTL_EXCEEDED = 196
    HOST_NOT_READY = 202
    EP_NOT_READY = 203


#: numpy dtype descriptions by class name: np.dtype(DTYPES['Event']).
DTYPES: dict[str, dict[str, Any]] = {}


class EndpointKey(NamedTuple):
    """cilium_lxc: the node's own addresses. Layout as Cilium's, so that bpftool walkthroughs
    hold: an IPv4 address stands in the first four bytes of ip, the other twelve are zero."""

    ip: bytes = bytes(16)
    family: int = 0
    key: int = 0
    cluster_id: int = 0

    def pack(self) -> bytes:
        """The 20 bytes of struct endpoint_key."""
        return _ENDPOINT_KEY.pack(_exact(self.ip, 16), self.family, self.key, self.cluster_id)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 20 bytes of struct endpoint_key."""
        t = _ENDPOINT_KEY.unpack(_whole("EndpointKey", data, 20))
        return cls(t[0], t[1], t[2], t[3])

    SIZE = 20


_ENDPOINT_KEY = Struct("<16sBBH")
DTYPES["EndpointKey"] = {
    "names": ["ip", "family", "key", "cluster_id"],
    "formats": [("u1", (16,)), "<u1", "<u1", "<u2"],
    "offsets": [0, 16, 17, 18],
    "itemsize": 20,
}


class EndpointInfo(NamedTuple):
    """struct endpoint_info."""

    ifindex: int = 0
    lxc_id: int = 0
    flags: int = 0
    mac: bytes = bytes(6)
    node_mac: bytes = bytes(6)
    sec_id: int = 0

    def pack(self) -> bytes:
        """The 48 bytes of struct endpoint_info."""
        return _ENDPOINT_INFO.pack(
            self.ifindex,
            self.lxc_id,
            self.flags,
            _exact(self.mac, 6),
            _exact(self.node_mac, 6),
            self.sec_id,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 48 bytes of struct endpoint_info."""
        t = _ENDPOINT_INFO.unpack(_whole("EndpointInfo", data, 48))
        return cls(t[0], t[1], t[2], t[3], t[4], t[5])

    SIZE = 48


_ENDPOINT_INFO = Struct("<I2xHI4x6s2x6s2xI12x")
DTYPES["EndpointInfo"] = {
    "names": ["ifindex", "lxc_id", "flags", "mac", "node_mac", "sec_id"],
    "formats": ["<u4", "<u2", "<u4", ("u1", (6,)), ("u1", (6,)), "<u4"],
    "offsets": [0, 6, 8, 16, 24, 32],
    "itemsize": 48,
}


class DeviceKey(NamedTuple):
    """cilium_devices: what the shared programs know about the endpoint behind a host-side
    device."""

    ifindex: int = 0

    def pack(self) -> bytes:
        """The 4 bytes of struct device_key."""
        return _DEVICE_KEY.pack(self.ifindex)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 4 bytes of struct device_key."""
        t = _DEVICE_KEY.unpack(_whole("DeviceKey", data, 4))
        return cls(t[0])

    SIZE = 4


_DEVICE_KEY = Struct("<I")
DTYPES["DeviceKey"] = {
    "names": ["ifindex"],
    "formats": ["<u4"],
    "offsets": [0],
    "itemsize": 4,
}


class DeviceInfo(NamedTuple):
    """struct device_info."""

    ip4: bytes = bytes(16)
    ip6: bytes = bytes(16)
    sec_id: int = 0
    lxc_id: int = 0
    flags: int = 0
    mac: bytes = bytes(6)
    node_mac: bytes = bytes(6)

    def pack(self) -> bytes:
        """The 56 bytes of struct device_info."""
        return _DEVICE_INFO.pack(
            _exact(self.ip4, 16),
            _exact(self.ip6, 16),
            self.sec_id,
            self.lxc_id,
            self.flags,
            _exact(self.mac, 6),
            _exact(self.node_mac, 6),
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 56 bytes of struct device_info."""
        t = _DEVICE_INFO.unpack(_whole("DeviceInfo", data, 56))
        return cls(t[0], t[1], t[2], t[3], t[4], t[5], t[6])

    SIZE = 56


_DEVICE_INFO = Struct("<16s16sIHH6s6s4x")
DTYPES["DeviceInfo"] = {
    "names": ["ip4", "ip6", "sec_id", "lxc_id", "flags", "mac", "node_mac"],
    "formats": [("u1", (16,)), ("u1", (16,)), "<u4", "<u2", "<u2", ("u1", (6,)), ("u1", (6,))],
    "offsets": [0, 16, 32, 36, 38, 40, 46],
    "itemsize": 56,
}


class IpcacheKey(NamedTuple):
    """cilium_ipcache: LPM trie, address -> identity and where it lives. Layout as Cilium's:
    prefixlen is 32 (pad, family) + the prefix; an IPv4 address stands in the first four
    bytes."""

    prefixlen: int = 0
    cluster_id: int = 0
    family: int = 0
    ip: bytes = bytes(16)

    def pack(self) -> bytes:
        """The 24 bytes of struct ipcache_key."""
        return _IPCACHE_KEY.pack(self.prefixlen, self.cluster_id, self.family, _exact(self.ip, 16))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 24 bytes of struct ipcache_key."""
        t = _IPCACHE_KEY.unpack(_whole("IpcacheKey", data, 24))
        return cls(t[0], t[1], t[2], t[3])

    SIZE = 24


_IPCACHE_KEY = Struct("<IH1xB16s")
DTYPES["IpcacheKey"] = {
    "names": ["prefixlen", "cluster_id", "family", "ip"],
    "formats": ["<u4", "<u2", "<u1", ("u1", (16,))],
    "offsets": [0, 4, 7, 8],
    "itemsize": 24,
}


class IpcacheInfo(NamedTuple):
    """struct ipcache_info."""

    sec_identity: int = 0
    tunnel_endpoint: int = 0
    key: int = 0
    flags: int = 0

    def pack(self) -> bytes:
        """The 12 bytes of struct ipcache_info."""
        return _IPCACHE_INFO.pack(
            self.sec_identity, _be(self.tunnel_endpoint, 4), self.key, self.flags
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 12 bytes of struct ipcache_info."""
        t = _IPCACHE_INFO.unpack(_whole("IpcacheInfo", data, 12))
        return cls(t[0], int.from_bytes(t[1], "big"), t[2], t[3])

    SIZE = 12


_IPCACHE_INFO = Struct("<I4s2xBB")
DTYPES["IpcacheInfo"] = {
    "names": ["sec_identity", "tunnel_endpoint", "key", "flags"],
    "formats": ["<u4", ">u4", "<u1", "<u1"],
    "offsets": [0, 4, 10, 11],
    "itemsize": 12,
}


class CidrInfo(NamedTuple):
    """cilium_cidr: LPM trie like cilium_ipcache's keys, prefix -> its identity. Asked only
    where policy-cidr-match-mode lets rules by CIDR match addresses of the cluster
    (cfg_cidr_*)."""

    identity: int = 0

    def pack(self) -> bytes:
        """The 4 bytes of struct cidr_info."""
        return _CIDR_INFO.pack(self.identity)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 4 bytes of struct cidr_info."""
        t = _CIDR_INFO.unpack(_whole("CidrInfo", data, 4))
        return cls(t[0])

    SIZE = 4


_CIDR_INFO = Struct("<I")
DTYPES["CidrInfo"] = {
    "names": ["identity"],
    "formats": ["<u4"],
    "offsets": [0],
    "itemsize": 4,
}


class NodeKey(NamedTuple):
    """cilium_node_map: addresses of the cluster's nodes, in endpoint_key's address form."""

    family: int = 0
    ip: bytes = bytes(16)

    def pack(self) -> bytes:
        """The 20 bytes of struct node_key."""
        return _NODE_KEY.pack(self.family, _exact(self.ip, 16))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 20 bytes of struct node_key."""
        t = _NODE_KEY.unpack(_whole("NodeKey", data, 20))
        return cls(t[0], t[1])

    SIZE = 20


_NODE_KEY = Struct("<2x1xB16s")
DTYPES["NodeKey"] = {
    "names": ["family", "ip"],
    "formats": ["<u1", ("u1", (16,))],
    "offsets": [3, 4],
    "itemsize": 20,
}


class NodeInfo(NamedTuple):
    """struct node_info."""

    id: int = 0
    spi: int = 0

    def pack(self) -> bytes:
        """The 4 bytes of struct node_info."""
        return _NODE_INFO.pack(self.id, self.spi)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 4 bytes of struct node_info."""
        t = _NODE_INFO.unpack(_whole("NodeInfo", data, 4))
        return cls(t[0], t[1])

    SIZE = 4


_NODE_INFO = Struct("<HB1x")
DTYPES["NodeInfo"] = {
    "names": ["id", "spi"],
    "formats": ["<u2", "<u1"],
    "offsets": [0, 2],
    "itemsize": 4,
}


class PolicyRef(NamedTuple):
    """struct policy_ref."""

    policy_id: int = 0
    shadow_id: int = 0
    flags: int = 0
    fallback_id: int = 0
    until: int = 0

    def pack(self) -> bytes:
        """The 20 bytes of struct policy_ref."""
        return _POLICY_REF.pack(
            self.policy_id, self.shadow_id, self.flags, self.fallback_id, self.until
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 20 bytes of struct policy_ref."""
        t = _POLICY_REF.unpack(_whole("PolicyRef", data, 20))
        return cls(t[0], t[1], t[2], t[3], t[4])

    SIZE = 20


_POLICY_REF = Struct("<IIIII")
DTYPES["PolicyRef"] = {
    "names": ["policy_id", "shadow_id", "flags", "fallback_id", "until"],
    "formats": ["<u4", "<u4", "<u4", "<u4", "<u4"],
    "offsets": [0, 4, 8, 12, 16],
    "itemsize": 20,
}


class PolicyInfo(NamedTuple):
    """struct policy_info."""

    flags: int = 0
    peer_shapes: tuple[int, int] = (0, 0)
    any_shapes: tuple[int, int] = (0, 0)
    next_id: int = 0

    def pack(self) -> bytes:
        """The 24 bytes of struct policy_info."""
        return _POLICY_INFO.pack(self.flags, *self.peer_shapes, *self.any_shapes, self.next_id)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 24 bytes of struct policy_info."""
        t = _POLICY_INFO.unpack(_whole("PolicyInfo", data, 24))
        return cls(t[0], (t[1], t[2]), (t[3], t[4]), t[5])

    SIZE = 24


_POLICY_INFO = Struct("<IIIIII")
DTYPES["PolicyInfo"] = {
    "names": ["flags", "peer_shapes", "any_shapes", "next_id"],
    "formats": ["<u4", ("<u4", (2,)), ("<u4", (2,)), "<u4"],
    "offsets": [0, 4, 12, 20],
    "itemsize": 24,
}


class PolicyKey(NamedTuple):
    """struct policy_key."""

    identity: int = 0
    dport: int = 0
    protocol: int = 0
    shape: int = 0

    def pack(self) -> bytes:
        """The 8 bytes of struct policy_key."""
        return _POLICY_KEY.pack(self.identity, _be(self.dport, 2), self.protocol, self.shape)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 8 bytes of struct policy_key."""
        t = _POLICY_KEY.unpack(_whole("PolicyKey", data, 8))
        return cls(t[0], int.from_bytes(t[1], "big"), t[2], t[3])

    SIZE = 8


_POLICY_KEY = Struct("<I2sBB")
DTYPES["PolicyKey"] = {
    "names": ["identity", "dport", "protocol", "shape"],
    "formats": ["<u4", ">u2", "<u1", "<u1"],
    "offsets": [0, 4, 6, 7],
    "itemsize": 8,
}


class PolicyEntry(NamedTuple):
    """struct policy_entry."""

    rule_id: int = 0
    proxy_port: int = 0
    flags: int = 0
    auth_type: int = 0
    precedence: int = 0

    def pack(self) -> bytes:
        """The 16 bytes of struct policy_entry."""
        return _POLICY_ENTRY.pack(
            self.rule_id, _be(self.proxy_port, 2), self.flags, self.auth_type, self.precedence
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 16 bytes of struct policy_entry."""
        t = _POLICY_ENTRY.unpack(_whole("PolicyEntry", data, 16))
        return cls(t[0], int.from_bytes(t[1], "big"), t[2], t[3], t[4])

    SIZE = 16


_POLICY_ENTRY = Struct("<I2sBBI4x")
DTYPES["PolicyEntry"] = {
    "names": ["rule_id", "proxy_port", "flags", "auth_type", "precedence"],
    "formats": ["<u4", ">u2", "<u1", "<u1", "<u4"],
    "offsets": [0, 4, 6, 7, 8],
    "itemsize": 16,
}


class CtKey(NamedTuple):
    """cilium_ct: one entry per connection and node, for both directions and both families."""

    a: bytes = bytes(16)
    b: bytes = bytes(16)
    port_a: int = 0
    port_b: int = 0
    protocol: int = 0

    def pack(self) -> bytes:
        """The 40 bytes of struct ct_key."""
        return _CT_KEY.pack(
            _exact(self.a, 16),
            _exact(self.b, 16),
            _be(self.port_a, 2),
            _be(self.port_b, 2),
            self.protocol,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 40 bytes of struct ct_key."""
        t = _CT_KEY.unpack(_whole("CtKey", data, 40))
        return cls(t[0], t[1], int.from_bytes(t[2], "big"), int.from_bytes(t[3], "big"), t[4])

    SIZE = 40


_CT_KEY = Struct("<16s16s2s2sB3x")
DTYPES["CtKey"] = {
    "names": ["a", "b", "port_a", "port_b", "protocol"],
    "formats": [("u1", (16,)), ("u1", (16,)), ">u2", ">u2", "<u1"],
    "offsets": [0, 16, 32, 34, 36],
    "itemsize": 40,
}


class CtDir(NamedTuple):
    """One direction of a connection. revision 0: not judged yet. 64 bytes."""

    revision: int = 0
    ifindex: int = 0
    oif: int = 0
    nexthop: int = 0
    dmac: _Bytes = _Bytes(6)
    smac: _Bytes = _Bytes(6)
    last_report: int = 0
    action: int = 0
    tcp_flags: int = 0
    identity: int = 0
    packets: int = 0
    bytes: int = 0

    def pack(self) -> _Bytes:
        """The 64 bytes of struct ct_dir."""
        return _CT_DIR.pack(
            self.revision,
            self.ifindex,
            self.oif,
            _be(self.nexthop, 4),
            _exact(self.dmac, 6),
            _exact(self.smac, 6),
            self.last_report,
            self.action,
            self.tcp_flags,
            self.identity,
            self.packets,
            self.bytes,
        )

    @classmethod
    def unpack(cls, data: _Bytes) -> Self:
        """From the 64 bytes of struct ct_dir."""
        t = _CT_DIR.unpack(_whole("CtDir", data, 64))
        return cls(
            t[0],
            t[1],
            t[2],
            int.from_bytes(t[3], "big"),
            t[4],
            t[5],
            t[6],
            t[7],
            t[8],
            t[9],
            t[10],
            t[11],
        )

    SIZE = 64


_CT_DIR = Struct("<III4s6s6sIBB2xI8xQQ")
DTYPES["CtDir"] = {
    "names": [
        "revision",
        "ifindex",
        "oif",
        "nexthop",
        "dmac",
        "smac",
        "last_report",
        "action",
        "tcp_flags",
        "identity",
        "packets",
        "bytes",
    ],
    "formats": [
        "<u4",
        "<u4",
        "<u4",
        ">u4",
        ("u1", (6,)),
        ("u1", (6,)),
        "<u4",
        "<u1",
        "<u1",
        "<u4",
        "<u8",
        "<u8",
    ],
    "offsets": [0, 4, 8, 12, 16, 22, 28, 32, 33, 36, 48, 56],
    "itemsize": 64,
}


class CtEntry(NamedTuple):
    """struct ct_entry."""

    expires: int = 0
    flags: int = 0
    orig: int = 0
    rule_egress: int = 0
    rule_ingress: int = 0
    src_lxc: int = 0
    dst_lxc: int = 0
    rev_nat: int = 0
    proxy_port: int = 0
    backend_id: int = 0
    created: int = 0
    dir: tuple[CtDir, CtDir] = (CtDir(), CtDir())

    def pack(self) -> bytes:
        """The 168 bytes of struct ct_entry."""
        return _CT_ENTRY.pack(
            self.expires,
            self.flags,
            self.orig,
            self.rule_egress,
            self.rule_ingress,
            self.src_lxc,
            self.dst_lxc,
            self.rev_nat,
            _be(self.proxy_port, 2),
            self.backend_id,
            self.created,
            b"".join(e.pack() for e in self.dir),
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 168 bytes of struct ct_entry."""
        t = _CT_ENTRY.unpack(_whole("CtEntry", data, 168))
        return cls(
            t[0],
            t[1],
            t[2],
            t[3],
            t[4],
            t[5],
            t[6],
            t[7],
            int.from_bytes(t[8], "big"),
            t[9],
            t[10],
            (CtDir.unpack(t[11][0:64]), CtDir.unpack(t[11][64:128])),
        )

    SIZE = 168


_CT_ENTRY = Struct("<IHB1xIIHHH2sII8x128s")
DTYPES["CtEntry"] = {
    "names": [
        "expires",
        "flags",
        "orig",
        "rule_egress",
        "rule_ingress",
        "src_lxc",
        "dst_lxc",
        "rev_nat",
        "proxy_port",
        "backend_id",
        "created",
        "dir",
    ],
    "formats": [
        "<u4",
        "<u2",
        "<u1",
        "<u4",
        "<u4",
        "<u2",
        "<u2",
        "<u2",
        ">u2",
        "<u4",
        "<u4",
        (DTYPES["CtDir"], (2,)),
    ],
    "offsets": [0, 4, 6, 8, 12, 16, 18, 20, 22, 24, 28, 40],
    "itemsize": 168,
}


class FragKey(NamedTuple):
    """cilium_ipv4_frag_datagrams: ports of the first fragment, for the others."""

    saddr: bytes = bytes(16)
    daddr: bytes = bytes(16)
    id: int = 0
    protocol: int = 0

    def pack(self) -> bytes:
        """The 40 bytes of struct frag_key."""
        return _FRAG_KEY.pack(
            _exact(self.saddr, 16), _exact(self.daddr, 16), self.id, self.protocol
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 40 bytes of struct frag_key."""
        t = _FRAG_KEY.unpack(_whole("FragKey", data, 40))
        return cls(t[0], t[1], t[2], t[3])

    SIZE = 40


_FRAG_KEY = Struct("<16s16sIB3x")
DTYPES["FragKey"] = {
    "names": ["saddr", "daddr", "id", "protocol"],
    "formats": [("u1", (16,)), ("u1", (16,)), "<u4", "<u1"],
    "offsets": [0, 16, 32, 36],
    "itemsize": 40,
}


class FragPorts(NamedTuple):
    """struct frag_ports."""

    sport: int = 0
    dport: int = 0

    def pack(self) -> bytes:
        """The 4 bytes of struct frag_ports."""
        return _FRAG_PORTS.pack(_be(self.sport, 2), _be(self.dport, 2))

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 4 bytes of struct frag_ports."""
        t = _FRAG_PORTS.unpack(_whole("FragPorts", data, 4))
        return cls(int.from_bytes(t[0], "big"), int.from_bytes(t[1], "big"))

    SIZE = 4


_FRAG_PORTS = Struct("<2s2s")
DTYPES["FragPorts"] = {
    "names": ["sport", "dport"],
    "formats": [">u2", ">u2"],
    "offsets": [0, 2],
    "itemsize": 4,
}


class MetricsValue(NamedTuple):
    """struct metrics_value."""

    count: int = 0
    bytes: int = 0

    def pack(self) -> _Bytes:
        """The 16 bytes of struct metrics_value."""
        return _METRICS_VALUE.pack(self.count, self.bytes)

    @classmethod
    def unpack(cls, data: _Bytes) -> Self:
        """From the 16 bytes of struct metrics_value."""
        t = _METRICS_VALUE.unpack(_whole("MetricsValue", data, 16))
        return cls(t[0], t[1])

    SIZE = 16


_METRICS_VALUE = Struct("<QQ")
DTYPES["MetricsValue"] = {
    "names": ["count", "bytes"],
    "formats": ["<u8", "<u8"],
    "offsets": [0, 8],
    "itemsize": 16,
}


class Runtime(NamedTuple):
    """cilium_runtime_config: one element. Bumping revision sends every flow through the slow
    path."""

    revision: int = 0
    events_lost: int = 0

    def pack(self) -> bytes:
        """The 16 bytes of struct runtime."""
        return _RUNTIME.pack(self.revision, self.events_lost)

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 16 bytes of struct runtime."""
        t = _RUNTIME.unpack(_whole("Runtime", data, 16))
        return cls(t[0], t[1])

    SIZE = 16


_RUNTIME = Struct("<I4xQ")
DTYPES["Runtime"] = {
    "names": ["revision", "events_lost"],
    "formats": ["<u4", "<u8"],
    "offsets": [0, 8],
    "itemsize": 16,
}


class Event(NamedTuple):
    """struct event."""

    time: int = 0
    type: int = 0
    subtype: int = 0
    source: int = 0
    direction: int = 0
    ct_state: int = 0
    flags: int = 0
    match: int = 0
    saddr: bytes = bytes(16)
    daddr: bytes = bytes(16)
    sport: int = 0
    dport: int = 0
    protocol: int = 0
    tcp_flags: int = 0
    dst_id: int = 0
    src_label: int = 0
    dst_label: int = 0
    rule: int = 0
    verdict: int = 0
    ifindex: int = 0
    length: int = 0
    policy_id: int = 0
    line: int = 0
    file: int = 0

    def pack(self) -> bytes:
        """The 88 bytes of struct event."""
        return _EVENT.pack(
            self.time,
            self.type,
            self.subtype,
            self.source,
            self.direction,
            self.ct_state,
            self.flags,
            self.match,
            _exact(self.saddr, 16),
            _exact(self.daddr, 16),
            _be(self.sport, 2),
            _be(self.dport, 2),
            self.protocol,
            self.tcp_flags,
            self.dst_id,
            self.src_label,
            self.dst_label,
            self.rule,
            self.verdict,
            self.ifindex,
            self.length,
            self.policy_id,
            self.line,
            self.file,
        )

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """From the 88 bytes of struct event."""
        t = _EVENT.unpack(_whole("Event", data, 88))
        return cls(
            t[0],
            t[1],
            t[2],
            t[3],
            t[4],
            t[5],
            t[6],
            t[7],
            t[8],
            t[9],
            int.from_bytes(t[10], "big"),
            int.from_bytes(t[11], "big"),
            t[12],
            t[13],
            t[14],
            t[15],
            t[16],
            t[17],
            t[18],
            t[19],
            t[20],
            t[21],
            t[22],
            t[23],
        )

    SIZE = 88


_EVENT = Struct("<QBBHBBBB16s16s2s2sBBHIIIiIIIHB1x")
DTYPES["Event"] = {
    "names": [
        "time",
        "type",
        "subtype",
        "source",
        "direction",
        "ct_state",
        "flags",
        "match",
        "saddr",
        "daddr",
        "sport",
        "dport",
        "protocol",
        "tcp_flags",
        "dst_id",
        "src_label",
        "dst_label",
        "rule",
        "verdict",
        "ifindex",
        "length",
        "policy_id",
        "line",
        "file",
    ],
    "formats": [
        "<u8",
        "<u1",
        "<u1",
        "<u2",
        "<u1",
        "<u1",
        "<u1",
        "<u1",
        ("u1", (16,)),
        ("u1", (16,)),
        ">u2",
        ">u2",
        "<u1",
        "<u1",
        "<u2",
        "<u4",
        "<u4",
        "<u4",
        "<i4",
        "<u4",
        "<u4",
        "<u4",
        "<u2",
        "<u1",
    ],
    "offsets": [
        0,
        8,
        9,
        10,
        12,
        13,
        14,
        15,
        16,
        32,
        48,
        50,
        52,
        53,
        54,
        56,
        60,
        64,
        68,
        72,
        76,
        80,
        84,
        86,
    ],
    "itemsize": 88,
}

#: Fingerprint of each type's layout; the loader compares those an object has.
FINGERPRINTS: Final[dict[str, str]] = {
    "struct addr": "f93c75eca5064771",
    "enum family": "5a24d4e87ef5dd21",
    "enum direction": "5794be29273bdb40",
    "enum identity": "e3ccb6ef6280b73e",
    "enum identity_scope": "694983ea16507790",
    "enum endpoint_ids": "3385ecacd15b6646",
    "struct endpoint_key": "1b80f35822d3f540",
    "enum endpoint_flags": "15aebe3854f75594",
    "struct endpoint_info": "b7ae8557f14344a0",
    "struct device_key": "303bb0cbc76b1395",
    "struct device_info": "8bf0c1158b8fd7fa",
    "struct ipcache_key": "f5c69fa22dd746af",
    "enum ipcache_flags": "ff24e79c3a21c765",
    "struct ipcache_info": "7ff1c036f6d939ab",
    "struct cidr_info": "22ad9818af1002dd",
    "struct node_key": "75cdb8f66077b3c5",
    "struct node_info": "6abac5e437cdb919",
    "enum policy_ids": "e86145265e47549a",
    "struct policy_ref": "62288332a8848d43",
    "enum policy_ref_flags": "842fbbcd9c0cef17",
    "enum policy_flags": "ef4bd8fe9741177e",
    "enum policy_shape": "d8b40bee1f9b393e",
    "struct policy_info": "662f0d91eb19fbf8",
    "struct policy_key": "f8acad307ad539ba",
    "enum policy_entry_flags": "0c948779fc0317de",
    "enum policy_precedence": "0aa8cc1a0d303717",
    "struct policy_entry": "9c52ea413de358db",
    "enum rule_ids": "c994fb1ad236781d",
    "struct ct_key": "fe84c810621ac118",
    "enum ct_flags": "9d01448b75d3abe9",
    "enum ct_action": "f23127ecd4ea5aac",
    "struct ct_dir": "e4d463d3c7700a0f",
    "struct ct_entry": "7f045b1f786902e9",
    "struct frag_key": "1ce67ee6ec22e3d5",
    "struct frag_ports": "65b435e034286fbc",
    "enum metrics_layout": "bebd53aeb673903e",
    "enum metrics_reason": "3f3bf02953d30eea",
    "struct metrics_value": "7ca4afb9dc58eea0",
    "enum rule_stats_layout": "1c5afb0e087472cb",
    "struct runtime": "fd92eb2f4c32711e",
    "enum event_type": "3f393bcfa9ee33cb",
    "enum trace_point": "95b7e82959b5d4b3",
    "enum ct_state": "fb452e3438736e03",
    "enum event_flags": "250572d837c6478f",
    "enum policy_match": "1732e3b55f623bca",
    "struct event": "13e1488d31da7260",
    "enum source_file": "58621811186b02c9",
    "enum drop_reason": "bc9c98c56eaeaece",
}

#: Fingerprint of all of them.
FINGERPRINT: Final = "669dda86be4d7831"
