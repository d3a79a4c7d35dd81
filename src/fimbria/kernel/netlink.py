"""Devices, addresses, routes, rules and neighbours of one network namespace.

A `Net` is a netlink socket in a namespace; what is made through it is made there, whatever thread
calls. Changes are idempotent where the caller cannot know better (`replace`, `delete` of what is
gone) and strict where an existing thing would be a mistake (creating a device).
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import Self

from fimbria.kernel import netrows, rtnl
from fimbria.kernel.errors import NetlinkError, is_gone, is_not_found, is_unsupported
from fimbria.kernel.netns import run_in
from fimbria.kernel.netrows import Address, Link, Neighbour, Route, Rule
from fimbria.kernel.rtnl import RtnlSocket, attr, attr_text, attr_u32, attrs, nested, text

__all__ = ["Address", "Link", "Neighbour", "Net", "Route", "Rule"]

(_ADDRESS, _IFNAME, _MTU, _LINK, _MASTER, _LINKINFO, _ALIAS, _NETNS_FD, _EXT_MASK) = (
    1, 3, 4, 5, 10, 18, 20, 28, 29)  # fmt: skip
_GET_FILTER = 46  # RTM_GETTFILTER
_TC_KIND, _TC_OPTIONS, _TC_BPF_NAME = 1, 2, 7
_CLSACT_INGRESS, _CLSACT_EGRESS = 0xFFFFFFF2, 0xFFFFFFF3
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_SKIP_STATS = attr_u32(_EXT_MASK, 8)
_VXLAN_LEARNING, _VXLAN_PORT, _VXLAN_EXTERNAL = 7, 15, 25
_NEW = rtnl.F_CREATE | rtnl.F_EXCL
_REPLACE = rtnl.F_CREATE | rtnl.F_REPLACE


class Net:
    """The network of one namespace; `netns` is its descriptor, None the calling thread's own."""

    def __init__(self, netns: int | None = None) -> None:
        self._rtnl = RtnlSocket() if netns is None else run_in(netns, RtnlSocket)

    def close(self) -> None:
        """Closes the socket."""
        self._rtnl.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- devices

    def links(self) -> dict[int, Link]:
        """All devices by ifindex."""
        found = self._rtnl.dump(
            rtnl.RTM_GETLINK, netrows.link_payload(0, 0, 0, _SKIP_STATS), "list links"
        )
        return {row.ifindex: row for row in map(netrows.link_row, found)}

    def link(self, which: str | int) -> Link | None:
        """A device by name or ifindex; None if there is none."""
        name = b"" if isinstance(which, int) else attr_text(_IFNAME, which)
        ifindex = which if isinstance(which, int) else 0
        payload = netrows.link_payload(ifindex, 0, 0, name, _SKIP_STATS)
        try:
            return netrows.link_row(self._rtnl.get(rtnl.RTM_GETLINK, payload, f"link {which}"))
        except NetlinkError as error:
            if is_gone(error):
                return None
            raise

    def veth_create(
        self,
        name: str,
        peer: str,
        *,
        peer_netns: int | None = None,
        mac: bytes = b"",
        peer_mac: bytes = b"",
        mtu: int = 0,
    ) -> int:
        """Makes a pair, the peer directly inside another namespace, and returns `name`'s ifindex.

        NetlinkError (is_exists) if either name is taken.
        """
        inner = [attr_text(_IFNAME, peer), *_settings(peer_mac, mtu)]
        if peer_netns is not None:
            inner.append(attr_u32(_NETNS_FD, peer_netns))
        data = nested(_VETH_PEER, netrows.link_payload(0), *inner)
        return self._create(name, "veth", data, _settings(mac, mtu))

    def vxlan_create(self, name: str, *, port: int, mtu: int = 0, mac: bytes = b"") -> int:
        """Makes a VXLAN device whose tunnel keys are set per packet, and returns its ifindex."""
        data = b"".join(
            (
                attr(_VXLAN_EXTERNAL, b"\1"),
                attr(_VXLAN_LEARNING, b"\0"),
                attr(_VXLAN_PORT, struct.pack("!H", port)),
            )
        )
        return self._create(name, "vxlan", data, _settings(mac, mtu))

    def link_create(self, name: str, kind: str, *, mac: bytes = b"", mtu: int = 0) -> int:
        """Makes a device of a kind without options (bridge, dummy), and returns its ifindex."""
        return self._create(name, kind, b"", _settings(mac, mtu))

    def _create(self, name: str, kind: str, data: bytes, settings: list[bytes]) -> int:
        info = [attr(_INFO_KIND, kind.encode())]
        if data:
            info.append(nested(_INFO_DATA, data))
        payload = netrows.link_payload(
            0, 0, 0, attr_text(_IFNAME, name), *settings, nested(_LINKINFO, *info)
        )
        self._rtnl.request(rtnl.RTM_NEWLINK, _NEW, payload, f"create {kind} {name}")
        made = self.link(name)
        if made is None:
            raise NetlinkError(errno.ENODEV, f"create {kind} {name}", "gone again at once")
        return made.ifindex

    def link_set(
        self,
        ifindex: int,
        *,
        up: bool | None = None,
        arp: bool | None = None,
        name: str = "",
        mac: bytes = b"",
        mtu: int = 0,
        alias: str = "",
        master: int | None = None,
        netns: int | None = None,
    ) -> None:
        """Changes a device; what is not given stays. A device that moves to `netns` goes down.

        `arp` False: it asks nobody for addresses, neither by ARP nor by neighbour discovery.
        """
        settings = _settings(mac, mtu)
        if name:
            settings.append(attr_text(_IFNAME, name))
        if alias:
            settings.append(attr(_ALIAS, alias.encode()))
        if master is not None:
            settings.append(attr_u32(_MASTER, master))
        if netns is not None:
            settings.append(attr_u32(_NETNS_FD, netns))
        flags, change = (0, 0) if up is None else (netrows.IFF_UP * up, netrows.IFF_UP)
        if arp is not None:
            flags, change = flags | netrows.IFF_NOARP * (not arp), change | netrows.IFF_NOARP
        payload = netrows.link_payload(ifindex, flags, change, *settings)
        self._rtnl.request(rtnl.RTM_NEWLINK, 0, payload, f"set link {ifindex}")

    def link_delete(self, which: str | int) -> bool:
        """Removes a device (and a veth's other end); False if there is none."""
        name = b"" if isinstance(which, int) else attr_text(_IFNAME, which)
        payload = netrows.link_payload(which if isinstance(which, int) else 0, 0, 0, name)
        return self._remove(rtnl.RTM_DELLINK, payload, f"delete link {which}")

    def filters(self, ifindex: int, *, ingress: bool) -> list[str]:
        """Names of the tc filters (clsact) on one side of a device: a program's, else the kind."""
        parent = _CLSACT_INGRESS if ingress else _CLSACT_EGRESS
        payload = struct.pack("=BxxxiIII", 0, ifindex, 0, parent, 0)
        names: list[str] = []
        try:
            dumped = self._rtnl.dump(_GET_FILTER, payload, f"list filters of {ifindex}")
        except NetlinkError as error:
            if is_unsupported(error) or is_gone(error):
                return names
            raise
        for message in dumped:
            found = attrs(message.payload, len(payload))
            options = attrs(found.get(_TC_OPTIONS, b""))
            if not options:
                continue  # a filter's head: the filters follow
            name = options.get(_TC_BPF_NAME) if found.get(_TC_KIND) == b"bpf\0" else None
            names.append(text(name or found.get(_TC_KIND, b"?")))
        return names

    # -- addresses

    def addresses(self, ifindex: int = 0) -> list[Address]:
        """All addresses, or those of one device."""
        found = self._rtnl.dump(
            rtnl.RTM_GETADDR, struct.pack("=BBBBi", 0, 0, 0, 0, ifindex), "list addresses"
        )
        return [netrows.address_row(message) for message in found]

    def address_replace(self, row: Address, *, nodad: bool = True) -> None:
        """Adds an address; an equal one is fine. `nodad` makes an IPv6 address usable at once."""
        payload = netrows.address_payload(row, nodad=nodad)
        self._rtnl.request(rtnl.RTM_NEWADDR, _REPLACE, payload, f"address {row.address}")

    def address_delete(self, row: Address) -> bool:
        """Removes an address; False if there is none."""
        payload = netrows.address_payload(row)
        return self._remove(rtnl.RTM_DELADDR, payload, f"delete address {row.address}")

    # -- routes

    def routes(self, *, table: int = netrows.TABLE_MAIN, protocol: int = 0) -> list[Route]:
        """Routes of both families; `table` or `protocol` 0 means any. Multipath routes are not
        among them.
        """
        rows: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            query = netrows.route_query(family, table, protocol)
            try:
                found = self._rtnl.dump(rtnl.RTM_GETROUTE, query, "list routes")
            except NetlinkError as error:
                if is_not_found(error):  # a table that does not exist yet
                    continue
                raise
            rows += [netrows.route_row(m) for m in found if m.type == rtnl.RTM_NEWROUTE]
        return rows

    def route_replace(self, row: Route) -> None:
        """Adds a route, or replaces the one of the same destination, metric and table."""
        payload = netrows.route_payload(row)
        self._rtnl.request(rtnl.RTM_NEWROUTE, _REPLACE, payload, f"route {row.destination}")

    def route_delete(self, row: Route) -> bool:
        """Removes exactly this route; False if there is none."""
        payload = netrows.route_payload(row)
        return self._remove(rtnl.RTM_DELROUTE, payload, f"delete route {row.destination}")

    # -- rules and neighbours

    def rules(self, family: int = socket.AF_INET) -> list[Rule]:
        """Policy-routing rules of a family."""
        query = struct.pack("=BBBBBBBBI", family, 0, 0, 0, 0, 0, 0, 0, 0)
        found = self._rtnl.dump(rtnl.RTM_GETRULE, query, "list rules")
        return [netrows.rule_row(message) for message in found]

    def rule_add(self, row: Rule) -> None:
        """Adds a rule; NetlinkError (is_exists) if it is there."""
        payload = netrows.rule_payload(row)
        self._rtnl.request(rtnl.RTM_NEWRULE, _NEW, payload, f"rule {row.priority}")

    def rule_delete(self, row: Rule) -> bool:
        """Removes a rule; False if there is none."""
        payload = netrows.rule_payload(row)
        return self._remove(rtnl.RTM_DELRULE, payload, f"delete rule {row.priority}")

    def neighbours(self, ifindex: int = 0) -> list[Neighbour]:
        """Neighbour entries, of one device if `ifindex` is given."""
        query = struct.pack("=BxxxiHBB", 0, 0, 0, 0, 0)
        query += attr_u32(8, ifindex) if ifindex else b""
        found = self._rtnl.dump(rtnl.RTM_GETNEIGH, query, "list neighbours")
        return [row for row in map(netrows.neighbour_row, found) if row is not None]

    def neighbour_replace(self, row: Neighbour) -> None:
        """Adds or replaces a neighbour entry."""
        payload = netrows.neighbour_payload(row)
        self._rtnl.request(rtnl.RTM_NEWNEIGH, _REPLACE, payload, f"neighbour {row.address}")

    def neighbour_delete(self, row: Neighbour) -> bool:
        """Removes a neighbour entry; False if there is none."""
        payload = netrows.neighbour_payload(row)
        return self._remove(rtnl.RTM_DELNEIGH, payload, f"delete neighbour {row.address}")

    def _remove(self, kind: int, payload: bytes, what: str) -> bool:
        try:
            self._rtnl.request(kind, 0, payload, what)
        except NetlinkError as error:
            if is_not_found(error) or is_gone(error) or error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
        return True


def _settings(mac: bytes, mtu: int) -> list[bytes]:
    settings: list[bytes] = []
    if mac:
        settings.append(attr(_ADDRESS, mac))
    if mtu:
        settings.append(attr_u32(_MTU, mtu))
    return settings
