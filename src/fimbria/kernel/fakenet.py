"""A namespace's devices and routes in memory, as strict as the kernel; part of `kernel.fake`."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from fimbria.kernel.errors import NetlinkError
from fimbria.kernel.netrows import (
    ROUTE_TYPES,
    TABLE_MAIN,
    Address,
    Link,
    Neighbour,
    Route,
    packed,
    split_prefix,
)

if TYPE_CHECKING:
    from collections.abc import Callable


class FakeNet:
    """Devices are put there by the test (`add_link`); everything else as through `netlink.Net`."""

    def __init__(self, step: Callable[[str], None], done: Callable[[], None]) -> None:
        self._step = step
        self._done = done
        self._links: dict[int, Link] = {1: Link(1, "lo", bytes(6), 65536, 0x49)}
        self._addresses: dict[tuple[int, str], Address] = {}
        self._routes: dict[tuple[str, int, int], Route] = {}
        self._neighbours: dict[tuple[int, str], Neighbour] = {}

    def add_link(
        self, name: str, *, mac: bytes = bytes(6), mtu: int = 1500, up: bool = True
    ) -> int:
        """A device that appears from outside; its ifindex."""
        if self.link(name):
            raise NetlinkError(errno.EEXIST, f"create {name}", "")
        ifindex = max(self._links) + 1
        self._links[ifindex] = Link(ifindex, name, mac, mtu, int(up))
        return ifindex

    def links(self) -> dict[int, Link]:
        """All devices by ifindex."""
        return dict(self._links)

    def link(self, which: str | int) -> Link | None:
        """A device by name or ifindex."""
        return next((row for row in self._links.values() if which in (row.name, row.ifindex)), None)

    def link_delete(self, which: str | int) -> bool:
        """Removes a device and what depends on it."""
        found = self.link(which)
        self._step(f"delete link {which}")
        if found:
            del self._links[found.ifindex]
            kept = found.ifindex.__ne__
            self._addresses = {k: r for k, r in self._addresses.items() if kept(r.ifindex)}
            self._routes = {k: r for k, r in self._routes.items() if kept(r.ifindex)}
            self._neighbours = {k: r for k, r in self._neighbours.items() if kept(r.ifindex)}
        self._done()
        return found is not None

    def addresses(self, ifindex: int = 0) -> list[Address]:
        """All addresses, or those of one device."""
        return [row for row in self._addresses.values() if ifindex in (0, row.ifindex)]

    def address_replace(self, row: Address, *, nodad: bool = True) -> None:
        """Adds an address; an equal one is fine."""
        split_prefix(row.address)
        self._device(row.ifindex, f"address {row.address}")
        self._step(f"address {row.address} nodad={nodad}")
        self._addresses[row.ifindex, row.address] = row
        self._done()

    def address_delete(self, row: Address) -> bool:
        """Removes an address; False if there is none."""
        self._step(f"delete address {row.address}")
        found = self._addresses.pop((row.ifindex, row.address), None) is not None
        self._done()
        return found

    def routes(self, *, table: int = TABLE_MAIN, protocol: int = 0) -> list[Route]:
        """Routes; 0 means any."""
        return [
            row
            for row in self._routes.values()
            if table in (0, row.table) and protocol in (0, row.protocol)
        ]

    def route_replace(self, row: Route) -> None:
        """Adds a route, or replaces the one of the same destination, metric and table."""
        what = f"route {row.destination}"
        raw, length = split_prefix(row.destination)
        if row.type not in ROUTE_TYPES:
            raise ValueError(f"{row.type!r} is no route type")
        if int.from_bytes(raw, "big") & ((1 << len(raw) * 8 - length) - 1):
            raise NetlinkError(errno.EINVAL, what, "bits behind the prefix")
        if row.type == "unicast":
            self._device(row.ifindex, what)
            if row.gateway and not row.onlink and not self._reaches(row):
                raise NetlinkError(errno.ENETUNREACH, what, "no route to the gateway")
        self._step(what)
        self._routes[_key(row)] = row
        self._done()

    def route_delete(self, row: Route) -> bool:
        """Removes exactly this route; False if there is none."""
        split_prefix(row.destination)
        self._step(f"delete route {row.destination}")
        found = self._routes.get(_key(row)) == row
        if found:
            del self._routes[_key(row)]
        self._done()
        return found

    def neighbours(self, ifindex: int = 0) -> list[Neighbour]:
        """Neighbour entries."""
        return [row for row in self._neighbours.values() if ifindex in (0, row.ifindex)]

    def neighbour_replace(self, row: Neighbour) -> None:
        """Adds or replaces a neighbour entry."""
        packed(row.address)
        self._device(row.ifindex, f"neighbour {row.address}")
        self._step(f"neighbour {row.address}")
        self._neighbours[row.ifindex, row.address] = row
        self._done()

    def neighbour_delete(self, row: Neighbour) -> bool:
        """Removes a neighbour entry; False if there is none."""
        self._step(f"delete neighbour {row.address}")
        found = self._neighbours.pop((row.ifindex, row.address), None) is not None
        self._done()
        return found

    def dump(self) -> list[str]:
        """Canonical lines: devices by name, then what refers to them."""
        names = {row.ifindex: row.name for row in self._links.values()}
        lines = [f"link {name}" for name in sorted(names.values())]
        lines += sorted(f"address {a.address} dev {names[a.ifindex]}" for a in self.addresses())
        for row in sorted(self._routes.values(), key=_key):
            device = f" dev {names[row.ifindex]}" if row.ifindex else ""
            rest = [f" {field} {value}" for field, value in _settings(row)]
            lines.append(f"route {row.type} {row.destination}{device}{''.join(rest)}")
        return lines

    def _device(self, ifindex: int, what: str) -> None:
        if ifindex not in self._links:
            raise NetlinkError(errno.ENODEV, what, "no such device")

    def _reaches(self, row: Route) -> bool:
        gateway = packed(row.gateway)
        covering = [r.destination for r in self._routes.values() if r.ifindex == row.ifindex]
        covering += [a.address for a in self._addresses.values() if a.ifindex == row.ifindex]
        for prefix in covering:
            raw, length = split_prefix(prefix)
            shift = len(raw) * 8 - length
            if (
                len(raw) == len(gateway)
                and length
                and (int.from_bytes(raw, "big") >> shift == int.from_bytes(gateway, "big") >> shift)
            ):
                return True
        return False


def _key(row: Route) -> tuple[str, int, int]:
    return row.destination, row.table, row.metric


def _settings(row: Route) -> list[tuple[str, object]]:
    plain = replace(row, destination="0.0.0.0/0", ifindex=0, type="unicast")
    default = Route("0.0.0.0/0")
    fields = ("gateway", "table", "metric", "mtu", "source", "onlink", "protocol")
    return [(f, getattr(plain, f)) for f in fields if getattr(plain, f) != getattr(default, f)]
