"""Ring buffer bytes to events, whatever the bytes."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from fimbria.datapath import abi, events

SIZE = abi.Event.SIZE


def record(length: int, body: bytes) -> bytes:
    """A ring buffer record, padded to eight bytes."""
    return struct.pack("<II", length, 0) + body + bytes(-len(body) % 8)


def event_record(n: int) -> bytes:
    return record(SIZE, abi.Event(time=n, sport=n & 0xFFFF).pack())


def times(data: bytes) -> list[int]:
    return events.decode(data).events["time"].tolist()


def test_layout() -> None:
    """The array's record is the event's bytes, and the stride is a multiple of eight."""
    assert events.EVENT.itemsize == SIZE
    assert events.STRIDE % 8 == 0


def test_whole_records() -> None:
    """Records come out in order, numbers in host meaning, and all bytes are consumed."""
    data = b"".join(event_record(n) for n in range(1000))
    decoded = events.decode(data)
    assert decoded.events["sport"].tolist() == list(range(1000))
    assert decoded.consumed == len(data)
    assert decoded.skipped == 0
    assert [event.time for event in events.events(decoded.events)] == list(range(1000))
    assert set(events.columns(decoded.events)) == set(abi.Event._fields)
    assert events.columns(decoded.events)["saddr"].shape == (1000, 16)


def test_an_unfinished_record_ends_it() -> None:
    """What a program is still writing, and everything behind it, is left for the next time."""
    first = event_record(1)
    data = first + record(SIZE | events.BUSY, bytes(SIZE)) + event_record(3)
    decoded = events.decode(data)
    assert decoded.events["time"].tolist() == [1]
    assert decoded.consumed == len(first)
    assert events.decode(data[len(first) :]).consumed == 0


def test_foreign_records_are_skipped() -> None:
    """A discarded record, or one of another size, is counted and does not stop what follows."""
    data = (
        event_record(1)
        + record(SIZE | events.DISCARD, bytes(SIZE))
        + record(5, b"other")
        + event_record(2)
        + record(0, b"")
        + event_record(3)
    )
    decoded = events.decode(data)
    assert decoded.events["time"].tolist() == [1, 2, 3]
    assert (decoded.skipped, decoded.consumed) == (3, len(data))
    assert decoded.events.dtype == events.EVENT
    assert [event.time for event in events.events(decoded.events)] == [1, 2, 3]


def test_a_record_cut_short_waits() -> None:
    """A record whose end is not there yet is not touched."""
    data = event_record(1) + event_record(2)
    for cut in range(len(event_record(1)), len(data)):
        assert times(data[:cut]) == [1]


def test_the_result_is_a_copy() -> None:
    """Overwriting the buffer afterwards does not change what was decoded."""
    data = bytearray(event_record(1) + record(3, b"abc") + event_record(2))
    decoded = events.decode(memoryview(data))
    data[:] = bytes(len(data))
    assert decoded.events["time"].tolist() == [1, 2]


lengths = st.one_of(
    st.just(SIZE),
    st.integers(0, 2 * SIZE),
    st.integers(0, 2**32 - 1),
    st.sampled_from([SIZE | events.BUSY, SIZE | events.DISCARD, events.BUSY | events.DISCARD]),
)
bodies = st.one_of(st.just(bytes(SIZE)), st.binary(max_size=2 * SIZE))
pieces = st.one_of(st.builds(record, lengths, bodies), st.binary(max_size=200))


@given(st.lists(pieces, max_size=8).map(b"".join), st.booleans())
@example(event_record(1) + record(0, b"") + event_record(2), False)
@example(struct.pack("<II", 0xFFFFFFFF & ~events.BUSY, 0) + bytes(64), False)
@example(struct.pack("<II", events.DISCARD, 0) * 3, False)
def test_any_bytes(data: bytes, view: bool) -> None:
    """No bytes raise or hang; what is consumed never exceeds what is there, and is not left over.

    Decoding in two goes gives what one go gives.
    """
    decoded = events.decode(memoryview(data) if view else data)
    assert 0 <= decoded.consumed <= len(data)
    assert len(decoded.events) * events.STRIDE + decoded.skipped * 8 <= decoded.consumed
    again = events.decode(data[decoded.consumed :])
    assert (len(again.events), again.consumed, again.skipped) == (0, 0, 0)
    assert len(list(events.events(decoded.events))) == len(decoded.events)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(0, 2000))
def test_stopping_anywhere_loses_nothing(stamps: list[int], cut: int) -> None:
    """A buffer read in two parts gives the same events as read in one."""
    data = b"".join(record(SIZE, abi.Event(time=stamp).pack()) for stamp in stamps)
    first = events.decode(data[:cut])
    second = events.decode(data[first.consumed :])
    both = np.concatenate([first.events, second.events])
    assert both["time"].tolist() == stamps
