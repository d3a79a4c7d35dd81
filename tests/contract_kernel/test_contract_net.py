"""What devices and routes do, in the kernel and in the fake alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fimbria.kernel.errors import NetlinkError, is_gone
from fimbria.kernel.netrows import ROUTE_PROTOCOL, Address, Neighbour, Route

if TYPE_CHECKING:
    from .conftest import Kernel


def ours(kernel: Kernel, table: int = 0) -> set[Route]:
    return set(kernel.net.routes(table=table, protocol=ROUTE_PROTOCOL))


def test_devices(kernel: Kernel) -> None:
    """A device is found by name and by ifindex, and nothing is found for what is not there."""
    found = kernel.net.link("pod0")
    assert found
    assert found.ifindex == kernel.device
    assert found.up
    assert kernel.net.link(kernel.device) == found == kernel.net.links()[kernel.device]
    assert kernel.net.link("nothing") is None
    assert kernel.net.link(4711) is None


@pytest.mark.parametrize(
    "row",
    [
        Route("10.0.1.1/32", 2),
        Route("fd00::1/128", 2),
        Route("10.9.0.0/16", 2, gateway="172.18.0.9", onlink=True, mtu=1450),
        Route("fd00:9::/64", 2, gateway="fd0f::9", onlink=True, mtu=1450),
        Route("10.0.1.0/24", type="unreachable", metric=4000),
        Route("fd00:1::/64", type="unreachable", metric=4000),
        Route("10.8.0.0/16", 2, table=2004),
    ],
    ids=lambda row: f"{row.type}-{row.destination}-{row.table}",
)
def test_routes_come_back_as_written(kernel: Kernel, row: Route) -> None:
    """Every kind of route that we write reads back equal, and is removed by the same value."""
    kernel.net.route_replace(row)
    assert ours(kernel, row.table) == {row}
    kernel.net.route_replace(row)
    assert ours(kernel, row.table) == {row}
    assert kernel.net.route_delete(row)
    assert ours(kernel, row.table) == set()
    assert not kernel.net.route_delete(row)


def test_replacing_a_route(kernel: Kernel) -> None:
    """One destination, metric and table is one route; another metric is another route."""
    kernel.net.route_replace(Route("10.9.0.0/16", kernel.device, mtu=1400))
    kernel.net.route_replace(Route("10.9.0.0/16", kernel.device, mtu=1300))
    kernel.net.route_replace(Route("10.9.0.0/16", type="unreachable", metric=4000))
    assert ours(kernel) == {
        Route("10.9.0.0/16", kernel.device, mtu=1300),
        Route("10.9.0.0/16", type="unreachable", metric=4000),
    }


def test_routes_that_cannot_be(kernel: Kernel) -> None:
    """No such device, an unreachable gateway, bits behind the prefix, nonsense: all refused."""
    with pytest.raises(NetlinkError) as caught:
        kernel.net.route_replace(Route("10.9.0.0/16", 4711))
    assert is_gone(caught.value)
    with pytest.raises(NetlinkError):
        kernel.net.route_replace(Route("10.9.0.0/16", kernel.device, gateway="9.9.9.9"))
    with pytest.raises(NetlinkError):
        kernel.net.route_replace(Route("10.9.0.1/16", kernel.device))
    for text in ("10.9.0.0", "10.9.0.0/33", "ten/8", ""):
        with pytest.raises(ValueError, match="is no"):
            kernel.net.route_replace(Route(text, kernel.device))
    with pytest.raises(ValueError, match="route type"):
        kernel.net.route_replace(Route("10.9.0.0/16", kernel.device, type="wormhole"))
    assert ours(kernel) == set()


def test_gateway_behind_an_onlink_route(kernel: Kernel) -> None:
    """A gateway is reachable once a route covers it, as a pod's router address is."""
    kernel.net.route_replace(Route("10.0.1.1/32", kernel.device))
    kernel.net.route_replace(Route("0.0.0.0/0", kernel.device, gateway="10.0.1.1", mtu=1450))
    assert Route("0.0.0.0/0", kernel.device, gateway="10.0.1.1", mtu=1450) in ours(kernel)


def test_addresses(kernel: Kernel) -> None:
    """Adding an address twice is fine, removing it twice too."""
    rows = [Address(kernel.device, "10.0.1.7/32"), Address(kernel.device, "fd00::7/128")]
    for row in rows:
        kernel.net.address_replace(row)
        kernel.net.address_replace(row)
    assert set(rows) <= set(kernel.net.addresses(kernel.device))
    for row in rows:
        assert kernel.net.address_delete(row)
        assert not kernel.net.address_delete(row)
    with pytest.raises(NetlinkError):
        kernel.net.address_replace(Address(4711, "10.0.1.7/32"))


def test_neighbours(kernel: Kernel) -> None:
    """Neighbour entries come and go."""
    row = Neighbour(kernel.device, "10.0.1.7", b"\x02\x00\x00\x00\x00\x07")
    kernel.net.neighbour_replace(row)
    assert row in kernel.net.neighbours(kernel.device)
    assert kernel.net.neighbour_delete(row)
    assert not kernel.net.neighbour_delete(row)


def test_a_device_takes_its_routes_along(kernel: Kernel) -> None:
    """What refers to a device goes with it, and its pods' routes with it."""
    kernel.net.route_replace(Route("10.0.1.7/32", kernel.device))
    assert kernel.net.link_delete("pod0")
    assert not kernel.net.link_delete("pod0")
    assert ours(kernel) == set()
