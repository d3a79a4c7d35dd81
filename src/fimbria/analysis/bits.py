"""Policies as bits over atoms: what an engine's policies say of peers, for 64 atoms at once.

    entries ─► codes: per bucket and atom the best hit (precedence, shape, action)
    cells (policy, direction, peer) ─► tier by tier over the codes ─► bits over atoms

A bucket is what one side of a lookup can hit. Peers that a policy does not name share one cell, so
the work grows with what policies say and not with the number of pairs. Atoms are taken 64 at a
time, a word of bits each, so memory does not grow with their number. The meaning is
`datapath.lookup.policy_lookup`'s; tests hold this against the rules themselves.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from fimbria.datapath.abi import (
    DTYPES,
    Direction,
    PolicyEntryFlags,
    PolicyFlags,
    PolicyInfo,
    PolicyShape,
)
from fimbria.datapath.lookup import TIERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

    from fimbria.analysis.atoms import Atom
    from fimbria.analysis.engine import Engine

    Ints = NDArray[np.int64]
    Codes = NDArray[np.int32]
    Bits = NDArray[np.uint64]
    Flags = NDArray[np.bool_]

WORD = 64
"""Atoms that are judged together."""

CELLS = 1 << 13
"""Cells that are judged together, to bound memory."""

Peer = tuple[int, int]
"""Identity, and identity on the CIDR side (0 without one)."""

_NOBODY = 0xFFFF_FFFF
"""An identity that no policy names."""

_ALLOW, _REDIRECT, _DENY, _PASS = range(4)
_KEY: np.dtype[np.void] = np.dtype(cast("Any", DTYPES["PolicyKey"]))
_ENTRY: np.dtype[np.void] = np.dtype(cast("Any", DTYPES["PolicyEntry"]))
_WAY = int(PolicyShape.EGRESS)


class Sides(NamedTuple):
    """Bits of atoms by policy and peer: what may go out, and what may come in."""

    out: Bits
    into: Bits


class Judge:
    """Some policies of an engine (ids of their first tiers), and some peers of theirs."""

    def __init__(self, engine: Engine, heads: Iterable[int], peers: Iterable[Peer]) -> None:
        self._heads, self._peers = sorted(set(heads)), sorted(set(peers))
        self._entries = _Entries(engine, self._heads)
        self.redirects = self._entries.redirects
        """Whether any policy sends anything to a proxy."""

    def rows(self, heads: Iterable[int]) -> Ints:
        """Return the rows of policies in what `over` gives."""
        row = {head: at for at, head in enumerate(self._heads)}
        return np.array([row[head] for head in heads], np.int64)

    def columns(self, peers: Iterable[Peer]) -> Ints:
        """Return the columns of peers in what `over` gives."""
        column = {peer: at for at, peer in enumerate(self._peers)}
        return np.array([column[peer] for peer in peers], np.int64)

    def over(self, atoms: Sequence[Atom], by_proxy: bool) -> tuple[Sides, Sides]:
        """Return what passes of up to WORD atoms and, with `by_proxy`, what is redirected."""
        entries = self._entries.over(atoms)
        out, out_by = self._side(entries, Direction.EGRESS, by_proxy)
        into, into_by = self._side(entries, Direction.INGRESS, by_proxy)
        return Sides(out, into), Sides(out_by, into_by)

    def _side(self, entries: _Codes, direction: Direction, by_proxy: bool) -> tuple[Bits, Bits]:
        """Return what passes and what is redirected, by policy and peer."""
        egress = int(direction is Direction.EGRESS)
        rows, columns = self._cells(egress)
        shape = len(self._heads), len(self._peers)
        passes = np.zeros(shape, np.uint64)
        proxied = np.zeros(shape if by_proxy else (1, 1), np.uint64)
        heads = np.array(self._heads)
        rest, rest_by = entries.judge(
            heads, egress, *(np.full(len(heads), n) for n in (_NOBODY, 0))
        )
        passes[:] = rest[:, None]
        if by_proxy:
            proxied[:] = rest_by[:, None]
        identity = np.array([one for one, _ in self._peers])
        cidr = np.array([one for _, one in self._peers])
        for at in range(0, len(rows), CELLS):
            row, column = rows[at : at + CELLS], columns[at : at + CELLS]
            bits, bits_by = entries.judge(heads[row], egress, identity[column], cidr[column])
            passes[row, column] = bits
            if by_proxy:
                proxied[row, column] = bits_by
        return passes, proxied

    def _cells(self, egress: int) -> tuple[Ints, Ints]:
        """Return (row, column) of every policy and every peer that one of its tiers names."""
        by_identity: dict[int, list[int]] = {}
        for column, pair in enumerate(self._peers):
            for identity in set(pair) - {0}:
                by_identity.setdefault(identity, []).append(column)
        rows, columns = array("q"), array("q")
        for row, head in enumerate(self._heads):
            named = {i for tier in self._entries.chain(head)
                     for i in self._entries.named(tier, egress)}  # fmt: skip
            found = {column for one in named for column in by_identity.get(one, ())}
            rows.extend([row] * len(found))
            columns.extend(found)
        return np.array(rows, np.int64), np.array(columns, np.int64)


class _Entries:
    """The entries of an engine's policies as arrays, by bucket."""

    def __init__(self, engine: Engine, heads: Sequence[int]) -> None:
        infos = {n: PolicyInfo.unpack(p.info) for n, p in engine.policy_maps.items()}
        self._next = {number: info.next_id for number, info in infos.items()}
        used = sorted({tier for head in heads for tier in self.chain(head)})
        last = max(infos) + 1
        self.flags, self.following = np.zeros(last, np.int64), np.zeros(last, np.int64)
        for number in used:
            self.flags[number] = infos[number].flags
            self.following[number] = infos[number].next_id
        maps = [engine.policy_maps[number].entries for number in used]
        keys = np.frombuffer(b"".join(key for one in maps for key in one), _KEY)
        values = np.frombuffer(b"".join(value for one in maps for value in one.values()), _ENTRY)
        policy = np.repeat(np.array(used, np.int64), [len(one) for one in maps])
        egress = (keys["shape"] & _WAY != 0).astype(np.int64)
        shape = (keys["shape"] & ~np.uint8(_WAY)).astype(np.int32)
        self.buckets, place = np.unique(
            bucket(policy, egress, keys["identity"].astype(np.int64)), return_inverse=True
        )
        self.bucket = place.astype(np.int32)
        ports = keys["protocol"].astype(np.int32) << 16 | keys["dport"]
        self._suffixes, which = np.unique(shape << 24 | ports, return_inverse=True)
        self._suffix = which.astype(np.int32)
        flags = values["flags"]
        action = np.where(values["proxy_port"] != 0, _REDIRECT, _ALLOW)
        action = np.where(flags & int(PolicyEntryFlags.DENY), _DENY, action)
        action = np.where(flags & int(PolicyEntryFlags.PASS), _PASS, action)
        rank = values["precedence"].astype(np.int32) << 5 | shape
        self.code = rank << 2 | action.astype(np.int32)
        self.redirects = bool((action == _REDIRECT).any())

    def chain(self, head: int) -> list[int]:
        """Return a policy and those that follow it."""
        found = [head]
        while following := self._next.get(found[-1]):
            found.append(following)
        return found

    def named(self, tier: int, egress: int) -> list[int]:
        """Return the identities that a policy names in a direction."""
        base = tier << 33 | egress << 32
        low, high = np.searchsorted(self.buckets, [base + 1, base + (1 << 32)])
        return (self.buckets[low:high] & 0xFFFF_FFFF).tolist()

    def over(self, atoms: Sequence[Atom]) -> _Codes:
        """Return the best hit of every bucket for each of these atoms."""
        protocol = np.array([atom.protocol for atom in atoms])
        first = np.array([atom.first for atom in atoms])
        suffixes = self._suffixes.astype(np.int64)
        shape, spoken, port = suffixes >> 24, suffixes >> 16 & 0xFF, suffixes & 0xFFFF
        size = np.where(shape > 1, 1 << (17 - np.maximum(shape, 1)), 1 << 16)
        held = (shape[:, None] == 0) | (spoken[:, None] == protocol)
        held &= (shape[:, None] <= 1) | (
            (first >= port[:, None]) & (first < (port + size)[:, None])
        )
        codes = np.full((len(self.buckets) + 1, len(atoms)), -1, np.int32)
        for at in range(len(atoms)):
            rows = np.flatnonzero(held[self._suffix, at])
            np.maximum.at(codes[:, at], self.bucket[rows], self.code[rows])
        return _Codes(self, codes)


