"""From what is and what should be to the order in which to change it.

What is referred to is written before what refers to it and removed after, so a crash between any
two operations leaves maps that are right for what they are: no packet is judged by half a policy,
and no reference leads nowhere. Planning again from what a crash left converges.

    policies ─► references ─► nodes ─► routes ─► ipcache ─► devices ─► endpoints      (put)
    endpoints ─► devices ─► ipcache ─► routes ─► nodes ─► references                  (delete)
    bump ─► policies that nothing refers to any more                                  (delete)

The order of the two halves: references move to new policies first, so that an identity is permitted
before the ipcache first names it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fimbria.compile.delta import DEVICES, IPCACHE, LXC, MAPS, NODES, POLICY_REF, Delta, Desired
from fimbria.compile.endpoints import ref_value
from fimbria.compile.ids import BUILT_IN, POLICY_FIRST, POLICY_LIMIT, PolicyMap
from fimbria.datapath.abi import PolicyIds, PolicyRef

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fimbria.compile.nodes import Route

LOCKED = ref_value(PolicyIds.LOCKED)
_BEFORE = (NODES,)
_AFTER = (IPCACHE, DEVICES, LXC)


@dataclass(frozen=True, slots=True)
class MapPut:
    """Set elements of a map."""

    name: str
    rows: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class MapDelete:
    """Remove elements of a map; those that are not there are no error."""

    name: str
    keys: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class PolicyCreate:
    """Fill a policy that nothing refers to: its info, and a new inner map with its entries."""

    policy_id: int
    policy: PolicyMap


@dataclass(frozen=True, slots=True)
class PolicyRefSet:
    """Let endpoints refer to policies: elements of cilium_policy_ref, each switched at once."""

    rows: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class PolicyDelete:
    """Remove a policy that nothing refers to any more."""

    policy_id: int


@dataclass(frozen=True, slots=True)
class RoutePut:
    """Add or replace a route."""

    route: Route


@dataclass(frozen=True, slots=True)
class RouteDelete:
    """Remove a route."""

    route: Route


@dataclass(frozen=True, slots=True)
class Bump:
    """Raise runtime.revision, so that every flow is judged again. Always last."""


Op = MapPut | MapDelete | PolicyCreate | PolicyRefSet | PolicyDelete | RoutePut | RouteDelete | Bump


def plan(actual: Desired, desired: Desired, *, bump: bool = False) -> list[Op]:
    """Return what makes `desired` of `actual`; empty if they are the same.

    `actual` is read from the kernel. Of cilium_policy_ref it may hold endpoints that are gone; a
    reference to LOCKED counts as none, because that is what a removed endpoint is left with. A
    policy that must be rewritten needs a spare id; without one its endpoints are locked meanwhile.

    `bump`: have a Bump even if nothing else changes. Whoever does not know that the last change
    was followed by one must ask for it: a crash just before it leaves maps that are right and flows
    that were judged by the old ones.
    """
    delta = Delta()
    for name in MAPS:
        have, want = actual.maps.get(name, {}), desired.maps.get(name, {})
        changes: dict[bytes, bytes | None] = {
            key: value for key, value in want.items() if have.get(key) != value
        }
        gone = [key for key in have if key not in want]
        if name == POLICY_REF:
            gone = [key for key in gone if have[key] != LOCKED]
        changes.update(dict.fromkeys(gone))
        if changes:
            delta.maps[name] = changes
    have, want = dict(actual.policies), desired.policies
    broken = {n for n in want.keys() & have.keys() if not _same(have[n], want[n])}
    delta.created = {n: want[n] for n in want if n not in have}
    delta.unused = set(have.keys() - want.keys() - BUILT_IN.keys())
    delta.routes_put = set(desired.routes - actual.routes)
    delta.routes_deleted = set(actual.routes - desired.routes)
    ops = [*_repair(actual, desired, broken), *_ordered(delta)]
    return _finished(ops, delta, bump=bump)


def plan_delta(delta: Delta) -> list[Op]:
    """Return a compiler's delta as operations, in order."""
    return _finished(list(_ordered(delta)), delta)


def _finished(ops: list[Op], delta: Delta, *, bump: bool = False) -> list[Op]:
    """Bump before policies go: each removal waits for the kernel, and live flows should not."""
    bumps = [Bump()] if ops or bump else []
    return [*ops, *bumps, *(PolicyDelete(number) for number in sorted(delta.unused))]


def _ordered(delta: Delta) -> Iterator[Op]:
    for number in sorted(delta.created):
        yield PolicyCreate(number, delta.created[number])
    refs = delta.maps.get(POLICY_REF, {})
    moved = _rows(refs)
    if moved:
        yield PolicyRefSet(moved)
    yield from _puts(delta, _BEFORE)
    for route in sorted(delta.routes_put):
        yield RoutePut(route)
    yield from _puts(delta, _AFTER)
    yield from _deletes(delta, _AFTER)
    for route in sorted(delta.routes_deleted):
        yield RouteDelete(route)
    yield from _deletes(delta, _BEFORE)
    gone = {key: LOCKED for key, value in refs.items() if value is None}
    if gone:
        yield PolicyRefSet(gone)


def _repair(actual: Desired, desired: Desired, broken: set[int]) -> Iterator[Op]:
    """Rewrite policies whose content is not what their id stands for, with nobody referring."""
    refs = actual.maps.get(POLICY_REF, {})
    taken = actual.policies.keys() | desired.policies.keys()
    spare = next((n for n in range(POLICY_FIRST, POLICY_LIMIT) if n not in taken), None)
    for number in sorted(broken):
        users = {key: ref for key, ref in refs.items() if PolicyRef.unpack(ref).policy_id == number}
        policy = desired.policies[number]
        if users:
            if spare is not None:
                yield PolicyCreate(spare, policy)
            aside = LOCKED if spare is None else ref_value(spare)
            yield PolicyRefSet(dict.fromkeys(users, aside))
        yield PolicyDelete(number)
        yield PolicyCreate(number, policy)
        if users:
            yield PolicyRefSet(users)
            if spare is not None:
                yield PolicyDelete(spare)


def _puts(delta: Delta, names: tuple[str, ...]) -> Iterator[Op]:
    for name in names:
        rows = _rows(delta.maps.get(name, {}))
        if rows:
            yield MapPut(name, rows)


def _deletes(delta: Delta, names: tuple[str, ...]) -> Iterator[Op]:
    for name in reversed(names):
        keys = tuple(key for key, value in delta.maps.get(name, {}).items() if value is None)
        if keys:
            yield MapDelete(name, keys)


def _rows(changes: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    return {key: value for key, value in changes.items() if value is not None}


def _same(one: PolicyMap, other: PolicyMap) -> bool:
    return one.info == other.info and dict(one.entries) == dict(other.entries)
