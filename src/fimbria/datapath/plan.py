"""From what is and what should be to the order in which to change it.

What is referred to is written before what refers to it and removed after, so a crash between any
two operations leaves maps that are right for what they are: no packet is judged by half a policy,
and no reference leads nowhere. Planning again from what a crash left converges.

    policies ─► references ─► nodes ─► routes ─► ipcache ─► devices ─► endpoints      (put)
    endpoints ─► devices ─► ipcache ─► routes ─► nodes ─► references ─► entries       (delete)
    bump ─► policies that nothing refers to any more                                  (delete)

Policies refer to each other, too: a tier's to the next one's. The last tier's is created first and
removed last.

The order of the two halves: references move to new policies first, so that an identity is permitted
before the ipcache first names it. Entries that come to a policy in use, or go from it, are those of
identities that no packet has yet, or any more (compile/patches.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fimbria.compile.delta import (
    CIDR,
    DEVICES,
    IPCACHE,
    LXC,
    MAPS,
    NODES,
    POLICY_REF,
    Delta,
    Desired,
)
from fimbria.compile.endpoints import ref_key, reference
from fimbria.compile.ids import BUILT_IN, POLICY_FIRST, POLICY_LIMIT, PolicyMap
from fimbria.datapath.abi import EndpointIds, PolicyIds, PolicyInfo, PolicyRef

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fimbria.compile.nodes import Route

LOCKED = reference(PolicyIds.LOCKED).pack()
OPEN = PolicyRef().pack()
_HOST = ref_key(EndpointIds.HOST)
_BEFORE = (NODES,)
_AFTER = (CIDR, IPCACHE, DEVICES, LXC)


def left_behind(key: bytes) -> bytes:
    """Return what an endpoint that is gone leaves in cilium_policy_ref: LOCKED, for the node OPEN.

    A node that is locked could not reach the API server that would tell it otherwise.
    """
    return OPEN if key == _HOST else LOCKED


def referred(ref: bytes) -> set[int]:
    """Return the policies that an element of cilium_policy_ref refers to."""
    found = PolicyRef.unpack(ref)
    return {found.policy_id, found.shadow_id, found.fallback_id}


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
class PolicyPut:
    """Add entries to a policy in use, in this order."""

    policy_id: int
    rows: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class PolicyTrim:
    """Remove entries from a policy in use, in this order."""

    policy_id: int
    keys: tuple[bytes, ...]


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


Op = (
    MapPut
    | MapDelete
    | PolicyCreate
    | PolicyPut
    | PolicyTrim
    | PolicyRefSet
    | PolicyDelete
    | RoutePut
    | RouteDelete
    | Bump
)


def plan(actual: Desired, desired: Desired, *, bump: bool = False) -> list[Op]:
    """Return what makes `desired` of `actual`; empty if they are the same.

    `actual` is read from the kernel. Of cilium_policy_ref it may hold endpoints that are gone; what
    they leave behind counts as none. Policies that must be rewritten need spare ids; without them
    their endpoints are locked meanwhile.

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
            gone = [key for key in gone if have[key] != left_behind(key)]
        changes.update(dict.fromkeys(gone))
        if changes:
            delta.maps[name] = changes
    have, want = dict(actual.policies), desired.policies
    broken = {n for n in want.keys() & have.keys() if not _same(have[n], want[n])}
    delta.created = {n: want[n] for n in want if n not in have}
    delta.unused = {n: have[n] for n in have.keys() - want.keys() - BUILT_IN.keys()}
    delta.routes_put = set(desired.routes - actual.routes)
    delta.routes_deleted = set(actual.routes - desired.routes)
    ops = [*_repair(actual, desired, broken), *_ordered(delta)]
    return _finished(ops, delta, bump=bump)


def plan_delta(delta: Delta) -> list[Op]:
    """Return a compiler's delta as operations, in order."""
    later = plan_delta(delta.then) if delta.then is not None else []
    return [*_finished(list(_ordered(delta)), delta), *later]


def _finished(ops: list[Op], delta: Delta, *, bump: bool = False) -> list[Op]:
    """Bump before policies go: each removal waits for the kernel, and live flows should not."""
    bumps = [Bump()] if ops or bump else []
    return [*ops, *bumps, *_deleted(delta.unused)]


