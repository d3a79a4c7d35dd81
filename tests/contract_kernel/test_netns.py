"""Namespaces, devices between them, sysctls, and changes as they happen."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from fimbria.kernel import netns
from fimbria.kernel.errors import NetlinkError, is_exists
from fimbria.kernel.netlink import Address, Net, Route, Rule
from fimbria.kernel.netrows import ROUTE_PROTOCOL
from fimbria.kernel.netwatch import Changed, Watch

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture
def node() -> Iterator[int]:
    fd = netns.unshare()
    yield fd
    os.close(fd)


@pytest.fixture
def pod() -> Iterator[int]:
    fd = netns.unshare()
    yield fd
    os.close(fd)


def test_work_elsewhere_leaves_the_caller_where_it_is(node: int) -> None:
    """A function runs in the namespace it was meant for; its result and its errors come back."""
    here = netns.current_netns()

    def there() -> bool:
        fd = netns.current_netns()
        try:
            return netns.same_netns(fd, node) and not netns.same_netns(fd, here)
        finally:
            os.close(fd)

    assert netns.run_in(node, there)
    with pytest.raises(ZeroDivisionError):
        netns.run_in(node, lambda: 1 // 0)
    now = netns.current_netns()
    assert netns.same_netns(now, here)
    os.close(now)
    other = os.open("/dev/null", os.O_RDONLY)
    with pytest.raises(OSError, match="setns"):
        netns.run_in(other, there)
    os.close(other)
    os.close(here)


def test_sysctls_are_the_namespace_s(node: int) -> None:
    """A sysctl is set in the namespace that was named and in no other."""
    outside = netns.read_sysctl("net/ipv4/conf/lo/rp_filter")
    wanted = "2" if outside != "2" else "1"
    netns.write_sysctls({"net/ipv4/conf/lo/rp_filter": wanted}, node)
    assert netns.read_sysctl("net/ipv4/conf/lo/rp_filter", node) == wanted
    assert netns.read_sysctl("net/ipv4/conf/lo/rp_filter") == outside
    with pytest.raises(FileNotFoundError, match="no_such"):
        netns.write_sysctls({"net/ipv4/no_such": "1"}, node)


def test_a_pod_s_wiring(node: int, pod: int) -> None:
    """The pair is made with its peer inside the pod; the pod's one neighbour is its gateway."""
    mac, peer_mac = b"\x02\x00\x00\x00\x00\x01", b"\x02\x00\x00\x00\x00\x02"
    with Net(node) as net, Net(pod) as inner:
        host = net.veth_create("lxc1", "eth0", peer_netns=pod, mac=mac, peer_mac=peer_mac, mtu=1450)
        outside, eth0 = net.link(host), inner.link("eth0")
        assert outside
        assert eth0
        assert (outside.name, outside.mac, outside.kind) == ("lxc1", mac, "veth")
        assert (eth0.mac, eth0.mtu, eth0.up) == (peer_mac, 1450, False)
        assert outside.peer == eth0.ifindex
        assert net.link("eth0") is None
        net.link_set(host, up=True, alias="pod default/xwing")
        inner.link_set(eth0.ifindex, up=True)
        for address in ("10.0.1.7/32", "fd00::7/128"):
            inner.address_replace(Address(eth0.ifindex, address))
        routes = [
            Route("10.0.1.1/32", eth0.ifindex),
            Route("0.0.0.0/0", eth0.ifindex, gateway="10.0.1.1", mtu=1400),
            Route("fd00::1/128", eth0.ifindex),
            Route("::/0", eth0.ifindex, gateway="fd00::1", mtu=1400),
        ]
        for route in routes:
            inner.route_replace(route)
        assert set(routes) <= set(inner.routes())
        found = net.link(host)
        assert found
        assert (found.up, found.alias) == (True, "pod default/xwing")
        with pytest.raises(NetlinkError) as caught:
            net.veth_create("lxc1", "other")
        assert is_exists(caught.value)
        assert net.link_delete(host)
        assert inner.link("eth0") is None


def test_overlay_device_and_moves(node: int, pod: int) -> None:
    """A VXLAN device with per-packet keys; bridges; renaming, and moving a device elsewhere."""
    with Net(node) as net, Net(pod) as inner:
        overlay = net.vxlan_create("cilium_vxlan", port=8472, mtu=1450)
        net.link_set(overlay, up=True)
        found = net.link("cilium_vxlan")
        assert found
        assert (found.kind, found.mtu, found.up) == ("vxlan", 1450, True)
        bridge = net.link_create("br0", "bridge")
        port = net.veth_create("a", "b")
        net.link_set(port, name="port0", master=bridge)
        renamed = net.link("port0")
        assert renamed
        assert renamed.master == bridge
        moved = net.link("b")
        assert moved
        net.link_set(moved.ifindex, netns=pod)
        assert net.link("b") is None
        assert inner.link("b")


def test_threads_may_share_a_net(node: int) -> None:
    """Requests of several threads through one socket do not get each other's answers."""
    with Net(node) as net:
        device = net.veth_create("pod0", "pod1")
        net.link_set(device, up=True)

        def work(part: int) -> bool:
            rows = [Route(f"10.{part}.{n}.0/24", device) for n in range(30)]
            for row in rows:
                net.route_replace(row)
            return set(rows) <= set(net.routes()) and net.link("pod0") is not None

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(8)))
        assert len(net.routes(protocol=ROUTE_PROTOCOL)) == 240


def test_rules(node: int) -> None:
    """Policy-routing rules read back as written."""
    with Net(node) as net:
        row = Rule(100, 2004, mark=0x200, mask=0xF00)
        net.rule_add(row)
        assert row in net.rules()
        assert net.rule_delete(row)
        assert not net.rule_delete(row)


async def test_changes_are_heard(node: int) -> None:
    """A device's coming and going, and a route's, reach the event loop."""
    with Net(node) as net, Watch(node, links=True, routes=True) as watch:
        device = net.veth_create("pod0", "pod1")
        net.link_set(device, up=True)
        route = Route("10.0.1.7/32", device)
        net.route_replace(route)
        net.link_delete(device)
        heard: list[Changed] = []
        async for event in watch:
            assert isinstance(event, Changed)
            heard.append(event)
            if not event.present and getattr(event.row, "name", "") == "pod0":
                break
        names = {getattr(event.row, "name", "") for event in heard if event.present}
        assert {"pod0", "pod1"} <= names
        assert Changed(route, present=True) in heard
