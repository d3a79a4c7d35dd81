"""Longest prefix match over the exact bytes of a compiled trie map, for many addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.datapath.abi import Family, IpcacheKey

if TYPE_CHECKING:
    from collections.abc import Mapping

_STATIC_BITS = 32


class LongestPrefix:
    """What cilium_ipcache or cilium_cidr says about addresses: the identity, first in both values.

    `datapath.lookup.ipcache_lookup` does the same one length at a time; here only the lengths that
    occur are asked.
    """

    def __init__(self, rows: Mapping[bytes, bytes]) -> None:
        self._found: dict[tuple[int, int], dict[int, int]] = {}
        for key, value in rows.items():
            row = IpcacheKey.unpack(key)
            bits = row.prefixlen - _STATIC_BITS
            size = 4 if row.family == Family.IPV4 else 16
            number = int.from_bytes(row.ip[:size], "big") >> (size * 8 - bits)
            same = self._found.setdefault((size, bits), {})
            same[number] = int.from_bytes(value[:4], "little")
        self._bits = {
            size: sorted((bits for one, bits in self._found if one == size), reverse=True)
            for size in (4, 16)
        }

    def find(self, ip: bytes) -> int:
        """Return the identity of the longest prefix of a packed address, 0 if there is none."""
        size = len(ip)
        number = int.from_bytes(ip, "big")
        for bits in self._bits[size]:
            identity = self._found[size, bits].get(number >> (size * 8 - bits))
            if identity is not None:
                return identity
        return 0
