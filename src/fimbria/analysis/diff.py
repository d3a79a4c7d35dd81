"""What a change of policies means: every verdict that is another one, and none that is not.

    old, new ─► two engines over the same pods ─► one partition of the packet space ─► Reach of each
    ─► pairs of groups with other bits ─► sources with the same rows together ─► Change

The space is cut by both versions together (`analysis.atoms`), so the answer is complete: what is
not named has not changed. Rules that moved, were renamed or say the same in other words change
nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np

from fimbria.analysis.atoms import OTHER, Atom, Group, cut_ends, cut_ports
from fimbria.analysis.engine import Engine
from fimbria.analysis.flows import Flow
from fimbria.analysis.reach import Reach
from fimbria.analysis.results import Half, Outcome
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from fimbria.analysis.reach import Chunk
    from fimbria.analysis.results import Result
    from fimbria.analysis.world import World


class Turn(NamedTuple):
    """Ports whose verdict turned."""

    atom: Atom
    before: Outcome
    after: Outcome


@dataclass(frozen=True, slots=True)
class Change:
    """All sources x all destinations, whose verdicts about `turns` (not empty) are others now.

    `example` is one such packet, `before` and `after` are what becomes of it; None for a packet
    that flows cannot name (a protocol that rules cannot name either).
    """

    sources: tuple[Group, ...]
    destinations: tuple[Group, ...]
    turns: tuple[Turn, ...]
    example: Flow | None
    before: Result | None
    after: Result | None

    @property
    def deciding(self) -> tuple[Half | None, Half | None]:
        """Return the halves that decided before and after."""
        return _deciding(self.before), _deciding(self.after)


@dataclass(frozen=True, slots=True)
class Difference:
    """Everything that changed. `only_old`, `only_new`: pods of one version, not judged."""

    changes: tuple[Change, ...]
    only_old: tuple[str, ...] = ()
    only_new: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.changes)


def diff(
    old: World,
    new: World,
    enable_policy: str = "default",
    cidr_match: Iterable[str] = (),
    *,
    host_firewall: bool = False,
) -> Difference:
    """Return what differs between two worlds' policies, for the pods that both have.

    If one of them has no pods it is judged with the other's. Nodes are the new one's.
    """
    before, after, only_old, only_new = common(old, new)
    modes = frozenset(cidr_match)
    engines = (
        Engine(world, enable_policy, modes, host_firewall=host_firewall)
        for world in (before, after)
    )
    return Difference(tuple(compare(*engines)), only_old, only_new)


def common(old: World, new: World) -> tuple[World, World, tuple[str, ...], tuple[str, ...]]:
    """Return both worlds with the same pods, nodes and labels; and the pods of one only."""
    if not old.pods or not new.pods:
        source = max((new, old), key=lambda world: (bool(world.pods), bool(world.nodes)))
        return _placed(old, source), _placed(new, source), (), ()
    gone = {name for name, pod in old.pods.items()
            if name not in new.pods or new.pods[name].unit != pod.unit}  # fmt: skip
    only_new = tuple(name for name in new.pods if name not in old.pods)
    kept = {name: pod for name, pod in new.pods.items() if name in old.pods and name not in gone}
    source = replace(new, pods=kept, identities={**old.identities, **new.identities})
    return _placed(old, source), source, tuple(sorted(gone)), only_new


def _placed(world: World, source: World) -> World:
    """Return a world's policies, groups and services among another's pods and nodes."""
    return replace(
        source,
        policies=world.policies,
        manifests=world.manifests,
        groups=world.groups,
        services=world.services or source.services,
        warnings=world.warnings,
        errors=world.errors,
    )


def compare(old: Engine, new: Engine) -> Iterator[Change]:
    """Yield what differs between engines of worlds with the same pods and nodes."""
    atoms, groups = cut_ports((old, new)), cut_ends((old, new))
    turned = _Turned(groups)
    pairs = zip(Reach(old, groups, atoms).chunks(), Reach(new, groups, atoms).chunks(), strict=True)
    for before, after in pairs:
        turned.add(before, after)
    for sources, destinations, turns in turned.rectangles():
        yield _change(old, new, sources, destinations, turns)


class _Turned:
    """Pairs of groups whose verdicts turned, by what turned."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self._groups = groups
        self._kinds: dict[tuple[Turn, ...], int] = {(): 0}
        self._of_pair = np.zeros((len(groups), len(groups)), np.int32)

    def add(self, before: Chunk, after: Chunk) -> None:
        """Take up the verdicts about some atoms more."""
        masks = before.passes, before.redirects, after.passes, after.redirects
        other = (masks[0] ^ masks[2]) | (masks[1] ^ masks[3])
        rows, columns = np.nonzero(other)
        if not len(rows):
            return
        verdicts = [mask[rows, columns] for mask in (other, *masks)]
        rows += before.start
        here = np.stack([self._of_pair[rows, columns].astype(np.uint64), *verdicts])
        kinds, which = np.unique(here, axis=1, return_inverse=True)
        known = list(self._kinds)
        numbers: list[int] = []
        for kind in cast("list[list[int]]", kinds.T.tolist()):
            other, *said = kind[1:]
            turns = (*known[kind[0]], *_turns(before.atoms, other, *said))
            numbers.append(self._kinds.setdefault(turns, len(self._kinds)))
        self._of_pair[rows, columns] = np.array(numbers, np.int32)[which.reshape(-1)]

    def rectangles(self) -> Iterator[tuple[list[Group], list[Group], tuple[Turn, ...]]]:
        """Yield sources and destinations with what turned for all of them."""
        kinds = list(self._kinds)
        same: dict[bytes, list[int]] = {}
        for at in np.flatnonzero(self._of_pair.any(axis=1)).tolist():
            digest = blake2b(self._of_pair[at].tobytes(), digest_size=16).digest()
            same.setdefault(digest, []).append(at)
        for sources in same.values():
            row = self._of_pair[sources[0]]
            for kind in _distinct(row):
                destinations = np.flatnonzero(row == kind).tolist()
                yield (
                    [self._groups[i] for i in sources],
                    [self._groups[i] for i in destinations],
                    kinds[kind],
                )


