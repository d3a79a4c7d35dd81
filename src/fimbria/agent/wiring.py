"""One pod's cable: the veth pair, and what stands on the pod's end of it.

    node                                    pod
    lxc<hash>, no address  ── veth ──  eth0  10.0.1.7/32, default via the node's router address

The pod's only neighbour is the router address, so everything it sends reaches our program. Nothing
here awaits; a caller on an event loop uses a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fimbria.kernel.errors import is_exists
from fimbria.kernel.netlink import Address, Link, Net, Route
from fimbria.kernel.netns import (
    current_netns,
    is_netns,
    open_netns,
    run_in,
    same_netns,
    write_sysctls,
)

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

PREFIX = "lxc"
HASH_DIGITS = 12
BOOT_PROTOCOL = 3  # RTPROT_BOOT: what a CNI plugin's routes inside a pod carry
ENCAPSULATION = {"vxlan": 50}
"""Bytes that a tunnel adds: outer IPv4 20, UDP 8, VXLAN 8, inner Ethernet 14."""


class WiringError(Exception):
    """The pod's end cannot be set up; the message says what is in the way."""


class NoNetns(WiringError):
    """The pod's network namespace does not exist."""


@dataclass(frozen=True)
class Gateway:
    """What pods are told: the node's router addresses, and the largest packet that fits.

    `neighbours`: the kernel itself must find pods on their devices, as with endpoint routes. For
    IPv6 it needs a link-local address there to ask from.
    """

    ipv4: str = ""
    ipv6: str = ""
    device_mtu: int = 1500
    route_mtu: int = 1500
    neighbours: bool = False


@dataclass(frozen=True)
class Cable:
    """What was made: names, host side's ifindex, and both MACs."""

    ifname: str
    ifindex: int
    mac: bytes
    node_mac: bytes


def host_name(container_id: str, ifname: str) -> str:
    """Return the host side's name: at most 15 bytes (IFNAMSIZ), the same for the same container."""
    digest = hashlib.sha256(f"{container_id}:{ifname}".encode()).hexdigest()
    return PREFIX + digest[:HASH_DIGITS]


def route_mtu(device_mtu: int, tunnel: str | None) -> int:
    """Return the MTU of pods' routes: the device's, less what the tunnel adds."""
    return device_mtu - (ENCAPSULATION[tunnel] if tunnel else 0)


@contextlib.contextmanager
def opened(netns: str) -> Generator[int]:
    """Open a network namespace by path; NoNetns if it is none, or the node's own."""
    try:
        fd = open_netns(Path(netns))
    except OSError as error:
        raise NoNetns(f"network namespace {netns}: {error.strerror}") from error
    try:
        if not is_netns(fd):
            raise NoNetns(f"{netns} is no network namespace")
        own = current_netns()
        try:
            if same_netns(fd, own):
                raise NoNetns(f"{netns} is the node's own network namespace")
        finally:
            os.close(own)
        yield fd
    finally:
        os.close(fd)


def connect(
    net: Net,
    netns: str,
    container_id: str,
    ifname: str,
    ipv4: str,
    ipv6: str,
    gateway: Gateway,
    alias: str = "",
) -> Cable:
    """Make the pair and set up the pod's end; leaves nothing behind if it fails.

    `net` is the node's. An old host side of the same container (an ADD that broke off) is replaced;
    an interface of that name inside the pod is a WiringError.
    """
    name = host_name(container_id, ifname)
    mac, node_mac = _random_mac(), _random_mac()
    with opened(netns) as fd:
        try:
            ifindex = _create(net, name, ifname, fd, mac, node_mac, gateway.device_mtu)
        except OSError as error:
            if is_exists(error):
                raise WiringError(f"{ifname} exists in {netns} already") from error
            raise
        try:
            settings = {f"net/ipv4/conf/{name}/rp_filter": "0"}
            if ipv6:  # either no address at all there, or one that can be used at once
                key, value = ("accept_dad", "0") if gateway.neighbours else ("addr_gen_mode", "1")
                settings[f"net/ipv6/conf/{name}/{key}"] = value
            write_sysctls(settings)
            net.link_set(ifindex, up=True, alias=alias)
            run_in(fd, lambda: _inside(ifname, ipv4, ipv6, gateway))
        except BaseException:
            net.link_delete(ifindex)
            raise
    return Cable(name, ifindex, mac, node_mac)


def _create(
    net: Net, name: str, ifname: str, netns: int, mac: bytes, node_mac: bytes, mtu: int
) -> int:
    def make() -> int:
        return net.veth_create(name, ifname, peer_netns=netns, mac=node_mac, peer_mac=mac, mtu=mtu)

    try:
        return make()
    except OSError as error:
        if not is_exists(error) or not net.link_delete(name):
            raise
    return make()


def _inside(ifname: str, ipv4: str, ipv6: str, gateway: Gateway) -> None:
    """Set up the pod's end; runs in the pod's namespace."""
    if ipv6:
        write_sysctls(
            {
                f"net/ipv6/conf/{ifname}/disable_ipv6": "0",
                f"net/ipv6/conf/{ifname}/accept_dad": "0",
                f"net/ipv6/conf/{ifname}/accept_ra": "0",
            }
        )
    with Net() as pod:
        link = pod.link(ifname)
        if link is None:
            raise WiringError(f"{ifname} vanished")
        pod.link_set(link.ifindex, up=True)
        for address, router, everything in _families(ipv4, ipv6, gateway):
            bits = everything[1]
            pod.address_replace(Address(link.ifindex, f"{address}/{bits}"))
            for route in _routes(link.ifindex, router, bits, everything[0], gateway.route_mtu):
                pod.route_replace(route)


def _families(ipv4: str, ipv6: str, gateway: Gateway) -> Iterator[tuple[str, str, tuple[str, int]]]:
    """Yield (address, router, (default destination, bits)) of each family in use."""
    if ipv4:
        yield ipv4, gateway.ipv4, ("0.0.0.0/0", 32)
    if ipv6:
        yield ipv6, gateway.ipv6, ("::/0", 128)


def _routes(ifindex: int, router: str, bits: int, default: str, mtu: int) -> list[Route]:
    return [
        Route(f"{router}/{bits}", ifindex, protocol=BOOT_PROTOCOL),
        Route(default, ifindex, gateway=router, mtu=mtu, protocol=BOOT_PROTOCOL),
    ]


def check(netns: str, ifname: str, ipv4: str, ipv6: str, gateway: Gateway) -> None:
    """Raise WiringError, saying what is missing, unless the pod's end is as `connect` left it."""

    def inside() -> list[str]:
        with Net() as pod:
            link = pod.link(ifname)
            return [f"no interface {ifname}"] if link is None else _missing(pod, link)

    def _missing(pod: Net, link: Link) -> list[str]:
        wrong = [] if link.up else [f"{ifname} is down"]
        addresses = {row.address for row in pod.addresses(link.ifindex)}
        routes = {(row.destination, row.gateway) for row in pod.routes()}
        for address, router, (default, bits) in _families(ipv4, ipv6, gateway):
            if f"{address}/{bits}" not in addresses:
                wrong.append(f"{ifname} has not the address {address}/{bits}")
            if (default, router) not in routes:
                wrong.append(f"no default route via {router}")
        return wrong

    with opened(netns) as fd:
        wrong = run_in(fd, inside)
    if wrong:
        raise WiringError("; ".join(wrong))


def _random_mac() -> bytes:
    """Return a random unicast MAC of the locally administered range."""
    raw = os.urandom(6)
    return bytes([raw[0] & 0xFC | 0x02]) + raw[1:]
