"""What only the fake can do: die on demand, and tell all it holds."""

from __future__ import annotations

from typing import Literal

import pytest

from fimbria.datapath import abi
from fimbria.kernel.errors import BpfError
from fimbria.kernel.fake import Crash, FakeKernel
from fimbria.kernel.mapdefs import MapDef
from fimbria.kernel.netrows import Route
from fimbria.kernel.syscall import MapType

INNER = MapDef("inner", MapType.HASH, 8, 16, 1, 0, False, (0, 0), None)
MAPS = [
    MapDef("cilium_lxc", MapType.HASH, 20, 48, 4, 0, True, (0, 0), None),
    MapDef("cilium_policy", MapType.ARRAY_OF_MAPS, 4, 4, 4, 0, True, (0, 0), INNER),
    MapDef("cilium_ct", MapType.LRU_HASH, 40, 176, 2, 0, True, (0, 0), None),
]
KEY = abi.EndpointKey(family=1).pack()


@pytest.mark.parametrize(("when", "written"), [("before", 1), ("after", 2)])
def test_dying_at_an_operation(when: Literal["before", "after"], written: int) -> None:
    """The process dies at the n-th change, before or after it; the kernel keeps what was made."""
    kernel = FakeKernel(MAPS)
    lxc = kernel.bpf.map("cilium_lxc")
    kernel.fail_at(2, when)
    rows = {abi.EndpointKey(family=n).pack(): bytes(48) for n in range(3)}
    with pytest.raises(Crash):
        lxc.put_many(rows)
    assert len(kernel.bpf.map("cilium_lxc").items()) == written
    kernel.bpf.map("cilium_lxc").put_many(rows)
    assert len(lxc.items()) == 3


def test_a_crash_is_not_handled_by_accident() -> None:
    """Code that catches every Exception does not survive its own death."""
    assert not issubclass(Crash, Exception)


def test_dump_is_canonical() -> None:
    """Equal states give equal text, whatever the order they were made in."""
    one, other = FakeKernel(MAPS), FakeKernel(MAPS)
    keys = [abi.EndpointKey(family=n).pack() for n in (1, 2)]
    routes = [Route("10.1.0.0/24", type="unreachable"), Route("10.2.0.0/24", type="unreachable")]
    for kernel, order in ((one, 1), (other, -1)):
        for key in keys[::order]:
            kernel.bpf.map("cilium_lxc").put(key, b"\1" * 48)
        for route in routes[::order]:
            kernel.net.route_replace(route)
        inner = kernel.bpf.new_inner("cilium_policy", 4)
        inner.put(bytes(8), bytes(16))
        kernel.bpf.map("cilium_policy").put_maps({bytes(4): inner})
    assert one.dump() == other.dump()
    assert "cilium_policy 00000000 -> 1 entries" in one.dump()
    assert "route unreachable 10.1.0.0/24" in one.dump()


def test_add_and_delete_leave_nothing() -> None:
    """What is added and removed again leaves the state as it was."""
    kernel = FakeKernel(MAPS)
    device = kernel.net.add_link("lxc1")
    before = kernel.dump()
    kernel.bpf.map("cilium_lxc").put(KEY, b"\1" * 48)
    kernel.net.route_replace(Route("10.0.1.7/32", device))
    assert kernel.dump() != before
    kernel.bpf.map("cilium_lxc").delete(KEY)
    kernel.net.route_delete(Route("10.0.1.7/32", device))
    assert kernel.dump() == before


def test_closed_maps_are_closed() -> None:
    """A handle that was closed is of no use any more."""
    lxc = FakeKernel(MAPS).bpf.map("cilium_lxc")
    lxc.close()
    with pytest.raises(BpfError):
        lxc.get(KEY)


def test_an_lru_map_forgets() -> None:
    """A full LRU map makes room instead of refusing."""
    ct = FakeKernel(MAPS).bpf.map("cilium_ct")
    for n in range(5):
        ct.put(bytes([n]) * 40, bytes(176))
    assert len(ct.items()) == 2


def test_time_moves_when_told() -> None:
    """The fake's clock stands still, and its jiffies wrap after five minutes like the kernel's."""
    clock = FakeKernel().clock
    start = clock.jiffies()
    clock.advance(300)
    assert clock.monotonic() == 300
    assert clock.jiffies() == start + 300 * clock.hz == 1 << 32
