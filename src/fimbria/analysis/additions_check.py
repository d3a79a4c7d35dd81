"""Whether edits of policies change what they name, and nothing else.

An edit names whom it is about, peers and ports. `unnamed` compares the two worlds over the whole
packet space (analysis.diff) and holds every verdict that turned against that.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from fimbria.analysis.atoms import OTHER, Atom
from fimbria.analysis.diff import compare
from fimbria.datapath.abi import Direction
from fimbria.model.matching import names
from fimbria.model.policy import DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fimbria.analysis.diff import Change
    from fimbria.analysis.engine import Engine
    from fimbria.analysis.places import Place
    from fimbria.model.policy import Peer, PortSpec
    from fimbria.model.selector import Selector


class Scope(NamedTuple):
    """What an edit names: packets of `subject` with any of `peers` (None: anyone) on `ports`.

    `direction` is None for both. `host`: `subject` are nodes, pods otherwise.
    """

    direction: Direction | None
    subject: Selector
    peers: tuple[Peer, ...] | None
    ports: tuple[PortSpec, ...] = ()
    host: bool = False


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
    bounds = _bounds(engine, scopes)
    for change in changes:
        for one in change.sources:
            source = engine.place(one.name)
            for other in change.destinations:
                target = engine.place(other.name)
                for turn in change.turns:
                    for piece in _pieces(turn.atom, bounds):
                        if not any(_names(engine, s, source, target, piece) for s in scopes):
                            yield f"{one} to {other}, {piece}: {turn.before} to {turn.after}"


def _bounds(engine: Engine, scopes: Iterable[Scope]) -> list[int]:
    """Return the first ports of what scopes name, and of what is behind it."""
    parts = [part for scope in scopes for part in scope.ports]
    found = {bound for part in parts if part.ports for bound in (part.ports[0], part.ports[1] + 1)}
    if any(part.name for part in parts):
        ports = {port for named in engine.world.named.values() for _, _, port in named}
        found |= {bound for port in ports for bound in (port, port + 1)}
    return sorted(found)


def _pieces(atom: Atom, bounds: Sequence[int]) -> Iterator[Atom]:
    """Yield ports in pieces that every scope names all or nothing of."""
    inside = [bound for bound in bounds if atom.first < bound <= atom.last]
    for first, behind in pairwise((atom.first, *inside, atom.last + 1)):
        yield Atom(atom.protocol, first, behind - 1)


def _names(engine: Engine, scope: Scope, source: Place, target: Place, atom: Atom) -> bool:
    if scope.direction is None:
        both = (scope._replace(direction=one) for one in DIRECTIONS)
        return any(_names(engine, one, source, target, atom) for one in both)
    egress = scope.direction is Direction.EGRESS
    _, own, peer = engine.views.seen(*((source, target) if egress else (target, source)))
    if not own.unit or own.is_node is not scope.host:
        return False
    if not scope.subject.matches(own.own.labels):
        return False
    context = engine.state.context()
    if scope.peers is not None and not any(names(one, peer.end, context) for one in scope.peers):
        return False
    named = peer.end.named if egress else own.own.named
    return not scope.ports or any(_covers(part, atom, named) for part in scope.ports)


def _covers(part: PortSpec, atom: Atom, named: frozenset[tuple[str, int, int]]) -> bool:
    if not part.protocols:
        return True
    if atom.protocol == OTHER:
        return False
    ports = (atom.first, atom.last)
    return all(part.matches(atom.protocol, port, named) for port in ports)
