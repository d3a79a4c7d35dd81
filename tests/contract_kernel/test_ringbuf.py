"""The ring buffer, filled by a program and drained through the mapping."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from fimbria.datapath import abi, events
from fimbria.kernel import bpf
from fimbria.kernel.loader import LoadedObject, load_object
from fimbria.kernel.ringbuf import RingBuffer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root


@pytest.fixture
def loaded(probe: Path) -> Iterator[LoadedObject]:
    with load_object(probe, programs=["probe_emit"]) as held:
        yield held


@pytest.fixture
def ring(loaded: LoadedObject) -> Iterator[RingBuffer]:
    held = RingBuffer(loaded.maps["probe_events"])
    yield held
    held.close()


def emit(loaded: LoadedObject, event: abi.Event) -> bool:
    """Whether there was room."""
    return bpf.run_syscall(loaded.programs["probe_emit"].fd, event.pack())[0] == 0


def test_events_come_out_as_written(loaded: LoadedObject, ring: RingBuffer) -> None:
    """Fields arrive in order and in host meaning, as columns and as values."""
    assert len(ring.drain()) == 0
    sent = [
        abi.Event(
            time=n, type=abi.EventType.DROP, subtype=133, saddr=bytes(15) + b"\7", sport=n,
            dport=443, verdict=-133, rule=n,
        )
        for n in range(5)
    ]  # fmt: skip
    assert all(emit(loaded, event) for event in sent)
    assert ring.pending == 5 * events.STRIDE
    array = ring.drain()
    assert list(events.events(array)) == sent
    assert array["dport"].tolist() == [443] * 5
    assert array["verdict"].tolist() == [-133] * 5
    assert ring.pending == 0


def test_it_wraps(loaded: LoadedObject, ring: RingBuffer) -> None:
    """Events are neither lost nor doubled where the buffer wraps; a full one refuses more."""
    seen: list[int] = []
    number = 0
    for _ in range(4):
        while emit(loaded, abi.Event(time=number)):
            number += 1
        while len(array := ring.drain(limit=10 * events.STRIDE)):
            seen += array["time"].tolist()
    assert number > 4 * 600
    assert seen == list(range(number))
    assert ring.skipped == 0


def test_drained_events_outlive_the_buffer(loaded: LoadedObject, ring: RingBuffer) -> None:
    """What was drained is a copy: the kernel writing on does not change it."""
    emit(loaded, abi.Event(time=1))
    array = ring.drain()
    before = array.copy()
    for _ in range(3):
        while emit(loaded, abi.Event(time=7)):
            pass
        ring.drain()
    ring.close()
    assert np.array_equal(array, before)


def test_only_ring_buffers(loaded: LoadedObject) -> None:
    """Another map is refused by name."""
    with pytest.raises(ValueError, match="probe_lxc"):
        RingBuffer(loaded.maps["probe_lxc"])
