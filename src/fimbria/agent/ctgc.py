"""Conntrack's garbage collection: expired connections, and those of pods that are gone.

An expired entry counts as absent already, so collecting is about room, not about meaning. The whole
table is read as one array; each victim is looked at once more before it is deleted, since the
datapath may have taken it into use meanwhile.

The interval follows the churn (reference: datapath §2): more than a quarter deleted shortens it, by
that share, less than a twentieth lengthens it by half; between 10 s and 12 h, 5 min at first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from fimbria.datapath.abi import DTYPES

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    import numpy as np
    from numpy.typing import NDArray

    from fimbria.kernel.maps import BpfMap

FIRST_INTERVAL = 300.0
MIN_INTERVAL, MAX_INTERVAL = 10.0, 12 * 3600.0
MANY, FEW = 0.25, 0.05
MAX_SHORTENING = 0.9
LENGTHENING = 1.5


@dataclass(frozen=True)
class Collected:
    """What one run found: entries in the table, and those it deleted.

    `users` counts the entries that stay by the local endpoints at their ends; a connection
    between two endpoints of this node counts for both.
    """

    entries: int
    deleted: int
    users: Counter[int] = field(default_factory=Counter[int])

    @property
    def left(self) -> int:
        """Return how many entries stayed."""
        return self.entries - self.deleted

    def __add__(self, other: Collected) -> Collected:
        return Collected(
            self.entries + other.entries, self.deleted + other.deleted, self.users + other.users
        )


def next_interval(interval: float, found: Collected) -> float:
    """Return how long to wait after a run that found this."""
    ratio = found.deleted / found.entries if found.entries else 0.0
    if ratio > MANY:
        interval *= 1 - min(ratio, MAX_SHORTENING)
    elif ratio < FEW:
        interval *= LENGTHENING
    return min(max(interval, MIN_INTERVAL), MAX_INTERVAL)


def expired(value: bytes, jiffies: int) -> bool:
    """Return whether an entry's lifetime is over; `jiffies` may be 64 bit."""
    left = (int.from_bytes(value[:4], "little") - jiffies) & 0xFFFFFFFF
    return left >= 0x80000000


def collect(table: BpfMap, jiffies: Callable[[], int], gone: Collection[bytes] = ()) -> Collected:
    """Delete expired entries and those with an end in `gone` (16-byte addresses, v4-mapped)."""
    import numpy as np

    keys, values, count = table.dump()
    if count == 0:
        return Collected(0, 0)
    key_rows: NDArray[np.uint8] = np.frombuffer(keys, np.uint8).reshape(count, table.key_size)
    layout: np.dtype[np.void] = np.dtype(cast("Any", DTYPES["CtEntry"]))
    entries: NDArray[np.void] = np.frombuffer(values, layout)
    ends: NDArray[np.uint32] = np.ascontiguousarray(entries["expires"])
    now = np.uint32(jiffies() & 0xFFFFFFFF)
    over = (ends - now).view(np.int32) < 0
    deleted = 0
    for index in np.flatnonzero(over).tolist():
        key = key_rows[index].tobytes()
        value = table.get(key)
        if value is not None and expired(value, jiffies()):
            deleted += table.delete(key)
    if gone:
        deleted += table.delete_many(_of_addresses(key_rows[~over], gone))
    return Collected(count, deleted, _users(entries[~over]))


def _users(entries: NDArray[np.void]) -> Counter[int]:
    """Count entries by their local endpoints."""
    import numpy as np

    found: Counter[int] = Counter()
    for name in ("src_lxc", "dst_lxc"):
        numbers, counts = np.unique(entries[name], return_counts=True)
        found.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    del found[0]
    return found


def _of_addresses(rows: NDArray[np.uint8], gone: Iterable[bytes]) -> list[bytes]:
    """Return the keys with one of these addresses at either end."""
    import numpy as np

    if not len(rows):
        return []
    wanted = np.frombuffer(b"".join(gone), "S16")
    # A void view would compare bytes too, but isin wants an orderable type; S16 drops trailing
    # zeros on both sides alike, and no address ends differ only in those.
    sides = [np.ascontiguousarray(rows[:, at : at + 16]).view("S16").ravel() for at in (0, 16)]
    hit = np.isin(sides[0], wanted) | np.isin(sides[1], wanted)
    return [row.tobytes() for row in rows[hit]]
