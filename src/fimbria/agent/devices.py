"""The node's own devices: what is there, and what the agent puts beside it.

    cilium_host ── veth ── cilium_net    the host's way to pods; has the router addresses
    cilium_vxlan                         the tunnel's device, tunnel mode only

Everything here is idempotent: a restart finds its devices and leaves them as they are, because
traffic goes through them at that moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_interface
from typing import TYPE_CHECKING

from fimbria.agent.wiring import PREFIX, route_mtu
from fimbria.kernel.netlink import Address, Link, Net
from fimbria.kernel.netns import write_sysctls
from fimbria.kernel.netrows import IFF_NOARP
from fimbria.sources.options import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.sources.options import Config

HOST, HOST_PEER, OVERLAY = "cilium_host", "cilium_net", "cilium_vxlan"
GATEWAY6 = "fe80::1"
"""Next hop of the host's IPv6 routes to pods: Linux takes no address of its own as a gateway."""

_OURS = (PREFIX, "cilium_")


@dataclass(frozen=True)
class Device:
    """A network device of the node with its global addresses ("172.18.0.2/24")."""

    name: str
    ifindex: int
    mac: bytes
    mtu: int
    addresses: tuple[str, ...]

    def address(self, version: int) -> str:
        """Return its first address of a family without prefix length, "" if there is none."""
        for text in self.addresses:
            interface = ip_interface(text)
            if interface.version == version:
                return str(interface.ip)
        return ""


@dataclass(frozen=True)
class NodeDevices:
    """The devices that the datapath uses. `overlay` is 0 without tunnel."""

    host: int
    host_mac: bytes
    host_peer: int
    overlay: int
    devices: tuple[Device, ...]
    direct: Device
    local_addresses: tuple[str, ...]
    device_mtu: int
    route_mtu: int


def find(net: Net, config: Config) -> tuple[tuple[Device, ...], Device, tuple[str, ...]]:
    """Return the network devices, the one towards other nodes, and all of the node's addresses.

    Raises ConfigError naming the key if a device that was asked for is not there.
    """
    links = {link.name: link for link in net.links().values()}
    by_index: dict[int, list[str]] = {}
    for row in net.addresses():
        interface = ip_interface(row.address)
        if not interface.ip.is_loopback and not interface.ip.is_link_local:
            by_index.setdefault(row.ifindex, []).append(row.address)
    names = config.devices or _default_devices(net, links.values(), by_index)
    for name in (*names, *filter(None, [config.direct_routing_device])):
        if name not in links:
            key = "devices" if name in config.devices else "direct-routing-device"
            raise ConfigError(key, f"this node has no device {name}")
    if not names:
        raise ConfigError("devices", "no device with a global address was found; name one")
    found = tuple(_device(links[name], by_index) for name in names)
    direct = found[0]
    if config.direct_routing_device:
        direct = _device(links[config.direct_routing_device], by_index)
    ours = {link.ifindex for link in links.values() if link.name.startswith(_OURS)}
    local = sorted(
        str(ip_interface(text).ip)
        for index, texts in by_index.items()
        if index not in ours
        for text in texts
    )
    return found, direct, tuple(local)


def _device(link: Link, addresses: dict[int, list[str]]) -> Device:
    return Device(
        link.name, link.ifindex, link.mac, link.mtu, tuple(addresses.get(link.ifindex, ()))
    )


def _default_devices(
    net: Net, links: Iterable[Link], addresses: dict[int, list[str]]
) -> tuple[str, ...]:
    """Return the devices of the default routes; else those that are up and have addresses."""
    routed = {r.ifindex for r in net.routes() if r.destination in ("0.0.0.0/0", "::/0")}
    able = [
        link
        for link in sorted(links, key=lambda link: link.ifindex)
        if link.up and link.ifindex in addresses and not link.name.startswith(_OURS)
    ]
    chosen = [link.name for link in able if link.ifindex in routed]
    return tuple(chosen or [link.name for link in able])


def prepare(net: Net, config: Config, router4: str, router6: str) -> NodeDevices:
    """Find the node's devices and make our own beside them. The caller is in the node's netns."""
    devices, direct, local = find(net, config)
    tunnel = config.tunnel_protocol if config.routing_mode == "tunnel" else None
    device_mtu = config.mtu or min(device.mtu for device in devices)
    _sysctls(config)
    host, peer = _host_pair(net, device_mtu)
    _addresses(
        net, host.ifindex, [f"{router4}/32" * bool(router4), f"{router6}/128" * bool(router6)]
    )
    overlay = _overlay(net, config.tunnel_port, device_mtu) if tunnel else 0
    return NodeDevices(
        host=host.ifindex,
        host_mac=host.mac,
        host_peer=peer.ifindex,
        overlay=overlay,
        devices=devices,
        direct=direct,
        local_addresses=local,
        device_mtu=device_mtu,
        route_mtu=route_mtu(device_mtu, tunnel),
    )


def _sysctls(config: Config) -> None:
    """Let the kernel forward, and let it accept what comes by another device than it would use."""
    settings = {"net/ipv4/conf/all/rp_filter": "0"}
    if config.enable_ipv4:
        settings["net/ipv4/ip_forward"] = "1"
    if config.enable_ipv6:
        settings["net/ipv6/conf/all/forwarding"] = "1"
    write_sysctls(settings)


def _host_pair(net: Net, mtu: int) -> tuple[Link, Link]:
    if net.link(HOST) is None:
        net.link_delete(HOST_PEER)  # half a pair cannot be, but a device of that name can
        net.veth_create(HOST, HOST_PEER, mtu=mtu)
    pair: list[Link] = []
    for name in (HOST, HOST_PEER):
        _quiet(name)
        link = net.link(name)
        assert link is not None
        if not link.up or link.mtu != mtu or not link.flags & IFF_NOARP:
            # Linux does not use a gateway that is an address of its own; without ARP it need not.
            net.link_set(link.ifindex, up=True, arp=False, mtu=mtu)
        pair.append(link)
    return pair[0], pair[1]


def _overlay(net: Net, port: int, mtu: int) -> int:
    link = net.link(OVERLAY)
    ifindex = link.ifindex if link else net.vxlan_create(OVERLAY, port=port, mtu=mtu)
    _quiet(OVERLAY)
    if link is None or not link.up or link.mtu != mtu:
        net.link_set(ifindex, up=True, mtu=mtu)
    return ifindex


def _quiet(name: str) -> None:
    """No link-local address, no solicitations, no reverse path filter on our own devices."""
    write_sysctls({f"net/ipv4/conf/{name}/rp_filter": "0"})
    try:
        write_sysctls({f"net/ipv6/conf/{name}/addr_gen_mode": "1"})
    except FileNotFoundError:
        return  # a kernel booted without IPv6


def _addresses(net: Net, ifindex: int, wanted: list[str]) -> None:
    """Give a device exactly these addresses."""
    have = {row.address for row in net.addresses(ifindex)}
    wanted = [address for address in wanted if address]
    for address in wanted:
        if address not in have:
            net.address_replace(Address(ifindex, address))
    for address in have - set(wanted):
        if not ip_interface(address).ip.is_link_local:
            net.address_delete(Address(ifindex, address))
