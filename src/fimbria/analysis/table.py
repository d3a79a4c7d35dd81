"""The second judge for millions of packets: policy maps as sorted arrays, looked up in bulk.

    policies by id ─► one array of entries, sorted by (bucket, shape, protocol, port)
    questions, as arrays ─► bucket of each side ─► first hit, longest shape first ─► tier by tier

A bucket is (policy, direction, identity): what one side of one lookup can hit. Every step is
`datapath.lookup.policy_lookup` over all questions at once; tests hold the two against each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fimbria.datapath.abi import DTYPES, Direction, PolicyEntryFlags, PolicyFlags, PolicyShape
from fimbria.datapath.lookup import SHAPES, TIERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from fimbria.compile.ids import PolicyMap

    Ints = NDArray[np.int64]
    Keys = NDArray[np.uint64]

UNENFORCED, OPEN, MISSED = -1, -2, -3
"""What `Table.judge` says where no entry decides: nothing is enforced in the direction; something
is, and leaves it open; no entry matches and the rest is denied."""

_KEY: np.dtype[np.void] = np.dtype(cast("Any", DTYPES["PolicyKey"]))
_ENTRY: np.dtype[np.void] = np.dtype(cast("Any", DTYPES["PolicyEntry"]))
_INFO: np.dtype[np.void] = np.dtype(cast("Any", DTYPES["PolicyInfo"]))
_WAY = int(PolicyShape.EGRESS)


@dataclass(frozen=True, slots=True)
class Questions:
    """Packets, one element each: policy id, whether it is egress, peer, protocol, port.

    `cidr` is the identity on the CIDR side, 0 without one.
    """

    policy: Ints
    egress: Ints
    identity: Ints
    cidr: Ints
    protocol: Ints
    port: Ints


class Table:
    """All policies of a compiled world. `policies` are by id, the built-in ones included.

    `entries` are their keys' and values' bytes, in the order that `judge` numbers them in.
    """

    def __init__(self, policies: Mapping[int, PolicyMap]) -> None:
        last = max(policies)
        self._flags = np.zeros(last + 1, np.int64)
        self._next = np.zeros(last + 1, np.int64)
        for number, policy in policies.items():
            info = np.frombuffer(policy.info, _INFO)[0]
            self._flags[number] = info["flags"]
            self._next[number] = info["next_id"]
        maps = [policy.entries for policy in policies.values()]
        sizes = [len(entries) for entries in maps]
        raw_keys = b"".join(key for entries in maps for key in entries)
        raw_values = b"".join(value for entries in maps for value in entries.values())
        keys = np.frombuffer(raw_keys, _KEY)
        values = np.frombuffer(raw_values, _ENTRY)
        policy = np.repeat(np.fromiter(policies, np.int64, len(sizes)), sizes)
        egress = (keys["shape"] & _WAY != 0).astype(np.int64)
        shape = (keys["shape"] & ~np.uint8(_WAY)).astype(np.int64)
        buckets, place = np.unique(
            _bucket(policy, egress, keys["identity"].astype(np.int64)), return_inverse=True
        )
        wanted = _place(
            place, shape, keys["protocol"].astype(np.int64), keys["dport"].astype(np.int64)
        )
        order = np.argsort(wanted)
        self._buckets: Keys = buckets
        self._shapes = np.zeros(len(buckets), np.int64)
        np.bitwise_or.at(self._shapes, place, 1 << shape)
        self._places: Keys = wanted[order]
        precedence = values["precedence"][order].astype(np.int64)
        self._rank: Ints = (precedence << 5) + shape[order]
        self._passes = (values["flags"][order] & int(PolicyEntryFlags.PASS)) != 0
        self._keys = keys[order].tobytes()
        self._values = values[order].tobytes()

    def __len__(self) -> int:
        return len(self._places)

    def entry(self, number: int) -> tuple[bytes, bytes]:
        """Return key and value of an entry that `judge` named."""
        return (
            self._keys[number * _KEY.itemsize : (number + 1) * _KEY.itemsize],
            self._values[number * _ENTRY.itemsize : (number + 1) * _ENTRY.itemsize],
        )

    def judge(self, asked: Questions) -> Ints:
        """Return which entry decides each question, or UNENFORCED, OPEN or MISSED."""
        count = len(asked.policy)
        answer = np.full(count, UNENFORCED, np.int64)
        rows = np.arange(count)
        policy = asked.policy
        way = np.where(asked.egress, int(Direction.EGRESS), int(Direction.INGRESS))
        opened = np.where(asked.egress, int(PolicyFlags.EGRESS_OPEN), int(PolicyFlags.INGRESS_OPEN))
        for _ in range(TIERS):
            flags = self._flags[policy]
            here = np.flatnonzero(flags & way[rows])
            answer[rows[here]] = OPEN
            best = np.full(len(rows), -1, np.int64)
            best[here] = self._best(asked, rows[here], policy[here])
            missed = np.zeros(len(rows), np.bool_)
            missed[here] = (best[here] < 0) & (flags[here] & opened[rows[here]] == 0)
            decided = best >= 0
            decided[decided] = ~self._passes[best[decided]]
            answer[rows[decided]] = best[decided]
            answer[rows[missed]] = MISSED
            following = self._next[policy]
            on = ~decided & ~missed & (following != 0)
            rows, policy = rows[on], following[on]
            if not len(rows):
                break
        return answer

    def _best(self, asked: Questions, rows: Ints, policy: Ints) -> Ints:
        """Return the entry of one tier that decides, of all sides; -1 where nothing matches."""
        egress, protocol, port = asked.egress[rows], asked.protocol[rows], asked.port[rows]
        best = self._side(policy, egress, asked.identity[rows], protocol, port)
        cidr = asked.cidr[rows]
        at = np.flatnonzero(cidr)
        if len(at):
            found = self._side(policy[at], egress[at], cidr[at], protocol[at], port[at])
            best[at] = self._better(best[at], found)
        anyone = self._side(policy, egress, np.zeros(len(rows), np.int64), protocol, port)
        return self._better(best, anyone)

    def _better(self, first: Ints, second: Ints) -> Ints:
        """Return the entries of higher precedence, then of longer shape; the first if equal."""
        if not len(self):
            return first
        lower = np.where(first < 0, -1, self._rank[first])
        return np.where((second >= 0) & (self._rank[second] > lower), second, first)

    def _side(self, policy: Ints, egress: Ints, identity: Ints, protocol: Ints, port: Ints) -> Ints:
        """Return each question's first hit in one bucket, longest shape first; -1 for none."""
        found = np.full(len(policy), -1, np.int64)
        bucket, rows = _find(self._buckets, _bucket(policy, egress, identity))
        shapes = self._shapes[bucket]
        for shape in range(SHAPES - 1, -1, -1):
            at = np.flatnonzero(shapes >> shape & 1)
            if not len(at):
                continue
            asked = rows[at]
            masked = port[asked] >> (17 - shape) << (17 - shape) if shape > 1 else port[asked] * 0
            spoken = protocol[asked] if shape else masked
            entry, hit = _find(self._places, _place(bucket[at], shape, spoken, masked))
            found[asked[hit]] = entry
            left = np.ones(len(rows), np.bool_)
            left[at[hit]] = False
            bucket, rows, shapes = bucket[left], rows[left], shapes[left]
        return found


def _bucket(policy: Ints, egress: Ints, identity: Ints) -> Keys:
    return ((policy << 33) | (egress << 32) | identity).astype(np.uint64)


def _place(bucket: Ints, shape: Ints | int, protocol: Ints, port: Ints) -> Keys:
    return ((bucket << 29) | (shape << 24) | (protocol << 16) | port).astype(np.uint64)


def _find(keys: Keys, wanted: Keys) -> tuple[Ints, Ints]:
    """Return the places in `keys`, sorted, of those of `wanted` that are there, and which."""
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    place = np.searchsorted(keys, wanted)
    place[place == len(keys)] = 0
    rows = np.flatnonzero(keys[place] == wanted)
    return place[rows], rows
