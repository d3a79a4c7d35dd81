"""Desired contents of a node's maps, and changes of them.

`Store` is the contents as they grow: every change is noted, and taken out as one `Delta`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.compile.ids import Changes, PolicyMap
    from fimbria.compile.nodes import Route
    from fimbria.model.policy import PolicyKey

LXC = "cilium_lxc"
DEVICES = "cilium_devices"
IPCACHE = "cilium_ipcache"
CIDR = "cilium_cidr"
NODES = "cilium_node_map"
POLICY_REF = "cilium_policy_ref"
MAPS = (LXC, DEVICES, IPCACHE, CIDR, NODES, POLICY_REF)
"""Maps of plain keys and values that the compiler owns. Keys of POLICY_REF are u32, host order."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be compiled: the endpoints keep what they have, or stay closed.

    `policies` are those that select them with the number of entries that each asks for, the
    largest first.
    """

    identity: int
    endpoints: tuple[int, ...]
    reason: str
    policies: tuple[tuple[PolicyKey, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Desired:
    """All that the kernel should hold. `policies` has the ids in use, without the built-in ones."""

    maps: Mapping[str, Mapping[bytes, bytes]]
    policies: Mapping[int, PolicyMap]
    routes: frozenset[Route]


@dataclass(slots=True)
class Delta:
    """What changed since the last one; a value None means the key goes.

    `created` are policies to fill, `patched` entries of policies in use that come or go, `unused`
    policies to which nothing refers once `maps` is applied, as they were. `then` is what comes
    after all of it. `size` is the number of changes.
    """

    maps: dict[str, dict[bytes, bytes | None]] = field(
        default_factory=dict[str, dict[bytes, "bytes | None"]]
    )
    created: dict[int, PolicyMap] = field(default_factory=dict[int, "PolicyMap"])
    patched: dict[int, Changes] = field(default_factory=dict[int, "Changes"])
    unused: dict[int, PolicyMap] = field(default_factory=dict[int, "PolicyMap"])
    routes_put: set[Route] = field(default_factory=set["Route"])
    routes_deleted: set[Route] = field(default_factory=set["Route"])
    then: Delta | None = None

    @property
    def size(self) -> int:
        """Return how many elements, entries, policies and routes change."""
        parts = (self.created, self.unused, self.routes_put, self.routes_deleted)
        rows = (*self.maps.values(), *self.patched.values())
        later = self.then.size if self.then is not None else 0
        return sum(map(len, parts)) + sum(map(len, rows)) + later

    def __bool__(self) -> bool:
        return self.size > 0


class Store:
    """Contents, and the changes since the last `take`: what is changed back is no change."""

    def __init__(self) -> None:
        self.maps: dict[str, dict[bytes, bytes]] = {name: {} for name in MAPS}
        self.policies: dict[int, PolicyMap] = {}
        self._wanted: Counter[Route] = Counter()
        self._delta = Delta()
        self._before: dict[tuple[str, bytes], bytes] = {}
        """What changed elements were at the last `take`, those that were there."""

    @property
    def routes(self) -> frozenset[Route]:
        """Return the routes that are wanted."""
        return frozenset(self._wanted)

    def set(self, name: str, key: bytes, value: bytes | None) -> None:
        """Set an element, or remove it if `value` is None."""
        rows = self.maps[name]
        old = rows.get(key)
        if old == value:
            return
        if value is None:
            del rows[key]
        else:
            rows[key] = value
        changes = self._delta.maps.setdefault(name, {})
        if old is not None and key not in changes:
            self._before[name, key] = old
        if self._before.get((name, key)) != value:
            changes[key] = value
            return
        changes.pop(key, None)
        self._before.pop((name, key), None)
        if not changes:
            del self._delta.maps[name]

    def add_policy(self, number: int, policy: PolicyMap) -> None:
        """Take up a policy map under its id."""
        if number not in self.policies:
            self.policies[number] = policy
            if self._delta.unused.pop(number, None) is None:
                # As it is now: patches that come after it are for the kernel to make.
                self._delta.created[number] = replace(policy, entries=dict(policy.entries))

    def untouched(self, number: int) -> bool:
        """Return whether the kernel has a policy, as it was at the last `take`."""
        changed = number in self._delta.created or number in self._delta.patched
        return number in self.policies and not changed

    def patch_policy(self, number: int, policy: PolicyMap, changes: Changes) -> None:
        """Take up the new content of an untouched policy."""
        self.policies[number] = policy
        self._delta.patched[number] = changes

    def keep_policies(self, used: set[int]) -> None:
        """Let go of all policies that are not in `used`."""
        for number in self.policies.keys() - used:
            policy = self.policies.pop(number)
            if self._delta.created.pop(number, None) is None:
                self._delta.unused[number] = policy

    def set_routes(self, old: set[Route], new: set[Route]) -> None:
        """Replace what one owner wants of routes; a route stays as long as somebody wants it."""
        for route in new - old:
            self._wanted[route] += 1
            if self._wanted[route] == 1:
                self._flip(route, self._delta.routes_put, self._delta.routes_deleted)
        for route in old - new:
            self._wanted[route] -= 1
            if not self._wanted[route]:
                del self._wanted[route]
                self._flip(route, self._delta.routes_deleted, self._delta.routes_put)

    @staticmethod
    def _flip(route: Route, into: set[Route], out_of: set[Route]) -> None:
        """Note a change, which is none if it takes back the one before."""
        if route in out_of:
            out_of.discard(route)
        else:
            into.add(route)

    def take(self) -> Delta:
        """Return what changed since the last call."""
        taken, self._delta = self._delta, Delta()
        self._before.clear()
        return taken
