"""Links, addresses, routes, rules and neighbours as frozen values, and their netlink forms.

Addresses and prefixes are text in their usual notation ("10.0.1.7/32", "fd00::1"), MACs six
bytes; everything else is the kernel's number. Encoding a row and decoding what the kernel gives
back for it yields the same row, which is what makes comparing desired with actual possible.

Formats: rtnetlink(7), include/uapi/linux/if_link.h, rtnetlink.h, fib_rules.h, neighbour.h.
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass

from fimbria.kernel.rtnl import Message, attr, attr_u32, attrs, nested, text, u32

# Marks our routes, so that they can be told from others' (rtnetlink(7): above 4 is free for use).
ROUTE_PROTOCOL = 0xF1

IFF_UP = 0x1
IFF_NOARP = 0x80
TABLE_MAIN = 254

_LINK = struct.Struct("=BxHiII")
_ADDR = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGH = struct.Struct("=BxxxiHBB")

ROUTE_TYPES = {"unicast": 1, "local": 2, "broadcast": 3, "multicast": 5, "blackhole": 6,
               "unreachable": 7, "prohibit": 8, "throw": 9}  # fmt: skip
_ROUTE_NAMES = {number: name for name, number in ROUTE_TYPES.items()}
_RTNH_F_ONLINK = 4
SCOPE_GLOBAL, SCOPE_LINK, SCOPE_HOST = 0, 253, 254
_REFUSING = frozenset({"unreachable", "blackhole", "prohibit"})
_IP6_METRIC = 1024
_IFA_F_NODAD = 0x02
NUD_PERMANENT = 0x80


@dataclass(frozen=True, slots=True)
class Link:
    """A network device. `peer` is the other end's ifindex (veth), in `peer_netnsid` if not None."""

    ifindex: int
    name: str
    mac: bytes
    mtu: int
    flags: int
    kind: str = ""
    peer: int = 0
    peer_netnsid: int | None = None
    master: int = 0
    alias: str = ""

    @property
    def up(self) -> bool:
        """Administratively up."""
        return bool(self.flags & IFF_UP)


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a device, with its prefix length: "10.0.1.7/32"."""

    ifindex: int
    address: str
    scope: int = SCOPE_GLOBAL


@dataclass(frozen=True, slots=True)
class Route:
    """A route; `destination` is a prefix, "0.0.0.0/0" or "::/0" for the default.

    `metric` 0 is the kernel's own (for IPv6 it means 1024). `mtu` 0 means the device's. `onlink`
    says that the gateway is reachable on the device though no route covers it. Routes that
    refuse (unreachable, blackhole, prohibit) have no device.
    """

    destination: str
    ifindex: int = 0
    gateway: str = ""
    type: str = "unicast"
    table: int = TABLE_MAIN
    metric: int = 0
    mtu: int = 0
    source: str = ""
    onlink: bool = False
    protocol: int = ROUTE_PROTOCOL


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy-routing rule: packets with `mark` under `mask` look into `table`."""

    priority: int
    table: int
    mark: int = 0
    mask: int = 0
    family: int = socket.AF_INET
    protocol: int = ROUTE_PROTOCOL


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An ARP or neighbour-discovery entry."""

    ifindex: int
    address: str
    mac: bytes
    state: int = NUD_PERMANENT


def family_of(address: str) -> int:
    """AF_INET or AF_INET6 by notation."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def packed(address: str) -> bytes:
    """Network-order bytes; ValueError if it is no address."""
    try:
        return socket.inet_pton(family_of(address), address)
    except OSError as error:
        raise ValueError(f"{address!r} is no IP address") from error


def split_prefix(prefix: str) -> tuple[bytes, int]:
    """Network-order bytes and prefix length of "address/length"; ValueError if it is none."""
    address, _, length = prefix.partition("/")
    raw = packed(address)
    if not length.isdecimal() or int(length) > len(raw) * 8:
        raise ValueError(f"{prefix!r} is no prefix")
    return raw, int(length)


