"""Reading ICMP types of rules.

Limit: 40 fields in a list (Cilium's CRDs). Names of types: IANA's registries, spelled as
there.
"""

from __future__ import annotations

from typing import Any

from fimbria.model.fields import Fields
from fimbria.model.policy import PolicyError, PortSpec, Protocol

MAX_FIELDS = 40

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


def icmp_rule(value: Any, path: str) -> tuple[PortSpec, ...]:
    """Read an item of `icmps`. Raises PolicyError."""
    fields = Fields(value, path)
    found = fields.each("fields", _icmp_field) or ()
    fields.done()
    if not 1 <= len(found) <= MAX_FIELDS:
        raise PolicyError(fields.at("fields"), f"{len(found)} where 1 to {MAX_FIELDS} belong")
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
