"""Who can reach whom, for all packets at once: verdicts as bits over groups x groups x atoms.

    entries ─► codes: per bucket and atom the best hit (precedence, shape, action)
    cells (policy, direction, peer) ─► tier by tier over the codes ─► bits over atoms
    bits ─► rows by policy, columns by peer ─► egress ∧ ingress

A bucket is what one side of a lookup can hit. Peers that a policy does not name share one cell, so
the work grows with what policies say and not with the number of pairs. Atoms are taken 64 at a
time, a word of bits each, so memory does not grow with their number. The meaning is
`datapath.lookup.policy_lookup`'s; tests hold this against the rules themselves.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from fimbria.datapath.abi import (
    DTYPES,
    Direction,
    Identity,
    PolicyEntryFlags,
    PolicyFlags,
    PolicyInfo,
    PolicyShape,
)
from fimbria.datapath.lookup import TIERS, endpoint_policy
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from fimbria.analysis.atoms import Atom, Group
    from fimbria.analysis.engine import Engine

    Ints = NDArray[np.int64]
    Codes = NDArray[np.int32]
    Bits = NDArray[np.uint64]
    Flags = NDArray[np.bool_]

WORD = 64
"""Atoms that are judged together."""

ROWS = 128
"""Sources whose pairs are yielded together, to bound memory."""

CELLS = 1 << 13
"""Cells that are judged together, to bound memory."""

_NOBODY = 0xFFFF_FFFF
"""An identity that no policy names."""

_ALLOW, _REDIRECT, _DENY, _PASS = range(4)
_KEY: np.dtype[np.void] = np.dtype(cast("Any", DTYPES["PolicyKey"]))
_ENTRY: np.dtype[np.void] = np.dtype(cast("Any", DTYPES["PolicyEntry"]))
_WAY = int(PolicyShape.EGRESS)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The verdicts about up to 64 atoms, the bit of each by its place in `atoms`.

    `passes[i, j]` has the atoms that get from group `start` + i to group j; of these,
    `redirects[i, j]` go by a proxy. `possible[i, j]` are the atoms that can be between the two:
    none where no policy can be about either end, or where they have no address family in common,
    and either ICMP or ICMPv6 where they have one.
    """

    atoms: Sequence[Atom]
    start: int
    passes: Bits
    redirects: Bits
    possible: Bits


class Reach:
    """Verdicts in an engine's world over the groups and atoms of `analysis.atoms`."""

    def __init__(self, engine: Engine, groups: Sequence[Group], atoms: Sequence[Atom]) -> None:
        self.groups, self.atoms = groups, atoms
        places = [engine.place(group.name) for group in groups]
        peers = [(place.end.identity, place.cidr) for place in places]
        at_home = [(int(Identity.HOST), cidr) for _, cidr in peers]
        self._peers = sorted({*peers, *at_home})
        number = {peer: at for at, peer in enumerate(self._peers)}
        self._column = np.array([number[peer] for peer in peers], np.int64)
        self._home = {
            at: (number[at_home[at]], np.array([one.node == g.node for one in groups]))
            for at, g in enumerate(groups)
            if g.kind == "node"
        }
        """Nodes: the column of the host, and the groups to which they are that."""
        heads = [endpoint_policy(engine.maps, g.unit) if g.unit else 0 for g in groups]
        self._heads = sorted(set(heads))
        place_of = {head: at for at, head in enumerate(self._heads)}
        self._row = np.array([place_of[head] for head in heads], np.int64)
        self._entries = _Entries(engine, self._heads)
        self._policed = np.array([group.unit != 0 for group in groups])
        self._family = np.array([group.family for group in groups])

    def chunks(self) -> Iterator[Chunk]:
        """Yield the verdicts, 64 atoms and ROWS sources at a time."""
        for at in range(0, len(self.atoms), WORD):
            atoms = self.atoms[at : at + WORD]
            (out, out_by), (into, into_by) = self._sides(atoms)
            for start in range(0, len(self.groups), ROWS):
                these = slice(start, start + ROWS)
                possible = self._possible(these, atoms)
                egress, ingress = self._seen(out, into, these)
                passes = egress & ingress & possible
                by = np.zeros((1, 1), np.uint64)
                if self._entries.redirects:
                    egress, ingress = self._seen(out_by, into_by, these)
                    by = egress | ingress
                yield Chunk(atoms, start, passes, passes & by, possible)

    def _seen(self, out: Bits, into: Bits, sources: slice) -> tuple[Bits, Bits]:
        """Return egress and ingress by pair; a pod's own node is the host to it."""
        rows = self._row[sources]
        egress = out[np.ix_(rows, self._column)]
        ingress = into[np.ix_(self._row, self._column[sources])].T
        for at, (column, guests) in self._home.items():
            here = guests[sources]
            egress[here, at] = out[rows[here], column]
            if sources.start <= at < sources.start + len(rows):
                ingress[at - sources.start, guests] = into[self._row[guests], column]
        return egress, ingress

    def _possible(self, sources: slice, atoms: Sequence[Atom]) -> Bits:
        """Return which atoms can be between which pairs, as far as policy sees them."""
        one, policed = self._family[sources, None], self._policed
        same = (one == self._family) | (one == 0) | (self._family == 0)
        seen = same & (policed[sources, None] | policed)
        for row, group in enumerate(self.groups[sources]):
            if len(group.members) < 2:
                seen[row, sources.start + row] = False
        four, six = (_without(atoms, p) for p in (Protocol.ICMPV6, Protocol.ICMP))
        family = np.maximum(one, self._family)
        words = np.choose(family // 2 - (family > 0), [four | six, four, six])
        return np.where(seen, words, np.uint64(0))

    def _sides(self, atoms: Sequence[Atom]) -> tuple[tuple[Bits, Bits], tuple[Bits, Bits]]:
        entries = self._entries.over(atoms)
        return self._side(entries, Direction.EGRESS), self._side(entries, Direction.INGRESS)

    def _side(self, entries: _Codes, direction: Direction) -> tuple[Bits, Bits]:
        """Return what passes and what is redirected, by policy and peer."""
        egress = int(direction is Direction.EGRESS)
        rows, columns = self._cells(egress)
        shape = len(self._heads), len(self._peers)
        passes = np.zeros(shape, np.uint64)
        proxied = np.zeros(shape if self._entries.redirects else (1, 1), np.uint64)
        every = np.arange(len(self._heads))
        heads = np.array(self._heads)
        rest, rest_by = entries.judge(
            heads, egress, *(np.full(len(heads), n) for n in (_NOBODY, 0))
        )
        passes[every] = rest[:, None]
        if self._entries.redirects:
            proxied[every] = rest_by[:, None]
        identity = np.array([one for one, _ in self._peers])
        cidr = np.array([one for _, one in self._peers])
        for at in range(0, len(rows), CELLS):
            row, column = rows[at : at + CELLS], columns[at : at + CELLS]
            bits, bits_by = entries.judge(heads[row], egress, identity[column], cidr[column])
            passes[row, column] = bits
            if self._entries.redirects:
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


def _without(atoms: Sequence[Atom], protocol: int) -> np.uint64:
    """Return the bits of the atoms of other protocols than that."""
    return np.uint64(sum(1 << at for at, atom in enumerate(atoms) if atom.protocol != protocol))


def _packed(flags: Flags) -> Bits:
    """Return rows of up to 64 flags as words, the first flag in the lowest bit."""
    padded = np.zeros((len(flags), WORD), np.bool_)
    padded[:, : flags.shape[1]] = flags
    return np.packbits(padded, axis=1, bitorder="little").view("<u8").reshape(len(flags))
