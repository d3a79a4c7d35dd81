"""From policies to policy maps, recomputing only what a change can have changed.

    identities ──► SelectorCache ──► SpecEntries (what a spec contributes, cached)
    policies   ──► specs ─────────►      │
    endpoints  ──► units ◄── merge ──────┘ ──► policy id ──► cilium_policy_ref

A unit is all endpoints of one identity that name the same ports: they have one policy map. Which
units are dirty follows from the users of the selectors whose identities changed.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from fimbria.compile import endpoints
from fimbria.compile.delta import POLICY_REF, Problem, Store
from fimbria.compile.ids import BUILT_IN, OutOfIds
from fimbria.compile.policymap import Peers, SpecEntries, merge
from fimbria.compile.selectors import SelectorCache
from fimbria.datapath.abi import PolicyIds
from fimbria.model.policy import DIRECTIONS
from fimbria.model.semantics import INIT_LABEL, enforcement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.compile.ids import Ids, PolicyMap
    from fimbria.compile.state import ClusterState, LocalEndpoint
    from fimbria.model.policy import NamedPort, Policy, PolicyKey
    from fimbria.model.selector import Selector

UnitKey = tuple[int, "tuple[NamedPort, ...]"]
"""Identity and named ports of a local endpoint."""


@dataclass(eq=False, slots=True)
class Unit:
    """Endpoints with one policy. `policy_id` is LOCKED until something was compiled."""

    endpoints: set[int] = field(default_factory=set[int])
    specs: dict[tuple[PolicyKey, int], SpecEntries] = field(
        default_factory=dict[tuple["PolicyKey", int], "SpecEntries"]
    )
    policy_id: int = int(PolicyIds.LOCKED)


class Policies:
    """Keeps `store`'s policies and references up to date with the state."""

    def __init__(self, state: ClusterState, ids: Ids, store: Store) -> None:
        self._state = state
        self._ids = ids
        self._store = store
        self.selectors: SelectorCache[SpecEntries] = SelectorCache({})
        self.problems: dict[UnitKey, Problem] = {}
        self.refused: dict[PolicyKey, str] = {}
        """Policies that could not be taken up, with the reason."""
        self._named: dict[int, Counter[NamedPort]] = {}
        self._namers: dict[int | bytes, tuple[int, tuple[NamedPort, ...]]] = {}
        self._specs: dict[PolicyKey, list[SpecEntries]] = {}
        self._policy_of: dict[SpecEntries, Policy] = {}
        self._units: dict[UnitKey, Unit] = {}
        self._unit_of: dict[int, UnitKey] = {}

    def update(
        self,
        local: Iterable[int],
        identities: Iterable[int],
        remote: Iterable[bytes],
        keys: Iterable[PolicyKey],
    ) -> None:
        """Take up changed rows, given by their keys."""
        dirty: set[UnitKey] = set()
        stale: set[SpecEntries] = set()
        if self._named_ports(local, remote):
            stale |= {s for specs in self._specs.values() for s in specs if s.uses_peer_names}
        changed: set[Selector] = set()
        relabelled: set[int] = set()
        for number in identities:
            labels = self._state.identities.get(number)
            changed |= (
                self.selectors.remove(number)
                if labels is None
                else self.selectors.put(number, labels)
            )
            relabelled.add(number)
        stale |= self.selectors.users(changed)
        for key in sorted(keys):
            dirty |= self._policy(key)
        for number in local:
            dirty |= self._endpoint(number)
        for unit_key in [key for key in self._units if key[0] in relabelled]:
            self._select(unit_key)
            dirty.add(unit_key)
        for entries in stale:
            entries.invalidate()
        if stale:
            dirty |= {key for key, unit in self._units.items()
                      if not stale.isdisjoint(unit.specs.values())}  # fmt: skip
        for unit_key in sorted(dirty & self._units.keys()):
            self._compile(unit_key)
        if dirty:
            self._store.keep_policies(self.used())

    def used(self) -> set[int]:
        """Return the policy ids in use."""
        return {unit.policy_id for unit in self._units.values()}

    def selecting(self, endpoint_id: int) -> list[tuple[PolicyKey, str]]:
        """Return the policies that select an endpoint, each with the path of its spec, in order."""
        unit = self._units.get(self._unit_of.get(endpoint_id, (0, ())))
        specs = unit.specs if unit is not None else {}
        return [(key, specs[key, index].spec.path) for key, index in sorted(specs)]

    def policy_id(self, endpoint_id: int) -> int:
        """Return the policy id of an endpoint; LOCKED for one that is not known."""
        unit = self._units.get(self._unit_of.get(endpoint_id, (0, ())))
        return int(PolicyIds.LOCKED) if unit is None else unit.policy_id

    def _named_ports(self, local: Iterable[int], remote: Iterable[bytes]) -> bool:
        """Count the port names of changed endpoints; return whether any of them has some."""
        seen = False
        for number in local:
            row = self._state.local.get(number)
            names = (endpoints.identity_of(row), row.named_ports) if row else None
            seen |= self._name(number, names)
        for ip in remote:
            other = self._state.remote.get(ip)
            seen |= self._name(ip, (other.identity, other.named_ports) if other else None)
        return seen

    def _name(self, key: int | bytes, new: tuple[int, tuple[NamedPort, ...]] | None) -> bool:
        old = self._namers.get(key)
        if new is not None and not new[1]:
            new = None
        if old == new:
            return False
        if old is not None:
            del self._namers[key]
            self._count(*old, -1)
        if new is not None:
            self._namers[key] = new
            self._count(*new, 1)
        return True

    def _count(self, identity: int, ports: tuple[NamedPort, ...], change: int) -> None:
        counts = self._named.setdefault(identity, Counter())
        for port in set(ports):
            counts[port] += change
            if not counts[port]:
                del counts[port]
        if not counts:
            del self._named[identity]

    def _policy(self, key: PolicyKey) -> set[UnitKey]:
        """Take up a policy; return the units that its old or its new form selects."""
        dirty: set[UnitKey] = set()
        old = self._specs.pop(key, [])
        for unit_key, unit in self._units.items():
            for index in range(len(old)):
                if unit.specs.pop((key, index), None) is not None:
                    dirty.add(unit_key)
        policy = self._state.policies.get(key)
        new = [] if policy is None else self._resolve(policy)
        for entries in old:
            del self._policy_of[entries]
            for selector in entries.selectors:
                self.selectors.drop(selector, entries)
        if policy is None:
            self._ids.rules.forget(key)
            self.refused.pop(key, None)
            return dirty
        self._specs[key] = new
        for unit_key, unit in self._units.items():
            labels = self.selectors.labels(unit_key[0])
            for index, entries in enumerate(new):
                if labels is not None and entries.spec.subject.matches(labels):
                    unit.specs[key, index] = entries
                    dirty.add(unit_key)
        return dirty

    def _resolve(self, policy: Policy) -> list[SpecEntries]:
        """Give a policy's rules their ids and selectors; without free ids it closes instead."""
        parts = (p.path for s in policy.specs for rule in s.rules for p in rule.parts)
        self.refused.pop(policy.key, None)
        try:
            ids = self._ids.rules.assign(policy.key, parts)
        except OutOfIds as error:
            self.refused[policy.key] = str(error)
            self._ids.rules.forget(policy.key)
            ids = {}
            closed = tuple(replace(spec, rules=()) for spec in policy.specs)
            policy = replace(policy, specs=closed, refusal=("", str(error)))
        peers = Peers(self.selectors.identities, self._named)
        found = [SpecEntries(spec, ids, peers) for spec in policy.specs]
        for entries in found:
            self._policy_of[entries] = policy
            for selector in entries.selectors:
                self.selectors.use(selector, entries)
        return found

    def _endpoint(self, number: int) -> set[UnitKey]:
        """Take up an endpoint; return the unit that it has come to, if that must be compiled."""
        row = self._state.local.get(number)
        key = None if row is None else _unit_key(row)
        old = self._unit_of.get(number)
        if key == old:
            return set()
        dirty: set[UnitKey] = set()
        if old is not None:
            del self._unit_of[number]
            unit = self._units[old]
            unit.endpoints.discard(number)
            if not unit.endpoints:
                del self._units[old]
                self.problems.pop(old, None)
            dirty.add(old)
        if key is None:
            self._store.set(POLICY_REF, endpoints.ref_key(number), None)
            return dirty
        self._unit_of[number] = key
        unit = self._units.get(key)
        if unit is None:
            unit = self._units[key] = Unit()
            self._select(key)
        unit.endpoints.add(number)
        return dirty | {key}

    def _select(self, key: UnitKey) -> None:
        """Find the specs that select a unit."""
        unit = self._units[key]
        labels = self.selectors.labels(key[0])
        unit.specs.clear()
        if labels is None:
            return
        for policy_key, specs in self._specs.items():
            for index, entries in enumerate(specs):
                if entries.spec.subject.matches(labels):
                    unit.specs[policy_key, index] = entries

    def _compile(self, key: UnitKey) -> None:
        """Work out a unit's policy, and let its endpoints refer to it."""
        unit = self._units[key]
        self.problems.pop(key, None)
        try:
            policy = self._merged(key, unit)
            if policy is None:
                unit.policy_id = int(PolicyIds.LOCKED)
            else:
                unit.policy_id = self._ids.policies.take(policy)
                if unit.policy_id not in BUILT_IN:
                    self._store.add_policy(unit.policy_id, policy)
        except OutOfIds as error:
            self._problem(key, unit, str(error))
        value = endpoints.ref_value(unit.policy_id)
        for number in sorted(unit.endpoints):
            self._store.set(POLICY_REF, endpoints.ref_key(number), value)

    def _merged(self, key: UnitKey, unit: Unit) -> PolicyMap | None:
        """Return a unit's policy; None, closed, while the labels of its identity are not known."""
        labels = self.selectors.labels(key[0])
        if labels is None:
            return None
        specs = [unit.specs[place] for place in sorted(unit.specs)]
        pairs = [(self._policy_of[entries], entries.spec) for entries in specs]
        init = INIT_LABEL in labels.values
        mode = self._state.config.enforcement
        states = {way: enforcement(pairs, way, mode, init=init) for way in DIRECTIONS}
        policy = merge(specs, states, key[1])
        limit = self._state.config.policy_map_max
        if len(policy.entries) > limit:
            raise OutOfIds(
                f"its policy needs {len(policy.entries)} entries, bpf-policy-map-max allows {limit}"
            )
        return policy

    def _problem(self, key: UnitKey, unit: Unit, reason: str) -> None:
        self.problems[key] = Problem(key[0], tuple(sorted(unit.endpoints)), reason)


def _unit_key(endpoint: LocalEndpoint) -> UnitKey:
    return endpoints.identity_of(endpoint), tuple(sorted(set(endpoint.named_ports)))
