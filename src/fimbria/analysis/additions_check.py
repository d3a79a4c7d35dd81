"""Whether edits of policies change what they name, and nothing else.

An edit names whom it is about, peers and ports. `unnamed` compares the two worlds over the whole
packet space (analysis.diff) and holds every verdict that turned against that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fimbria.analysis.atoms import OTHER
from fimbria.analysis.diff import compare
from fimbria.datapath.abi import Direction
from fimbria.model.matching import names
from fimbria.model.policy import DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fimbria.analysis.atoms import Atom
    from fimbria.analysis.diff import Change
    from fimbria.analysis.engine import Engine
    from fimbria.analysis.flows import Place
    from fimbria.model.policy import Peer, PortSpec
    from fimbria.model.selector import Selector


class Scope(NamedTuple):
    """What an edit names: packets of `subject` with any of `peers` (None: anyone) on `ports`.

    `direction` is None for both.
    """

    direction: Direction | None
    subject: Selector
    peers: tuple[Peer, ...] | None
    ports: tuple[PortSpec, ...] = ()


class Turned(NamedTuple):
    """What edits turn: `pairs` of groups times ports, and changes that no scope names."""

    size: int
    changes: tuple[Change, ...]
    unnamed: tuple[str, ...]


def turned(old: Engine, new: Engine, scopes: Sequence[Scope]) -> Turned:
    """Return what differs between two engines, held against what edits named."""
    changes = tuple(compare(old, new))
    size = sum(
        len(one.sources) * len(one.destinations) * (turn.atom.last - turn.atom.first + 1)
        for one in changes
        for turn in one.turns
    )
    # Prefixes and pods are in either engine; the old one knows all that verdicts turn about.
    return Turned(size, changes, tuple(_unnamed(new, changes, scopes)))


def _unnamed(engine: Engine, changes: Iterable[Change], scopes: Sequence[Scope]) -> Iterator[str]:
    for change in changes:
        for one in change.sources:
            source = engine.place(one.name)
            for other in change.destinations:
                target = engine.place(other.name)
                for turn in change.turns:
                    if not any(_names(engine, s, source, target, turn.atom) for s in scopes):
                        yield f"{one} to {other}, {turn.atom}: {turn.before} to {turn.after}"


def _names(engine: Engine, scope: Scope, source: Place, target: Place, atom: Atom) -> bool:
    if scope.direction is None:
        both = (scope._replace(direction=one) for one in DIRECTIONS)
        return any(_names(engine, one, source, target, atom) for one in both)
    egress = scope.direction is Direction.EGRESS
    own, other = (source, target) if egress else (target, source)
    if not own.unit or not scope.subject.matches(own.own.labels):
        return False
    peer = engine.peer(own, other).end
    context = engine.state.context()
    if scope.peers is not None and not any(names(one, peer, context) for one in scope.peers):
        return False
    named = target.end.named if egress else target.own.named
    return not scope.ports or any(_covers(part, atom, named) for part in scope.ports)


def _covers(part: PortSpec, atom: Atom, named: frozenset[tuple[str, int, int]]) -> bool:
    if not part.protocols:
        return True
    if atom.protocol == OTHER:
        return False
    ports = (atom.first, atom.last)
    return all(part.matches(atom.protocol, port, named) for port in ports)
