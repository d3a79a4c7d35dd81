"""Ring buffer bytes to event records: pure, so that any bytes can be tried on it.

The datapath writes fixed records, each behind the ring buffer's 8-byte header, so a stretch of
the buffer is an array: one look at all headers says how far it is whole. Records come out as a
numpy structured array whose columns are named as in abi.h; `events` turns rows into `abi.Event`
where someone wants to look at one at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from fimbria.datapath import abi

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from fimbria.datapath.abi import Event

#: One event: columns as the fields of `abi.Event`; numbers read in host meaning.
EVENT: np.dtype[np.void] = np.dtype(cast("Any", abi.DTYPES["Event"]))

BUSY = 1 << 31  # reserved by a program that has not finished writing
DISCARD = 1 << 30  # given up by the program that reserved it
_HEADER_SIZE = 8
STRIDE = _HEADER_SIZE + abi.Event.SIZE

#: One record as it stands in the ring buffer: length with its two flags, page offset, event.
RECORD: np.dtype[np.void] = np.dtype(
    {
        "names": ["length", "event"],
        "formats": ["<u4", f"V{abi.Event.SIZE}"],  # opaque: copied as bytes, not by field
        "offsets": [0, _HEADER_SIZE],
        "itemsize": STRIDE,
    }
)

_NONE: NDArray[np.void] = np.empty(0, RECORD["event"])


class Decoded(NamedTuple):
    """Events that were whole, bytes consumed, and how many records were skipped as not ours."""

    events: NDArray[np.void]
    consumed: int
    skipped: int


def decode(data: bytes | memoryview) -> Decoded:
    """Decodes records from the start of `data` up to the first that is not finished or not whole.

    The events are a copy. A record that was discarded, or has another length than an event, is
    skipped and counted: whatever else writes into the buffer cannot stop what follows it. Never
    raises for any bytes.
    """
    found: list[NDArray[np.void]] = []
    consumed = skipped = 0
    end = len(data)
    while end - consumed >= _HEADER_SIZE:
        count = (end - consumed) // STRIDE
        if count:
            records: NDArray[np.void] = np.frombuffer(data, RECORD, count, consumed)
            whole = records["length"] == abi.Event.SIZE
            if not whole.all():
                count = int(np.argmin(whole))
            if count:
                found.append(records["event"][:count].copy())
                consumed += count * STRIDE
                continue
        length = int.from_bytes(data[consumed : consumed + 4], "little")
        size = (length & ~(BUSY | DISCARD)) + _HEADER_SIZE + 7 & ~7
        if length & BUSY or size > end - consumed:
            break
        skipped += 1
        consumed += size
    # Joined while opaque: numpy would join structured records without their padding.
    whole_ones = found[0] if len(found) == 1 else np.concatenate([*found, _NONE])
    return Decoded(whole_ones.view(EVENT), consumed, skipped)


def events(array: NDArray[np.void]) -> Iterator[Event]:
    """Rows of an EVENT array as values, in order."""
    raw = array.tobytes()
    for at in range(0, len(raw), abi.Event.SIZE):
        yield abi.Event.unpack(raw[at : at + abi.Event.SIZE])


def columns(array: NDArray[np.void]) -> dict[str, NDArray[Any]]:
    """The array's columns by name; addresses are (n, 16) bytes. Views, not copies."""
    return {name: array[name] for name in EVENT.names or ()}
