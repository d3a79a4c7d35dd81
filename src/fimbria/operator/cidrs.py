"""Which pod CIDRs are taken, and the next free one: pure arithmetic over the nodes' objects."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Network = IPv4Network | IPv6Network


class NoCidrLeft(Exception):
    """The pools of a family are used up."""


class ClusterPool:
    """The pools of one family and how they are cut. `version` is 4 or 6."""

    def __init__(self, version: int, cidrs: Sequence[str], mask_size: int) -> None:
        self.version = version
        self.mask_size = mask_size
        self._pools = [ip_network(cidr) for cidr in cidrs]

    def has(self, cidrs: Iterable[str]) -> bool:
        """Return whether a node has a pod CIDR of this family already."""
        return any(network.version == self.version for network in valid(cidrs))

    def next_free(self, taken: Iterable[Network]) -> Network:
        """Return the lowest CIDR that overlaps with none in `taken`; NoCidrLeft."""
        used = sorted(
            (int(network.network_address), int(network.broadcast_address))
            for network in taken
            if network.version == self.version
        )
        for pool in self._pools:
            size = 1 << (pool.max_prefixlen - self.mask_size)
            start = int(pool.network_address)
            for low, high in used:
                if low >= start + size:
                    break
                if high >= start:
                    start += -(-(high + 1 - start) // size) * size
            if start + size - 1 <= int(pool.broadcast_address):
                address = pool.network_address + (start - int(pool.network_address))
                return ip_network(f"{address}/{self.mask_size}")
        pools = ", ".join(str(pool) for pool in self._pools)
        raise NoCidrLeft(f"no /{self.mask_size} is free in {pools}: add another pool")


def valid(cidrs: Iterable[str]) -> Iterator[Network]:
    """Yield those texts that are CIDRs: an object of the API may hold anything."""
    for cidr in cidrs:
        try:
            yield ip_network(cidr)
        except ValueError:
            continue
