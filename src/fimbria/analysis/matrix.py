"""Who can reach whom, as a table: kinds of ends by kinds of ends, and why in every cell.

    Engine ─► groups, atoms ─► Reach ─► bits by cell ─► order ─► Matrix ─► text, picture, page

Rows are sources, columns destinations. Pods stand by namespace, alike beside alike, so that blocks
show; what is not a pod stands behind them under namespace "". Which rule decides about a cell is
asked once for each run of ports that passes, and once for the rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from fimbria.analysis.atoms import OTHER, Atom, cut_ends, cut_ports
from fimbria.analysis.bits import WORD
from fimbria.analysis.diff import packet_of
from fimbria.analysis.flows import FlowError
from fimbria.analysis.reach import Reach

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from fimbria.analysis.atoms import Group
    from fimbria.analysis.engine import Engine
    from fimbria.analysis.flows import Flow
    from fimbria.analysis.results import Result

    Bits = NDArray[np.uint64]

SHOWN = ("entity:world-ipv4", "entity:world-ipv6", "entity:host", "entity:remote-node",
         "entity:kube-apiserver")  # fmt: skip
"""Entities that have a row; of the others there is hardly ever one. Where nodes have rows there is
no other one, and entity:host stands for the node of pods of which none is known."""

RUNS = 6
"""Runs of ports about which a cell says why; the others are named without."""


class State(StrEnum):
    """What a cell shows: all, some or none of its ports pass; NEVER: no policy can be about it."""

    ALL = "all"
    SOME = "some"
    NONE = "none"
    NEVER = "never"


class Pattern(NamedTuple):
    """The verdicts of a cell as numbers, atom 0 in the lowest bit."""

    passes: int
    redirects: int
    possible: int

    @property
    def state(self) -> State:
        """Return what they come to."""
        if not self.possible:
            return State.NEVER
        if not self.passes:
            return State.NONE
        return State.ALL if self.passes == self.possible else State.SOME


class Run(NamedTuple):
    """Neighbouring ports of a protocol with the same verdict."""

    atom: Atom
    passes: bool


class Reason(NamedTuple):
    """Why ports of a cell pass or do not: `ports` in words, and what becomes of one of them."""

    ports: str
    result: Result


@dataclass(frozen=True)
class Matrix:
    """The ends in their order, the atoms that it is about, and a pattern for each pair."""

    engine: Engine
    ends: Sequence[Group]
    atoms: Sequence[Atom]
    patterns: Sequence[Pattern]
    cells: NDArray[np.int64]
    """Numbers of patterns by source and destination."""

    @property
    def namespaces(self) -> list[tuple[str, int, int]]:
        """Return (namespace, first, behind the last) in the order of ends; "" for no pods."""
        found: list[tuple[str, int, int]] = []
        at = 0
        for name, members in groupby(self.ends, key=namespace_of):
            count = len(list(members))
            found.append((name, at, at + count))
            at += count
        return found

    def pattern(self, source: int, destination: int) -> Pattern:
        """Return a cell's verdicts."""
        return self.patterns[int(self.cells[source, destination])]

    @cached_property
    def runs(self) -> list[list[Run]]:
        """What passes and what does not, by pattern."""
        return [list(_runs(self.atoms, one)) for one in self.patterns]

    def ports(self, number: int) -> str:
        """Return what passes of a pattern in words: `TCP 80, 443`, `all ports`."""
        state = self.patterns[number].state
        if state is not State.SOME:
            return {State.ALL: "all ports"}.get(state, "no port")
        passing = [run.atom for run in self.runs[number] if run.passes]
        named = ", ".join(map(str, passing[:RUNS]))
        return named + (f" and {len(passing) - RUNS} more" if len(passing) > RUNS else "")

    def reasons(self) -> Iterator[tuple[int, int, list[Reason]]]:
        """Yield (source, destination, why) of every cell that policies can be about."""
        asked: list[tuple[int, int, str]] = []
        flows: list[Flow] = []
        rows = cast("list[list[int]]", self.cells.tolist())
        for source, row in enumerate(rows):
            for destination, number in enumerate(row):
                for ports, atom in self._examples[number]:
                    names = self._names(source, destination)
                    asked.append((source, destination, ports))
                    flows.append(packet_of(*names, atom))
        results = zip(asked, self.engine.eval_many(flows), strict=True)
        for (source, destination), several in groupby(results, key=lambda pair: pair[0][:2]):
            yield (
                source,
                destination,
                [
                    Reason(ports, result)
                    for (_, _, ports), result in several
                    if not isinstance(result, FlowError)
                ],
            )

    @cached_property
    def _examples(self) -> list[list[tuple[str, Atom]]]:
        """Ports that a cell of each pattern is asked about, with what they stand for."""
        found: list[list[tuple[str, Atom]]] = []
        for pattern, runs in zip(self.patterns, self.runs, strict=True):
            speakable = [run for run in runs if run.atom.protocol != OTHER]
            passing = [run.atom for run in speakable if run.passes]
            denied = [run.atom for run in speakable if not run.passes]
            if pattern.state is State.SOME:
                rows = [(str(atom), atom) for atom in passing[:RUNS]]
                found.append(rows + [("everything else", atom) for atom in denied[:1]])
            else:
                found.append([("every port", atom) for atom in (passing + denied)[:1]])
        return found

    def _names(self, source: int, destination: int) -> tuple[str, str]:
        one, other = self.ends[source], self.ends[destination]
        return (one.members[0], one.members[1]) if one is other else (one.name, other.name)


