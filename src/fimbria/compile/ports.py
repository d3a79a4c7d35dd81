"""Ports as the shapes of policy keys: what follows a key's identity.

A suffix is the last four bytes of struct policy_key: port (network order), protocol, shape. A range
of ports becomes the fewest prefixes that cover it; prefix of n bits is shape n + 1, so that all
ports are the protocol's own shape 1. (bpf/abi.h, enum policy_shape.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from fimbria.datapath.abi import PolicyShape
from fimbria.model.policy import Direction, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.compile.state import NamedPort
    from fimbria.model.policy import Port

ANY_PORT_PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
"""What a port of protocol ANY stands for."""

PORT_MASKS = (0, 0, *(0xFFFF << (16 - bits) & 0xFFFF for bits in range(1, 17)))
"""By shape: the bits of the port that it names."""


def way(direction: Direction) -> int:
    """The direction's bit in a key's shape."""
    return int(PolicyShape.EGRESS) if direction is Direction.EGRESS else 0


def prefixes(first: int, last: int) -> list[tuple[int, int]]:
    """(value, bits) of the fewest prefixes that cover the ports first to last, both included."""
    found: list[tuple[int, int]] = []
    while first <= last:
        size = first & -first if first else 0x10000
        while size > last - first + 1:
            size >>= 1
        found.append((first, 17 - size.bit_length()))
        first += size
    return found


def suffix(port: int, protocol: int, shape: int, direction: Direction) -> bytes:
    """The four bytes of a key after its identity."""
    return bytes((port >> 8, port & 0xFF, protocol, shape | way(direction)))


def any_suffix(direction: Direction) -> bytes:
    """Every protocol and port."""
    return suffix(0, 0, PolicyShape.ANY, direction)


@lru_cache(maxsize=4096)
def port_suffixes(port: Port, direction: Direction) -> tuple[bytes, ...]:
    """The suffixes of a port that is not a name."""
    if port.protocol is Protocol.ANY:
        if port.is_all:
            return (any_suffix(direction),)
        protocols = ANY_PORT_PROTOCOLS
    else:
        protocols = (port.protocol,)
    return tuple(
        suffix(value, protocol, bits + 1, direction)
        for protocol in protocols
        for value, bits in prefixes(port.first, port.last)
    )


def named_suffixes(
    port: Port, direction: Direction, named: Iterable[NamedPort]
) -> tuple[bytes, ...]:
    """The suffixes of a named port among the ports that somebody has; none if it has no such."""
    return tuple(
        suffix(number, protocol, PolicyShape.PORT, direction)
        for name, protocol, number in named
        if name == port.name and port.protocol in (Protocol.ANY, protocol)
    )
