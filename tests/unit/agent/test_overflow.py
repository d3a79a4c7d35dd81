"""A full table: what it holds stays, what does not fit waits, and nothing else is held up."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest

from fimbria.agent.devices import NodeDevices
from fimbria.agent.kernelstate import KernelState
from fimbria.agent.overflow import Overflow
from fimbria.agent.wiring import Gateway
from fimbria.compile.delta import IPCACHE, LXC
from fimbria.datapath import abi
from fimbria.datapath.plan import Bump, MapDelete, MapPut
from fimbria.kernel import mapdefs, objects_dir
from fimbria.kernel.fake import FakeKernel
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.store import definitions
from fimbria.kernel.syscall import MapType

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOM = 4


def prefix(number: int) -> bytes:
    """The ipcache's key of 10.0.0.<number>."""
    ip = ip_address(f"10.0.0.{number}").packed.ljust(16, b"\0")
    return abi.IpcacheKey(prefixlen=64, family=abi.Family.IPV4, ip=ip).pack()


def identity(number: int) -> bytes:
    """An ipcache entry."""
    return abi.IpcacheInfo(sec_identity=number).pack()


def rows(numbers: Iterable[int], value: int = 300) -> dict[bytes, bytes]:
    return {prefix(number): identity(value) for number in numbers}


class Small:
    """A kernel whose ipcache has room for ROOM entries."""

    def __init__(self) -> None:
        known = definitions(objects_dir())
        known[IPCACHE] = mapdefs.resized(known[IPCACHE], ROOM)
        self.kernel = FakeKernel(known.values())
        self.maps = self.kernel.bpf
        devices = NodeDevices(1, bytes(6), 0, 0, (), None, (), 1500, 1500)  # pyright: ignore
        self.state = KernelState(self.maps, lambda: self.kernel.net, devices, Gateway())

    def held(self) -> set[bytes]:
        return set(self.maps.map(IPCACHE).items())

    def revision(self) -> int:
        value = self.maps.map("cilium_runtime_config").get(bytes(4))
        return abi.Runtime.unpack(value or b"").revision


def test_what_does_not_fit_waits_and_nothing_else_does() -> None:
    """The rest of the plan is carried out; what the full table holds stays and may change."""
    small = Small()
    key = abi.EndpointKey(family=1).pack()
    endpoint = MapPut(LXC, {key: abi.EndpointInfo(lxc_id=7).pack()})
    small.state.execute([MapPut(IPCACHE, rows(range(6))), endpoint, Bump()])
    assert small.held() == set(rows(range(ROOM)))
    assert small.state.overflow.waiting == {IPCACHE: rows((4, 5))}
    assert key in small.maps.map(LXC).items()
    small.state.execute([MapPut(IPCACHE, rows([0, 5], value=301))])
    assert small.maps.map(IPCACHE).get(prefix(0)) == identity(301)
    assert small.state.overflow.waiting[IPCACHE][prefix(5)] == identity(301)


def test_room_is_used_as_soon_as_there_is_some() -> None:
    """What waits takes the place of what goes, with a bump of its own; what is deleted does not."""
    small = Small()
    small.state.execute([MapPut(IPCACHE, rows(range(7)))])
    before = small.revision()
    small.state.execute([MapDelete(IPCACHE, (prefix(4), prefix(0))), Bump()])
    assert small.held() == set(rows((1, 2, 3, 5)))
    assert small.state.overflow.waiting == {IPCACHE: rows((6,))}
    assert small.revision() == before + 2
    small.state.execute([MapDelete(IPCACHE, (prefix(1), prefix(6)))])
    assert not small.state.overflow.waiting


def test_a_comparison_does_not_take_it_for_a_change() -> None:
    """What waits counts as held, so that the regular check finds nothing to put right."""
    small = Small()
    small.state.execute([MapPut(IPCACHE, rows(range(6)))])
    assert small.state.read().maps[IPCACHE] == rows(range(6))


@pytest.mark.root
def test_the_kernels_own_trie() -> None:
    """The same of the kernel's trie: new values for what it has, no room for what it has not."""
    with BpfMap.create(
        MapType.LPM_TRIE,
        key_size=abi.IpcacheKey.SIZE,
        value_size=abi.IpcacheInfo.SIZE,
        max_entries=ROOM,
        flags=1,
        name="small",
    ) as table:
        overflow = Overflow()
        overflow.put(IPCACHE, table, rows(range(6)))
        overflow.put(IPCACHE, table, rows([2], value=301))
        assert table.items() == {**rows(range(ROOM)), prefix(2): identity(301)}
        assert overflow.waiting == {IPCACHE: rows((4, 5))}