def matrix(engine: Engine, ports: Sequence[Atom] = (), *, outside: bool = True) -> Matrix:
    """Return who can reach whom in an engine's world.

    `ports` are the only ones that count if there are any; without `outside` there are pods only.
    """
    atoms = [one for one in cut_ports([engine], ports) if not ports or _within(one, ports)]
    groups = [*_shown(cut_ends([engine]), outside)]
    place = {atom: at for at, atom in enumerate(atoms)}
    shape = (3, len(groups), len(groups), -(-len(atoms) // WORD))
    words: Bits = np.zeros(shape, np.uint64)
    for chunk in Reach(engine, groups, atoms).chunks():
        rows = slice(chunk.start, chunk.start + len(chunk.passes))
        word = place[chunk.atoms[0]] // WORD
        for number, bits in enumerate((chunk.passes, chunk.redirects, chunk.possible)):
            words[number, rows, :, word] = bits
    order = _order(groups, words[0])
    words = words[:, order][:, :, order]
    flat = words.transpose(1, 2, 0, 3).reshape(len(groups) ** 2, -1)
    kinds, which = np.unique(flat, axis=0, return_inverse=True)
    patterns = [Pattern(*map(_number, np.split(kind, 3))) for kind in kinds]
    cells = which.reshape(len(groups), len(groups))
    return Matrix(engine, [groups[at] for at in order], atoms, patterns, cells)


def namespace_of(group: Group) -> str:
    """Return the namespace of a group of pods, "" for what is none."""
    return group.name.partition("/")[0] if group.kind == "pods" else ""


def _number(words: Bits) -> int:
    return sum(int(word) << WORD * at for at, word in enumerate(words))


def _within(atom: Atom, ports: Sequence[Atom]) -> bool:
    return any(
        one.protocol == atom.protocol and one.first <= atom.first and atom.last <= one.last
        for one in ports
    )


def _shown(groups: Sequence[Group], outside: bool) -> Iterator[Group]:
    """Yield the groups that have a row."""
    shown = set(SHOWN)
    if any(one.kind == "node" for one in groups):
        shown.discard("entity:remote-node")
        if all(one.node for one in groups if one.kind == "pods"):
            shown.discard("entity:host")
    for one in groups:
        away = one.net is not None or one.kind == "node" or one.name in shown
        if one.kind == "pods" or (outside and away):
            yield one


def _order(groups: Sequence[Group], passes: Bits) -> list[int]:
    """Return the groups' places by namespace, and in each the next most alike one after the other.

    Two are alike if they reach the same, and are reached by the same.
    """
    seen = np.concatenate((passes, passes.transpose(1, 0, 2)), axis=1)
    by_name: dict[str, list[int]] = {}
    for at, group in enumerate(groups):
        by_name.setdefault(namespace_of(group), []).append(at)
    found: list[int] = []
    for name in sorted(by_name, key=lambda name: (name == "", name)):
        rest = sorted(by_name[name], key=lambda at: groups[at].name) if name else by_name[name]
        while name and rest:
            last = found[-1] if len(found) and namespace_of(groups[found[-1]]) == name else rest[0]
            unlike = (seen[rest] != seen[last]).any(axis=2).sum(axis=1)
            found.append(rest.pop(int(np.argmin(unlike))))
        found += rest
    return found


def _runs(atoms: Sequence[Atom], pattern: Pattern) -> Iterator[Run]:
    """Yield what passes and what does not, neighbours together."""
    last: Run | None = None
    for at, atom in enumerate(atoms):
        if not pattern.possible >> at & 1:
            continue
        run = Run(atom, bool(pattern.passes >> at & 1))
        if last is not None and last.passes == run.passes and _joins(last.atom, atom):
            last = Run(Atom(atom.protocol, last.atom.first, atom.last), run.passes)
            continue
        if last is not None:
            yield last
        last = run
    if last is not None:
        yield last


def _joins(one: Atom, other: Atom) -> bool:
    return one.protocol == other.protocol and one.last + 1 == other.first
