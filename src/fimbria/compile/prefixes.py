"""A set of address prefixes that can be asked what is inside a prefix, and what is around it.

The prefixes inside another one are neighbours in the order (address, bits), because a prefix's host
bits are zero; those around one are found by cutting it to the lengths that occur.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING

from fimbria.model.peers import Prefix

if TYPE_CHECKING:
    from collections.abc import Iterator


class PrefixSet:
    """Prefixes of both families."""

    def __init__(self) -> None:
        self._members: set[Prefix] = set()
        self._sorted: dict[int, list[Prefix]] = {4: [], 16: []}
        self._by_length: dict[int, dict[int, dict[int, Prefix]]] = {4: {}, 16: {}}
        """By address length, bits, and these bits as a number."""

    def add(self, prefix: Prefix) -> None:
        """Take in a prefix that is not there yet."""
        size = len(prefix.ip)
        self._members.add(prefix)
        insort(self._sorted[size], prefix)
        self._by_length[size].setdefault(prefix.bits, {})[_number(prefix) >> _host(prefix)] = prefix

    def remove(self, prefix: Prefix) -> None:
        """Take out a prefix that is there."""
        size = len(prefix.ip)
        self._members.remove(prefix)
        rows, lengths = self._sorted[size], self._by_length[size]
        del rows[bisect_left(rows, prefix)]
        del lengths[prefix.bits][_number(prefix) >> _host(prefix)]
        if not lengths[prefix.bits]:
            del lengths[prefix.bits]

    def inside(self, prefix: Prefix) -> list[Prefix]:
        """Return the members that `prefix` covers, itself included, in order."""
        rows, size = self._sorted[len(prefix.ip)], len(prefix.ip)
        last = (_number(prefix) | (1 << _host(prefix)) - 1).to_bytes(size, "big")
        return rows[bisect_left(rows, prefix) : bisect_right(rows, Prefix(last, size * 8))]

    def around(self, prefix: Prefix) -> Iterator[Prefix]:
        """Yield the members that cover `prefix`, itself included, in no order."""
        size, number = len(prefix.ip), _number(prefix)
        for bits, members in self._by_length[size].items():
            if bits <= prefix.bits and (found := members.get(number >> size * 8 - bits)):
                yield found

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._members

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def _number(prefix: Prefix) -> int:
    return int.from_bytes(prefix.ip, "big")


def _host(prefix: Prefix) -> int:
    """Return how many bits of an address the prefix leaves open."""
    return len(prefix.ip) * 8 - prefix.bits