def _distinct(row: NDArray[np.int32]) -> list[int]:
    return [kind for kind in np.unique(row).tolist() if kind]


def _turns(
    atoms: Sequence[Atom], other: int, passed: int, by: int, passes: int, now_by: int
) -> Iterator[Turn]:
    for at, atom in enumerate(atoms):
        if other >> at & 1:
            yield Turn(atom, _outcome(passed >> at, by >> at), _outcome(passes >> at, now_by >> at))


def _outcome(passes: int, redirected: int) -> Outcome:
    if not passes & 1:
        return Outcome.DENIED
    return Outcome.REDIRECTED if redirected & 1 else Outcome.ALLOWED


def _change(
    old: Engine, new: Engine, sources: list[Group], destinations: list[Group], turns: Iterable[Turn]
) -> Change:
    merged = tuple(_merged(turns))
    pair = next(((s, d) for s in sources for d in destinations if s.name != d.name), None)
    source, destination = pair or (sources[0], destinations[0])
    names = source.name, destination.name
    if source is destination:
        names = source.members[0], source.members[1]
    turn = next((one for one in merged if one.atom.protocol != OTHER), None)
    if turn is None:
        return Change(tuple(sources), tuple(destinations), merged, None, None, None)
    flow = packet_of(*names, turn.atom)
    return Change(tuple(sources), tuple(destinations), merged, flow, old.eval(flow), new.eval(flow))


def packet_of(source: str, destination: str, atom: Atom) -> Flow:
    """Return the flow of a group's atom; its protocol is one that rules can name."""
    return Flow(source, destination, Protocol(atom.protocol).name, atom.first)


def _merged(turns: Iterable[Turn]) -> Iterator[Turn]:
    """Join neighbours that turned alike."""
    last: Turn | None = None
    for turn in turns:
        if last is not None and _adjacent(last, turn):
            atom = Atom(turn.atom.protocol, last.atom.first, turn.atom.last)
            last = Turn(atom, turn.before, turn.after)
            continue
        if last is not None:
            yield last
        last = turn
    if last is not None:
        yield last


def _adjacent(one: Turn, other: Turn) -> bool:
    same = (one.before, one.after, one.atom.protocol) == (
        other.before, other.after, other.atom.protocol,
    )  # fmt: skip
    return same and one.atom.last + 1 == other.atom.first


def _deciding(result: Result | None) -> Half | None:
    """Return the half that made a result what it is."""
    if result is None:
        return None
    for half in (result.egress, result.ingress):
        if half.verdict is result.verdict and half.rule is not None:
            return half
    return next((h for h in (result.ingress, result.egress) if h.verdict is result.verdict), None)


def document(found: Difference) -> dict[str, Any]:
    """Return it as `fimbria policy diff -o json` prints it."""
    return {
        "changes": [
            {
                "sources": [_group(one) for one in change.sources],
                "destinations": [_group(one) for one in change.destinations],
                "ports": [
                    {
                        "protocol": "any other" if turn.atom.protocol == OTHER
                        else Protocol(turn.atom.protocol).name,
                        "first": turn.atom.first,
                        "last": turn.atom.last,
                        "before": str(turn.before),
                        "after": str(turn.after),
                    }
                    for turn in change.turns
                ],
                "example": change.example,
                "before": change.before,
                "after": change.after,
            }
            for change in found.changes
        ],
        "onlyInOld": list(found.only_old),
        "onlyInNew": list(found.only_new),
    }  # fmt: skip


def _group(group: Group) -> dict[str, Any]:
    found: dict[str, Any] = {"name": str(group), "kind": group.kind, "labels": list(group.labels)}
    if group.members:
        found["pods"] = list(group.members)
    return found
