"""Conntrack's garbage collection: expired connections, and those of pods that are gone.

An expired entry counts as absent already, so collecting is about room, not about meaning. The whole
table is read as one array; each victim is looked at once more before it is deleted, since the
datapath may have taken it into use meanwhile. A pod that is gone is an endpoint id that nobody has,
so it does not matter who saw it go: an agent that died over it may have told nobody.

The interval follows the churn (reference: datapath §2): more than a quarter deleted shortens it, by
that share, less than a twentieth lengthens it by half; between 10 s and 12 h, 5 min at first.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from fimbria.datapath.abi import DTYPES, EndpointIds

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

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


def collect(
    table: BpfMap, jiffies: Callable[[], int], known: Callable[[], Collection[int]]
) -> Collected:
    """Delete expired entries, and those of endpoints of this node that are not `known`.

    `known` gives the ids of the node's pods; it is asked after the table has been read, so that
    connections of a pod that comes meanwhile are not taken for those of one that went.
    """
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
    orphaned = ~over & _orphaned(entries, known())
    deleted += table.delete_many(row.tobytes() for row in key_rows[orphaned])
    return Collected(count, deleted, _users(entries[~over & ~orphaned]))


def _users(entries: NDArray[np.void]) -> Counter[int]:
    """Count entries by their local endpoints."""
    import numpy as np

    found: Counter[int] = Counter()
    for name in ("src_lxc", "dst_lxc"):
        numbers, counts = np.unique(entries[name], return_counts=True)
        found.update(dict(zip(numbers.tolist(), counts.tolist(), strict=True)))
    del found[0]
    return found


def _orphaned(entries: NDArray[np.void], known: Collection[int]) -> NDArray[np.bool_]:
    """Return which entries have an end on this node that is no pod and not the node."""
    import numpy as np

    ids = np.fromiter((0, EndpointIds.HOST, *known), np.uint16)
    found: NDArray[np.bool_] = ~(
        np.isin(entries["src_lxc"], ids) & np.isin(entries["dst_lxc"], ids)
    )
    return found
