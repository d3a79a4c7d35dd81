"""Addresses of this node's pods, from the pod CIDRs that the operator gave to the node.

Pure bookkeeping: who has which address is known from the endpoints' state files, so a restart
rebuilds a pool with `claim`. An address that was just released is given out again last, because the
rest of the cluster may hold on to it for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

ROUTER = "router"


class PoolExhausted(Exception):
    """No address is free in any pod CIDR of the node."""


class AddressTaken(Exception):
    """The address belongs to another endpoint, or to no pod CIDR of this node."""


def router_address(cidr: Network) -> Address:
    """Return the node's own address in a pod CIDR: the first usable one."""
    return cidr[1]


class Pool:
    """One pod CIDR. Network, broadcast and router addresses are never given out."""

    def __init__(self, cidr: Network) -> None:
        if cidr.num_addresses < 4:
            raise ValueError(f"{cidr} is too small for a pod CIDR: no address is left for a pod")
        self.cidr = cidr
        self.owners: dict[Address, str] = {router_address(cidr): ROUTER}
        self._base = int(cidr.network_address)
        self._last = cidr.num_addresses - 2  # the last usable offset
        self._next = 2

    @property
    def capacity(self) -> int:
        """How many addresses can be in use, the router's included."""
        return self._last

    def allocate(self, owner: str) -> Address | None:
        """Return an address that is free, the one least recently given out; None if full."""
        if len(self.owners) >= self.capacity:
            return None
        for step in range(self._last - 1):
            offset = 2 + (self._next - 2 + step) % (self._last - 1)
            address = self.cidr[offset]
            if address not in self.owners:
                self._next = offset + 1
                self.owners[address] = owner
                return address
        return None

    def claim(self, address: Address, owner: str) -> None:
        """Note that `owner` has `address`; AddressTaken if that cannot be."""
        offset = int(address) - self._base
        if not 2 <= offset <= self._last:
            raise AddressTaken(f"{address} is not for pods in {self.cidr}")
        holder = self.owners.setdefault(address, owner)
        if holder != owner:
            raise AddressTaken(f"{address} belongs to {holder}")
        # Begin after the highest one in use, as the process before us would have gone on.
        self._next = max(self._next, offset + 1)

    def release(self, address: Address) -> bool:
        """Free an address; False if nobody had it. The router's stays."""
        if self.owners.get(address) == ROUTER:
            return False
        return self.owners.pop(address, None) is not None


@dataclass(frozen=True)
class Lease:
    """The addresses of one endpoint; None for a family that the node does not have."""

    ipv4: IPv4Address | None = None
    ipv6: IPv6Address | None = None


class Ipam:
    """All pod CIDRs of the node, in the order in which they are used."""

    def __init__(self, cidrs: Iterable[str]) -> None:
        self._pools: list[Pool] = []
        self.extend(cidrs)

    def extend(self, cidrs: Iterable[str]) -> None:
        """Add pod CIDRs that the node was given since."""
        known = {pool.cidr for pool in self._pools}
        self._pools += [Pool(cidr) for text in cidrs if (cidr := ip_network(text)) not in known]

    @property
    def pools(self) -> list[Pool]:
        """The pools, first used first."""
        return self._pools

    @property
    def cidrs(self) -> tuple[str, ...]:
        """Return the pod CIDRs in the order in which they were given."""
        return tuple(str(pool.cidr) for pool in self._pools)

    def router(self, version: int) -> Address | None:
        """Return the node's router address of a family (4 or 6)."""
        for pool in self._pools:
            if pool.cidr.version == version:
                return router_address(pool.cidr)
        return None

    def allocate(self, owner: str) -> Lease:
        """Return one address per family; PoolExhausted (and nothing taken) if one has none."""
        found: dict[int, Address] = {}
        for version in sorted({pool.cidr.version for pool in self._pools}):
            address = self._one(version, owner)
            if address is None:
                for taken in found.values():
                    self.release(taken)
                cidrs = ", ".join(str(p.cidr) for p in self._pools if p.cidr.version == version)
                raise PoolExhausted(f"all IPv{version} addresses of {cidrs} are in use")
            found[version] = address
        if not found:
            raise PoolExhausted("this node has no pod CIDR yet")
        ipv4, ipv6 = found.get(4), found.get(6)
        assert ipv4 is None or isinstance(ipv4, IPv4Address)
        assert ipv6 is None or isinstance(ipv6, IPv6Address)
        return Lease(ipv4, ipv6)

    def claim(self, address: str, owner: str) -> None:
        """Note an address that is in use already; AddressTaken if it cannot be."""
        wanted = ip_address(address)
        for pool in self._pools:
            if wanted.version == pool.cidr.version and wanted in pool.cidr:
                pool.claim(wanted, owner)
                return
        raise AddressTaken(f"{address} is in no pod CIDR of this node")

    def release(self, address: str | Address) -> bool:
        """Free an address; False if nobody had it."""
        wanted = ip_address(address)
        return any(pool.release(wanted) for pool in self._pools if wanted in pool.cidr)

    def _one(self, version: int, owner: str) -> Address | None:
        for pool in self._pools:
            if pool.cidr.version == version:
                address = pool.allocate(owner)
                if address is not None:
                    return address
        return None

    def summary(self) -> list[tuple[int, int, int, str]]:
        """Return (family, in use, capacity, CIDR) of each pool, for `status`."""
        return [(p.cidr.version, len(p.owners), p.capacity, str(p.cidr)) for p in self._pools]