def _shown(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def link_payload(ifindex: int, flags: int = 0, change: int = 0, *attributes: bytes) -> bytes:
    """Payload of a link request."""
    return _LINK.pack(socket.AF_UNSPEC, 0, ifindex, flags, change) + b"".join(attributes)


def link_row(message: Message) -> Link:
    """Decodes RTM_NEWLINK or RTM_DELLINK."""
    _, _, ifindex, flags, _ = _LINK.unpack_from(message.payload)
    found = attrs(message.payload, _LINK.size)
    info = attrs(found[18]) if 18 in found else {}
    return Link(
        ifindex=ifindex,
        name=text(found.get(3, b"")),
        mac=found.get(1, b""),
        mtu=u32(found.get(4, bytes(4))),
        flags=flags,
        kind=text(info.get(1, b"")),
        peer=u32(found.get(5, bytes(4))),
        peer_netnsid=u32(found[37]) if 37 in found else None,
        master=u32(found.get(10, bytes(4))),
        alias=text(found.get(20, b"")),
    )


def address_payload(row: Address, *, nodad: bool = False) -> bytes:
    """Payload of an address request."""
    raw, length = split_prefix(row.address)
    flags = _IFA_F_NODAD if nodad and len(raw) == 16 else 0
    header = _ADDR.pack(family_of(row.address), length, flags, row.scope, row.ifindex)
    return header + attr(2, raw) + attr(1, raw)


def address_row(message: Message) -> Address:
    """Decodes RTM_NEWADDR or RTM_DELADDR."""
    _, length, _, scope, ifindex = _ADDR.unpack_from(message.payload)
    found = attrs(message.payload, _ADDR.size)
    return Address(ifindex, f"{_shown(found.get(2) or found[1])}/{length}", scope)


def route_payload(row: Route) -> bytes:
    """Payload of a route request; ValueError for a row that cannot be one."""
    raw, length = split_prefix(row.destination)
    if row.type not in ROUTE_TYPES:
        raise ValueError(f"{row.type!r} is no route type")
    header = _ROUTE.pack(
        *(family_of(row.destination), length, 0, 0),
        *(row.table if row.table < 256 else 0, row.protocol),
        *(_scope(row), ROUTE_TYPES[row.type], _RTNH_F_ONLINK if row.onlink else 0),
    )
    parts = [header, attr(1, raw), attr_u32(15, row.table)]
    if row.ifindex:
        parts.append(attr_u32(4, row.ifindex))
    if row.gateway:
        parts.append(_gateway(row))
    if row.metric:
        parts.append(attr_u32(6, row.metric))
    if row.source:
        parts.append(attr(7, packed(row.source)))
    if row.mtu:
        parts.append(nested(8, attr_u32(2, row.mtu)))
    return b"".join(parts)


def _scope(row: Route) -> int:
    """What ip-route(8) chooses: how far the destination is from here (IPv4 only)."""
    if ":" in row.destination or row.gateway or row.type in _REFUSING:
        return SCOPE_GLOBAL
    return SCOPE_HOST if row.type == "local" else SCOPE_LINK


def _gateway(row: Route) -> bytes:
    if family_of(row.gateway) == family_of(row.destination):
        return attr(5, packed(row.gateway))
    # RTA_VIA: a gateway of the other family
    return attr(18, struct.pack("=H", family_of(row.gateway)) + packed(row.gateway))


def route_row(message: Message) -> Route:
    """Decodes RTM_NEWROUTE or RTM_DELROUTE (of a route with one next hop)."""
    family, length, _, _, table, protocol, _, kind, flags = _ROUTE.unpack_from(message.payload)
    found = attrs(message.payload, _ROUTE.size)
    metrics = attrs(found[8]) if 8 in found else {}
    nothing = bytes(4 if family == socket.AF_INET else 16)
    gateway = found.get(5) or found.get(18, b"")[2:]
    name = _ROUTE_NAMES.get(kind, str(kind))
    metric = u32(found.get(6, bytes(4)))
    return Route(
        destination=f"{_shown(found.get(1, nothing))}/{length}",
        ifindex=0 if name in _REFUSING else u32(found.get(4, bytes(4))),
        gateway=_shown(gateway) if gateway else "",
        type=name,
        table=u32(found[15]) if 15 in found else table,
        metric=0 if family == socket.AF_INET6 and metric == _IP6_METRIC else metric,
        mtu=u32(metrics.get(2, bytes(4))),
        source=_shown(found[7]) if 7 in found else "",
        onlink=bool(flags & _RTNH_F_ONLINK),
        protocol=protocol,
    )


def route_query(family: int, table: int, protocol: int) -> bytes:
    """Payload of a route dump; 0 for table or protocol means any."""
    header = _ROUTE.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
    return header + (attr_u32(15, table) if table else b"")


def rule_payload(row: Rule) -> bytes:
    """Payload of a rule request."""
    header = _ROUTE.pack(row.family, 0, 0, 0, row.table if row.table < 256 else 0, 0, 0, 1, 0)
    parts = [
        header,
        attr_u32(6, row.priority),
        attr_u32(15, row.table),
        attr(21, bytes([row.protocol])),
    ]
    if row.mask:
        parts += [attr_u32(10, row.mark), attr_u32(16, row.mask)]
    return b"".join(parts)


def rule_row(message: Message) -> Rule:
    """Decodes RTM_NEWRULE."""
    family, _, _, _, table, _, _, _, _ = _ROUTE.unpack_from(message.payload)
    found = attrs(message.payload, _ROUTE.size)
    return Rule(
        priority=u32(found.get(6, bytes(4))),
        table=u32(found[15]) if 15 in found else table,
        mark=u32(found.get(10, bytes(4))),
        mask=u32(found.get(16, bytes(4))),
        family=family,
        protocol=found.get(21, b"\0")[0],
    )


def neighbour_payload(row: Neighbour) -> bytes:
    """Payload of a neighbour request."""
    header = _NEIGH.pack(family_of(row.address), row.ifindex, row.state, 0, 0)
    return header + attr(1, packed(row.address)) + (attr(2, row.mac) if row.mac else b"")


def neighbour_row(message: Message) -> Neighbour | None:
    """Decodes RTM_NEWNEIGH; None for entries that are no IP neighbours (a bridge's)."""
    family, ifindex, state, _, _ = _NEIGH.unpack_from(message.payload)
    found = attrs(message.payload, _NEIGH.size)
    if family not in (socket.AF_INET, socket.AF_INET6) or 1 not in found:
        return None
    return Neighbour(ifindex, _shown(found[1]), found.get(2, b""), state)
