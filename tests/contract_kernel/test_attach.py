"""TCX links: attached once, replaced in one step, removed with their device."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from fimbria.kernel import attach, bpf, netns
from fimbria.kernel.attach import Outcome, Side
from fimbria.kernel.loader import LoadedObject, load_object
from fimbria.kernel.netlink import Net

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture
def space() -> Iterator[int]:
    fd = netns.unshare()
    yield fd
    os.close(fd)


@pytest.fixture
def loaded(probe: Path) -> Iterator[LoadedObject]:
    with load_object(probe, programs=["probe_drop", "probe_calls"]) as held:
        yield held


def test_life_of_an_attachment(loaded: LoadedObject, pins: Path, space: int) -> None:
    """First made, then left alone, then updated in place, then gone with its pin."""
    pin = pins / "pod0_ingress"
    drop, calls = loaded.programs["probe_drop"], loaded.programs["probe_calls"]
    with Net(space) as net:
        device = net.veth_create("pod0", "pod1")

        def put(fd: int) -> Outcome:
            return netns.run_in(space, lambda: attach.attach(fd, device, Side.INGRESS, pin))

        assert attach.inspect(pin) is None
        assert put(drop.fd) is Outcome.CREATED
        assert put(drop.fd) is Outcome.UNCHANGED
        assert put(calls.fd) is Outcome.UPDATED
        found = attach.inspect(pin)
        assert found == attach.Attached(device, Side.INGRESS, calls.info().id)
        assert attach.detach(pin)
        assert not attach.detach(pin)
        assert list(pins.iterdir()) == []


def test_a_device_of_another_name(loaded: LoadedObject, pins: Path, space: int) -> None:
    """Its link stays, and is pinned under the new name."""
    fd = loaded.programs["probe_drop"].fd
    old, new = pins / "pod0_ingress", pins / "wan0_ingress"
    with Net(space) as net:
        device = net.veth_create("pod0", "pod1")

        def put(pin: Path) -> Outcome:
            return netns.run_in(space, lambda: attach.attach(fd, device, Side.INGRESS, pin))

        assert put(old) is Outcome.CREATED
        before = attach.inspect(old)
        assert put(new) is Outcome.UPDATED
        assert attach.inspect(new) == before
        assert list(pins.iterdir()) == [new]


def test_a_device_that_goes(loaded: LoadedObject, pins: Path, space: int) -> None:
    """A pin whose device is gone is known as such, removed, and replaced by the next device's."""
    fd = loaded.programs["probe_drop"].fd
    pin = pins / "pod0_egress"
    with Net(space) as net:
        device = net.veth_create("pod0", "pod1")
        netns.run_in(space, lambda: attach.attach(fd, device, Side.EGRESS, pin))
        net.link_delete(device)
        found = attach.inspect(pin)
        assert found
        assert found.ifindex == 0
        again = net.veth_create("pod0", "pod1")
        outcome = netns.run_in(space, lambda: attach.attach(fd, again, Side.EGRESS, pin))
        assert outcome is Outcome.CREATED
        net.link_delete(again)
        assert attach.remove_stale(pins) == ["pod0_egress"]
        assert attach.remove_stale(pins) == []
        with pytest.raises(bpf.BpfError) as caught:
            netns.run_in(space, lambda: attach.attach(fd, again, Side.EGRESS, pin))
        assert bpf.is_gone(caught.value)


def test_kernel_is_asked_first(loaded: LoadedObject, space: int) -> None:
    """Whether the kernel has TCX is known before anything is built."""
    netns.run_in(space, lambda: attach.require_tcx(loaded.programs["probe_drop"].fd))