class _Codes:
    """Best hits by bucket and atom; the last row is the bucket that is not there."""

    def __init__(self, entries: _Entries, codes: Codes) -> None:
        self._entries, self._codes = entries, codes

    def judge(self, head: Ints, egress: int, identity: Ints, cidr: Ints) -> tuple[Bits, Bits]:
        """Return, by cell, the bits of the atoms that pass, and of those that are redirected."""
        entries, count = self._entries, self._codes.shape[1]
        way = int(Direction.EGRESS if egress else Direction.INGRESS)
        opened = int(PolicyFlags.EGRESS_OPEN if egress else PolicyFlags.INGRESS_OPEN)
        undecided: Flags = np.ones((len(head), count), np.bool_)
        passes: Flags = np.zeros_like(undecided)
        proxied: Flags = np.zeros_like(undecided)
        tier = head
        for _ in range(TIERS):
            flags = entries.flags[tier]
            best = self._best(tier, egress, identity, cidr)
            best[flags & way == 0] = -1
            action = np.where(best < 0, _PASS, best & 3)
            closed = (flags & way != 0) & (flags & opened == 0)
            decided = undecided & ((action != _PASS) | ((best < 0) & closed[:, None]))
            passes |= decided & (action <= _REDIRECT)
            proxied |= decided & (action == _REDIRECT)
            undecided &= ~decided
            following = entries.following[tier]
            ends = following == 0
            passes[ends] |= undecided[ends]
            undecided[ends] = False
            if ends.all():
                break
            tier = following
        return _packed(passes), _packed(proxied)

    def _best(self, tier: Ints, egress: int, identity: Ints, cidr: Ints) -> Codes:
        best = self._codes[self._find(tier, egress, identity)]
        if cidr.any():
            best = np.maximum(best, self._codes[self._find(tier, egress, cidr, none=cidr == 0)])
        anyone = self._find(tier, egress, np.zeros(len(tier), np.int64))
        return np.maximum(best, self._codes[anyone])

    def _find(self, tier: Ints, egress: int, identity: Ints, none: Flags | None = None) -> Ints:
        """Return the rows of buckets; the last one for those that are not there."""
        buckets = self._entries.buckets
        wanted = bucket(tier, egress, identity)
        place = np.searchsorted(buckets, wanted)
        found = place < len(buckets)
        found[found] = buckets[place[found]] == wanted[found]
        if none is not None:
            found &= ~none
        return np.where(found, place, len(buckets))


def bucket(policy: Ints, egress: Ints | int, identity: Ints) -> Ints:
    """Return the numbers of buckets: policy, direction, identity, from the highest bit on."""
    return (policy << 33) | (egress << 32) | identity


def _packed(flags: Flags) -> Bits:
    """Return rows of up to 64 flags as words, the first flag in the lowest bit."""
    padded = np.zeros((len(flags), WORD), np.bool_)
    padded[:, : flags.shape[1]] = flags
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").reshape(len(flags))
