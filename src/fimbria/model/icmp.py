"""ICMP types by number or name (IANA's, as Cilium spells them)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.model.policy import PolicyError, Port, Protocol

if TYPE_CHECKING:
    from fimbria.model.fields import Fields

IPV4 = {
    "EchoReply": 0,
    "DestinationUnreachable": 3,
    "Redirect": 5,
    "Echo": 8,
    "EchoRequest": 8,
    "RouterAdvertisement": 9,
    "RouterSelection": 10,
    "TimeExceeded": 11,
    "ParameterProblem": 12,
    "Timestamp": 13,
    "TimestampReply": 14,
    "Photuris": 40,
    "ExtendedEchoRequest": 42,
    "ExtendedEchoReply": 43,
}
IPV6 = {
    "DestinationUnreachable": 1,
    "PacketTooBig": 2,
    "TimeExceeded": 3,
    "ParameterProblem": 4,
    "EchoRequest": 128,
    "EchoReply": 129,
    "MulticastListenerQuery": 130,
    "MulticastListenerReport": 131,
    "MulticastListenerDone": 132,
    "RouterSolicitation": 133,
    "RouterAdvertisement": 134,
    "NeighborSolicitation": 135,
    "NeighborAdvertisement": 136,
    "RedirectMessage": 137,
    "RouterRenumbering": 138,
    "ICMPNodeInformationQuery": 139,
    "ICMPNodeInformationResponse": 140,
    "DuplicateAddressRequest": 157,
    "DuplicateAddressConfirmation": 158,
    "ExtendedEchoRequest": 160,
    "ExtendedEchoReply": 161,
}
FAMILIES = {"IPv4": (Protocol.ICMP, IPV4), "IPv6": (Protocol.ICMPV6, IPV6)}


def icmp_type(fields: Fields) -> Port:
    """One entry of icmps.fields: the type as a port of its protocol."""
    fields.only(("family", "type"))
    family = fields.text("family") or "IPv4"
    if family not in FAMILIES:
        raise PolicyError(fields.at("family"), f"{family}; must be IPv4 or IPv6")
    protocol, names = FAMILIES[family]
    given = fields.get("type")
    if isinstance(given, str):
        if given.isdecimal() and given.isascii():
            given = int(given)
        elif given in names:
            given = names[given]
    if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= 255:
        raise PolicyError(fields.at("type"), "must be 0 to 255, or a type's name")
    return Port(protocol, given, given, path=fields.path)
