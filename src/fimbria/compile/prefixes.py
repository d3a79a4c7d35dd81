"""A set of address prefixes that can be asked what is inside a prefix, and what is around it.

The prefixes inside another one are neighbours in the order (address, bits), because a prefix's host
bits are zero; those around one are found by cutting it to the lengths that occur.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter
from typing import TYPE_CHECKING

from fimbria.model.peers import Prefix

if TYPE_CHECKING:
    from collections.abc import Iterator


class PrefixSet:
    """Prefixes of both families."""

    def __init__(self) -> None:
        self._members: set[Prefix] = set()
        self._sorted: dict[int, list[Prefix]] = {4: [], 16: []}
        self._lengths: dict[int, Counter[int]] = {4: Counter(), 16: Counter()}

    def add(self, prefix: Prefix) -> None:
        """Take in a prefix that is not there yet."""
        self._members.add(prefix)
        insort(self._sorted[len(prefix.ip)], prefix)
        self._lengths[len(prefix.ip)][prefix.bits] += 1

    def remove(self, prefix: Prefix) -> None:
        """Take out a prefix that is there."""
        self._members.remove(prefix)
        rows, lengths = self._sorted[len(prefix.ip)], self._lengths[len(prefix.ip)]
        del rows[bisect_left(rows, prefix)]
        lengths[prefix.bits] -= 1
        if not lengths[prefix.bits]:
            del lengths[prefix.bits]

    def inside(self, prefix: Prefix) -> list[Prefix]:
        """Return the members that `prefix` covers, itself included, in order."""
        rows, size = self._sorted[len(prefix.ip)], len(prefix.ip) * 8
        host = (1 << size - prefix.bits) - 1
        last = (int.from_bytes(prefix.ip, "big") | host).to_bytes(len(prefix.ip), "big")
        return rows[bisect_left(rows, prefix) : bisect_right(rows, Prefix(last, size))]

    def around(self, prefix: Prefix) -> Iterator[Prefix]:
        """Yield the members that cover `prefix`, itself included, in no order."""
        size, number = len(prefix.ip), int.from_bytes(prefix.ip, "big")
        for bits in self._lengths[size]:
            if bits <= prefix.bits:
                host = size * 8 - bits
                found = Prefix((number >> host << host).to_bytes(size, "big"), bits)
                if found in self._members:
                    yield found

    def __contains__(self, prefix: object) -> bool:
        return prefix in self._members

    def __iter__(self) -> Iterator[Prefix]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