def _ordered(delta: Delta) -> Iterator[Op]:
    yield from _created(delta.created)
    for number, changes in sorted(delta.patched.items()):
        if rows := _rows(changes):
            yield PolicyPut(number, rows)
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
    gone = {key: left_behind(key) for key, value in refs.items() if value is None}
    if gone:
        yield PolicyRefSet(gone)
    for number, changes in sorted(delta.patched.items()):
        if keys := _gone(changes):
            yield PolicyTrim(number, keys)


def _chained(policies: Mapping[int, PolicyMap]) -> list[int]:
    """Return the policies' numbers, each behind those that follow it in a chain."""

    def place(number: int) -> tuple[int, int]:
        seen = {number}
        step = policies[number].next_id
        while step in policies and step not in seen:
            seen.add(step)
            step = policies[step].next_id
        return len(seen), number

    return sorted(policies, key=place)


def _created(policies: Mapping[int, PolicyMap]) -> Iterator[Op]:
    for number in _chained(policies):
        yield PolicyCreate(number, policies[number])


def _deleted(policies: Mapping[int, PolicyMap]) -> Iterator[Op]:
    for number in reversed(_chained(policies)):
        yield PolicyDelete(number)


def _repair(actual: Desired, desired: Desired, broken: set[int]) -> Iterator[Op]:
    """Rewrite policies whose content is not what their id stands for, with nobody referring.

    Those that lead to them are written anew with them, because nothing may refer to a policy that
    is not there.
    """
    redone = {number: desired.policies[number] for number in broken}
    grown = 0
    while grown != len(redone):
        grown = len(redone)
        for number, policy in actual.policies.items():
            if number not in redone and policy.next_id in redone:
                redone[number] = policy
    gone = {number: actual.policies[number] for number in redone}
    taken = actual.policies.keys() | desired.policies.keys()
    free = [n for n in range(POLICY_FIRST, POLICY_LIMIT) if n not in taken] if redone else []
    aside = dict(zip(_chained(redone), free, strict=False))
    if len(aside) < len(redone):
        aside = {}
    copies = {aside[n]: _linked(policy, aside) for n, policy in redone.items() if aside}
    refs = actual.maps.get(POLICY_REF, {})
    users = {key: ref for key, ref in refs.items() if not referred(ref).isdisjoint(redone)}
    yield from _created(copies)
    if users:
        yield PolicyRefSet({key: _moved(ref, aside) if aside else left_behind(key)
                            for key, ref in users.items()})  # fmt: skip
    yield from _deleted(gone)
    yield from _created(redone)
    if users:
        yield PolicyRefSet(users)
    yield from _deleted(copies)


def _linked(policy: PolicyMap, places: Mapping[int, int]) -> PolicyMap:
    """Return a policy with the next tier's in another place."""
    info = PolicyInfo.unpack(policy.info)
    moved = info._replace(next_id=places.get(info.next_id, info.next_id))
    return PolicyMap(moved.pack(), policy.entries)


def _moved(ref: bytes, places: Mapping[int, int]) -> bytes:
    """Return a reference to policies in other places."""
    found = PolicyRef.unpack(ref)
    return found._replace(
        policy_id=places.get(found.policy_id, found.policy_id),
        shadow_id=places.get(found.shadow_id, found.shadow_id),
        fallback_id=places.get(found.fallback_id, found.fallback_id),
    ).pack()


def _puts(delta: Delta, names: tuple[str, ...]) -> Iterator[Op]:
    for name in names:
        rows = _rows(delta.maps.get(name, {}))
        if rows:
            yield MapPut(name, rows)


def _deletes(delta: Delta, names: tuple[str, ...]) -> Iterator[Op]:
    for name in reversed(names):
        keys = _gone(delta.maps.get(name, {}))
        if keys:
            yield MapDelete(name, keys)


def _rows(changes: Mapping[bytes, bytes | None]) -> dict[bytes, bytes]:
    return {key: value for key, value in changes.items() if value is not None}


def _gone(changes: Mapping[bytes, bytes | None]) -> tuple[bytes, ...]:
    return tuple(key for key, value in changes.items() if value is None)


def _same(one: PolicyMap, other: PolicyMap) -> bool:
    return one.info == other.info and dict(one.entries) == dict(other.entries)
