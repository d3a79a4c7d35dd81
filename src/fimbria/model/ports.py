"""Reading ports and ICMP types of rules.

Limits: 40 ports or ICMP fields per list (Cilium's CRDs). Names of ICMP types: IANA's registries,
spelled as in Cilium's CRDs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fimbria.model.fields import UNSUPPORTED, Fields
from fimbria.model.policy import PolicyError, PortSpec, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_PORTS = 40
ANY_PORTS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
"""What protocol ANY means beside a port."""

_NAME = re.compile(r"(?=[a-z0-9-]{1,63}$)(?=.*[a-z])(?!-)(?!.*--).*[a-z0-9]$")
_UNSUPPORTED_PORT_RULE = (
    "rules", "terminatingTLS", "originatingTLS", "serverNames", "listener",
)  # fmt: skip

ICMP_TYPES = {
    "EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8,
    "RouterAdvertisement": 9, "RouterSelection": 10, "TimeExceeded": 11, "ParameterProblem": 12,
    "Timestamp": 13, "TimestampReply": 14, "Photuris": 40, "ExtendedEchoRequest": 42,
    "ExtendedEchoReply": 43,
}  # fmt: skip
ICMPV6_TYPES = {
    "DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4,
    "EchoRequest": 128, "EchoReply": 129, "MulticastListenerQuery": 130,
    "MulticastListenerReport": 131, "MulticastListenerDone": 132, "RouterSolicitation": 133,
    "RouterAdvertisement": 134, "NeighborSolicitation": 135, "NeighborAdvertisement": 136,
    "RedirectMessage": 137, "RouterRenumbering": 138, "ICMPNodeInformationQuery": 139,
    "ICMPNodeInformationResponse": 140, "InverseNeighborDiscoverySolicitation": 141,
    "InverseNeighborDiscoveryAdvertisement": 142, "HomeAgentAddressDiscoveryRequest": 144,
    "HomeAgentAddressDiscoveryReply": 145, "MobilePrefixSolicitation": 146,
    "MobilePrefixAdvertisement": 147, "DuplicateAddressRequestCodeSuffix": 157,
    "DuplicateAddressConfirmationCodeSuffix": 158, "ExtendedEchoRequest": 160,
    "ExtendedEchoReply": 161,
}  # fmt: skip
_FAMILIES = {"IPv4": (Protocol.ICMP, ICMP_TYPES), "IPv6": (Protocol.ICMPV6, ICMPV6_TYPES)}


def cilium_ports(rule: Fields) -> tuple[PortSpec, ...]:
    """Take `toPorts` or `icmps` of a Cilium rule; empty if neither is there. Raises PolicyError."""
    port_rules, icmp_rules = rule.items("toPorts"), rule.items("icmps")
    if port_rules and icmp_rules:
        raise PolicyError(rule.at("icmps"), "Combining ToPorts and ICMPs is not supported yet")
    return _flat(_port_rule(v, p) for p, v in port_rules or ()) + _flat(
        _icmp_rule(v, p) for p, v in icmp_rules or ()
    )


def kubernetes_port(value: Any, path: str) -> PortSpec:
    """Read one port of a NetworkPolicy; without a number it is all of the protocol (TCP)."""
    fields = Fields(value, path)
    text = fields.text("protocol", "TCP")
    if text not in ("TCP", "UDP", "SCTP"):
        raise PolicyError(fields.at("protocol"), f"{text!r} is none of TCP, UDP, SCTP")
    port = fields.any("port")
    end = fields.integer("endPort")
    fields.done()
    protocols = (Protocol[text],)
    if isinstance(port, str) and port:
        if end is not None:
            raise PolicyError(fields.at("endPort"), "takes a port number beside it, not a name")
        return PortSpec(path, protocols, None, _port_name(port, fields.at("port")))
    if port is None:
        if end is not None:
            raise PolicyError(fields.at("endPort"), "takes a port beside it")
        return PortSpec(path, protocols)
    first = _port_number(port, fields.at("port"), lowest=1)
    return PortSpec(path, protocols, _range(first, end, fields))


def _port_rule(value: Any, path: str) -> Iterable[PortSpec]:
    fields = Fields(value, path)
    for name in _UNSUPPORTED_PORT_RULE:
        if fields.has(name):
            raise PolicyError(fields.at(name), f"layer 7 is {UNSUPPORTED}")
    ports = fields.each("ports", _cilium_port) or ()
    fields.done()
    if not 1 <= len(ports) <= MAX_PORTS:
        raise PolicyError(fields.at("ports"), f"{len(ports)} ports where 1 to {MAX_PORTS} belong")
    return ports


def _cilium_port(value: Any, path: str) -> PortSpec:
    fields = Fields(value, path)
    text = fields.text("protocol") or "ANY"
    port = fields.any("port")
    end = fields.integer("endPort") or None
    fields.done()
    if text.upper() not in ("ANY", "TCP", "UDP", "SCTP"):
        hint = "; use icmps" if text.upper().startswith("ICMP") else ""
        raise PolicyError(fields.at("protocol"), f"{text!r} is none of TCP, UDP, SCTP, ANY{hint}")
    protocols = ANY_PORTS if text.upper() == "ANY" else (Protocol[text.upper()],)
    if isinstance(port, str) and port and not port.isdecimal():
        if end:
            raise PolicyError(fields.at("endPort"), "takes a port number beside it, not a name")
        return PortSpec(path, protocols, None, _port_name(port.lower(), fields.at("port")))
    first = 0 if port in (None, "") else _port_number(port, fields.at("port"), lowest=0)
    if first == 0:
        if end:
            raise PolicyError(fields.at("endPort"), "takes a port other than 0 beside it")
        return PortSpec(path, () if text.upper() == "ANY" else protocols)
    return PortSpec(path, protocols, _range(first, end, fields))


def _icmp_rule(value: Any, path: str) -> Iterable[PortSpec]:
    fields = Fields(value, path)
    found = fields.each("fields", _icmp_field) or ()
    fields.done()
    if not 1 <= len(found) <= MAX_PORTS:
        raise PolicyError(fields.at("fields"), f"{len(found)} where 1 to {MAX_PORTS} belong")
    return found


def _icmp_field(value: Any, path: str) -> PortSpec:
    fields = Fields(value, path)
    family = fields.text("family", "IPv4")
    kind = fields.any("type")
    fields.done()
    if family not in _FAMILIES:
        raise PolicyError(fields.at("family"), f"{family!r} is none of IPv4, IPv6")
    protocol, names = _FAMILIES[family]
    if isinstance(kind, str) and not kind.isdecimal():
        if kind not in names:
            raise PolicyError(fields.at("type"), f"{kind!r} is no ICMP type of {family}")
        return PortSpec(path, (protocol,), (names[kind], names[kind]))
    number = int(kind) if isinstance(kind, str) and kind.isascii() and len(kind) < 6 else kind
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 255:
        raise PolicyError(fields.at("type"), "expected a name or a number from 0 to 255")
    return PortSpec(path, (protocol,), (number, number))


def _port_number(value: Any, path: str, *, lowest: int) -> int:
    number = value
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 9:
        number = int(value)
    if isinstance(number, bool) or not isinstance(number, int) or not lowest <= number <= 65535:
        raise PolicyError(path, f"expected a name or a number from {lowest} to 65535")
    return number


def _range(first: int, end: int | None, fields: Fields) -> tuple[int, int]:
    if end is None:
        return first, first
    if not first <= end <= 65535:
        raise PolicyError(fields.at("endPort"), f"{end} is not from {first} to 65535")
    return first, end


def _port_name(value: str, path: str) -> str:
    if not _NAME.match(value):
        raise PolicyError(path, f"{value!r} is neither a port number nor a port name (RFC 6335)")
    return value


def _flat(parts: Iterable[Iterable[PortSpec]]) -> tuple[PortSpec, ...]:
    return tuple(port for part in parts for port in part)
