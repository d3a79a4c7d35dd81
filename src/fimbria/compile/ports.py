"""Ports as the shapes of policy keys: what follows a key's identity.

A suffix is the last four bytes of struct policy_key: port (network order), protocol, shape. A range
of ports becomes the fewest prefixes that cover it; prefix of n bits is shape n + 1, so that all
ports are the protocol's own shape 1. (bpf/abi.h, enum policy_shape.)
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from fimbria.datapath.abi import Direction, PolicyShape

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.model.policy import NamedPort, PortSpec

PORT_MASKS = (0, 0, *(0xFFFF << (16 - bits) & 0xFFFF for bits in range(1, 17)))
"""By shape: the bits of the port that it names."""


def way(direction: Direction) -> int:
    """Return the direction's bit in a key's shape."""
    return int(PolicyShape.EGRESS) if direction is Direction.EGRESS else 0


def prefixes(first: int, last: int) -> list[tuple[int, int]]:
    """Return (value, bits) of the fewest prefixes that cover ports first to last, both included."""
    found: list[tuple[int, int]] = []
    while first <= last:
        size = first & -first if first else 0x10000
        while size > last - first + 1:
            size >>= 1
        found.append((first, 17 - size.bit_length()))
        first += size
    return found


def suffix(port: int, protocol: int, shape: int, direction: Direction) -> bytes:
    """Return the four bytes of a key after its identity."""
    return bytes((port >> 8, port & 0xFF, protocol, shape | way(direction)))


def any_suffix(direction: Direction) -> bytes:
    """Return the suffix of every protocol and port."""
    return suffix(0, 0, PolicyShape.ANY, direction)


@lru_cache(maxsize=4096)
def port_suffixes(part: PortSpec, direction: Direction) -> tuple[bytes, ...]:
    """Return the suffixes of a part of a rule that names no port by name."""
    if not part.protocols:
        return (any_suffix(direction),)
    first, last = part.ports or (0, 0xFFFF)
    return tuple(
        suffix(value, protocol, bits + 1, direction)
        for protocol in part.protocols
        for value, bits in prefixes(first, last)
    )


def named_suffixes(
    part: PortSpec, direction: Direction, named: Iterable[NamedPort]
) -> tuple[bytes, ...]:
    """Return the suffixes of a port's name among the ports that somebody names so."""
    return tuple(
        suffix(number, protocol, PolicyShape.PORT, direction)
        for name, protocol, number in named
        if name == part.name and protocol in part.protocols
    )
