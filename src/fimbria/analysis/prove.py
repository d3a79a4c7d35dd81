"""Assertions proven over the whole packet space, or refuted by a packet.

    assertions ─► the ends and ports that they tell apart ─► Reach ─► chunks of verdicts
               ─► a trial for each demand ─► Proof, with the packet that refutes it

The verdicts about all pairs of ends are worked out once, for all assertions together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fimbria.analysis.assertions import Assertion, parse
from fimbria.analysis.atoms import OTHER, Atom, cut_ends, cut_ports
from fimbria.analysis.diff import packet_of
from fimbria.analysis.homes import guests
from fimbria.analysis.reach import Reach
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from fimbria.analysis.assertions import Demand, Ends
    from fimbria.analysis.atoms import Group
    from fimbria.analysis.engine import Engine
    from fimbria.analysis.flows import Flow
    from fimbria.analysis.reach import Chunk
    from fimbria.analysis.results import Result


@dataclass(frozen=True, slots=True)
class Proof:
    """Whether an assertion holds.

    `example` is a packet that refutes it, and `result` what becomes of it. `vacuous`: it holds only
    because it names no pair of ends. `pairs` are how many pairs of groups were looked at.
    """

    assertion: Assertion
    holds: bool
    pairs: int
    example: Flow | None = None
    result: Result | None = None

    @property
    def vacuous(self) -> bool:
        """Return whether it says nothing about anybody."""
        return self.holds and not self.pairs


def prove(engine: Engine, assertions: Iterable[Assertion | str]) -> list[Proof]:
    """Return a proof for each assertion, in order, of all of the engine's world.

    Raises AssertionSyntaxError.
    """
    asked = [parse(one) if isinstance(one, str) else one for one in assertions]
    atoms = cut_ports([engine], [atom for one in asked for atom in one.atoms])
    groups = cut_ends([engine], [net for one in asked for net in one.prefixes])
    nodes = guests(groups)
    trials = [_Trial(one, demand, groups, nodes) for one in asked for demand in one.demands]
    for chunk in Reach(engine, groups, atoms).chunks():
        for trial in trials:
            trial.add(chunk)
    proofs: list[Proof] = []
    for one in asked:
        own = [trial for trial in trials if trial.assertion is one]
        flow = next((flow for trial in own if (flow := trial.refuted()) is not None), None)
        pairs = sum(trial.pairs for trial in own)
        result = None if flow is None else engine.eval(flow)
        proofs.append(Proof(one, flow is None, pairs, flow, result))
    return proofs


class _Trial:
    """One demand while the verdicts come in."""

    def __init__(
        self,
        assertion: Assertion,
        demand: Demand,
        groups: Sequence[Group],
        nodes: Mapping[int, NDArray[np.bool_]],
    ) -> None:
        self.assertion = assertion
        self._demand = demand
        self._groups = groups
        self._sources = _named(demand.sources, groups)
        self._targets = np.flatnonzero(_named(demand.destinations, groups))
        self._asked = self._between(nodes) if nodes else None
        self._found: tuple[int, int, Atom] | None = None
        self._some = demand.every and not assertion.atoms
        shape = len(groups), len(self._targets)
        self._paired = np.zeros(shape, np.bool_)
        self._reached = np.zeros(shape if self._some else (0, 0), np.bool_)

    def _between(self, nodes: Mapping[int, NDArray[np.bool_]]) -> NDArray[np.bool_]:
        """Return which pairs are asked about: a node is another end to its pods than to others."""
        found = np.ones((len(self._groups), len(self._targets)), np.bool_)
        column = {target: at for at, target in enumerate(self._targets.tolist())}
        for at, here in nodes.items():
            away, home = self._groups[at], self._groups[at].at_home
            ends = self._demand.sources
            found[at] &= np.where(here[self._targets], ends(home), ends(away))
            if at in column:
                ends = self._demand.destinations
                found[:, column[at]] &= np.where(here, ends(home), ends(away))
        return found

    def add(self, chunk: Chunk) -> None:
        """Take up the verdicts about some atoms and sources."""
        word = sum(1 << at for at, atom in enumerate(chunk.atoms) if self._names(atom))
        rows = np.flatnonzero(self._sources[chunk.start : chunk.start + len(chunk.passes)])
        if not word or not len(rows) or not len(self._targets):
            return
        pick = np.ix_(rows, self._targets)
        possible = chunk.possible[pick] & np.uint64(word)
        if self._asked is not None:
            possible[~self._asked[rows + chunk.start]] = 0
        self._paired[rows + chunk.start] |= possible != 0
        passes = chunk.passes[pick] & possible
        if self._some:
            self._reached[rows + chunk.start] |= passes != 0
            return
        self._note(chunk, rows, passes ^ possible if self._demand.every else passes)

    def _note(self, chunk: Chunk, rows: NDArray[np.int64], wrong: NDArray[np.uint64]) -> None:
        for bad, target in zip(*np.nonzero(wrong), strict=True):
            bits = int(wrong[bad, target])
            # A packet that flows can name is the better example.
            places = [at for at in range(len(chunk.atoms)) if bits >> at & 1]
            at = next((p for p in places if chunk.atoms[p].protocol != OTHER), places[0])
            if self._found is None or self._found[2].protocol == OTHER:
                row = chunk.start + int(rows[bad])
                self._found = row, int(self._targets[target]), chunk.atoms[at]
            return

    @property
    def pairs(self) -> int:
        """Return how many pairs of groups it is about."""
        return int(self._paired.sum())

    def _names(self, atom: Atom) -> bool:
        wanted = self.assertion.atoms
        return not wanted or any(
            one.protocol == atom.protocol and one.first <= atom.first and atom.last <= one.last
            for one in wanted
        )

    def refuted(self) -> Flow | None:
        """Return a packet that refutes the demand."""
        if self._some:
            missing = np.argwhere(self._paired & ~self._reached)
            if len(missing):
                row, target = missing[0].tolist()
                return self._flow(row, int(self._targets[target]), Atom(Protocol.TCP, 1, 1))
            return None
        return None if self._found is None else self._flow(*self._found)

    def _flow(self, source: int, destination: int, atom: Atom) -> Flow:
        one, other = self._groups[source], self._groups[destination]
        names = (one.members[0], one.members[1]) if one is other else (one.name, other.name)
        if atom.protocol == OTHER:
            atom = Atom(Protocol.TCP, 1, 1)
        return packet_of(*names, atom)


def _named(ends: Ends, groups: Sequence[Group]) -> NDArray[np.bool_]:
    """Return which groups are such ends, nodes also if they are to their own pods only."""
    return np.array(
        [ends(one) or (one.kind == "node" and ends(one.at_home)) for one in groups], np.bool_
    )
