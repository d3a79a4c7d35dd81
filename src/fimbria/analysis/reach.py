"""Who can reach whom, for all packets at once: verdicts as bits over groups x groups x atoms.

policies ─► bits by policy and peer (analysis.bits) ─► rows by source, columns by destination
nodes: the same in their own views (analysis.homes) ─► egress ∧ ingress
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fimbria.analysis.bits import WORD, Judge, Sides
from fimbria.analysis.homes import Guests, Own, guests, peers_of
from fimbria.datapath.lookup import endpoint_policy
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fimbria.analysis.atoms import Atom, Group
    from fimbria.analysis.bits import Bits, Flags
    from fimbria.analysis.engine import Engine

ROWS = 128
"""Sources whose pairs are yielded together, to bound memory."""


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
        peers = peers_of(engine, groups)
        pods = [group.unit if group.kind == "pods" else 0 for group in groups]
        heads = [endpoint_policy(engine.maps, unit) if unit else 0 for unit in pods]
        self._judge = Judge(engine, heads, peers)
        self._row, self._column = self._judge.rows(heads), self._judge.columns(peers)
        nodes = guests(groups)
        self._homes: list[Guests | Own] = [
            Guests(engine, groups, at, here) for at, here in nodes.items() if here.any()
        ]
        if engine.host_firewall:
            self._homes += [Own(engine, groups, at, peers) for at in nodes]
        self._policed = np.array([group.unit != 0 for group in groups])
        self._family = np.array([group.family for group in groups])
        self._node = np.array([group.node for group in groups])
        self._is_node = np.array([group.kind == "node" for group in groups])
        self._host = next((at for at, g in enumerate(groups) if g.name == "entity:host"), -1)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the verdicts, 64 atoms and ROWS sources at a time."""
        judges = [self._judge, *(home.judge for home in self._homes)]
        by_proxy = any(judge.redirects for judge in judges)
        for at in range(0, len(self.atoms), WORD):
            atoms = self.atoms[at : at + WORD]
            said = [judge.over(atoms, by_proxy) for judge in judges]
            for start in range(0, len(self.groups), ROWS):
                these = slice(start, start + ROWS)
                possible = self._possible(these, atoms)
                egress, ingress = self._seen([passing for passing, _ in said], these)
                passes = egress & ingress & possible
                by = np.zeros((1, 1), np.uint64)
                if by_proxy:
                    egress, ingress = self._seen([proxied for _, proxied in said], these)
                    by = egress | ingress
                yield Chunk(atoms, start, passes, passes & by, possible)

    def _seen(self, said: Sequence[Sides], sources: slice) -> tuple[Bits, Bits]:
        """Return egress and ingress by pair; a pod's own node is the host to it."""
        common, *own = said
        egress = common.out[np.ix_(self._row[sources], self._column)]
        ingress = common.into[np.ix_(self._row, self._column[sources])].T
        for home, sides in zip(self._homes, own, strict=True):
            home.put(egress, ingress, sides, sources.start)
        return egress, ingress

    def _possible(self, sources: slice, atoms: Sequence[Atom]) -> Bits:
        """Return which atoms can be between which pairs, as far as policy sees them."""
        one, policed = self._family[sources, None], self._policed
        same = (one == self._family) | (one == 0) | (self._family == 0)
        seen = same & (policed[sources, None] | policed)
        for row, group in enumerate(self.groups[sources]):
            if len(group.members) < 2:
                seen[row, sources.start + row] = False
        if self._is_node.any():
            self._without_loops(seen, sources)
        four, six = (_without(atoms, p) for p in (Protocol.ICMPV6, Protocol.ICMP))
        family = np.maximum(one, self._family)
        words = np.choose(family // 2 - (family > 0), [four | six, four, six])
        return np.where(seen, words, np.uint64(0))

    def _without_loops(self, seen: Flags, sources: slice) -> None:
        """Take out what a node sends to itself, and entity:host where its node has a name."""
        one = self._node[sources, None]
        seen &= ~(self._is_node[sources, None] & self._is_node & (one == self._node))
        if self._host >= 0:
            named = self._node != ""
            seen[named[sources], self._host] = False
            if sources.start <= self._host < sources.start + len(seen):
                seen[self._host - sources.start, named] = False


def _without(atoms: Sequence[Atom], protocol: int) -> np.uint64:
    """Return the bits of the atoms of other protocols than that."""
    return np.uint64(sum(1 << at for at, atom in enumerate(atoms) if atom.protocol != protocol))
