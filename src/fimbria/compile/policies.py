"""From policies to policy maps, recomputing only what a change can have changed.

    identities ──► SelectorCache ──► SpecEntries (what a spec contributes, cached)
    policies   ──► specs ─────────►      │
    endpoints  ──► units ◄── tiers ──────┘ ──► chain of policy ids ──► cilium_policy_ref

A unit is all endpoints of one identity that name the same ports, or the node itself: they have one
policy. Which units are dirty follows from the users of the peers whose identities changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from fimbria.compile import endpoints
from fimbria.compile.delta import POLICY_REF, Problem, Store
from fimbria.compile.ids import OutOfIds
from fimbria.compile.labelindex import held, places
from fimbria.compile.names import PortNames
from fimbria.compile.patches import agreed
from fimbria.compile.selectors import SelectorCache, merge
from fimbria.compile.specs import Peers, SpecEntries
from fimbria.compile.units import HOST_UNIT, Builder, Cost, Unit, UnitKey, unit_key
from fimbria.datapath.abi import EndpointIds, Identity, PolicyIds, PolicyRef, PolicyRefFlags
from fimbria.model.identity import RESERVED
from fimbria.model.labels import LabelSet
from fimbria.model.policy import Tier

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Set

    from fimbria.compile.ids import Ids
    from fimbria.compile.patches import Wishes
    from fimbria.compile.selectors import Numbers
    from fimbria.compile.state import ClusterState
    from fimbria.compile.units import Place
    from fimbria.model.policy import Policy, PolicyKey


class Policies:
    """Keeps `store`'s policies and references up to date with the state."""

    def __init__(self, state: ClusterState, ids: Ids, store: Store) -> None:
        self._state = state
        self._ids = ids
        self._store = store
        self.selectors: SelectorCache[SpecEntries] = SelectorCache(state.config)
        self.problems: dict[UnitKey, Problem] = {}
        self.refused: dict[PolicyKey, str] = {}
        """Policies that could not be taken up, with the reason."""
        self._names = PortNames(state)
        self._builder = Builder(state, ids.policies, store, self._gone)
        self._specs: dict[tuple[PolicyKey, bool], list[SpecEntries]] = {}
        """By policy, and whether it is on trial."""
        self._subjects: dict[tuple[str, str] | None, dict[Place, SpecEntries]] = {}
        """Specs by a label that whom they select must have; None for those without such."""
        self._units: dict[UnitKey, Unit] = {}
        self._unit_of: dict[int, UnitKey] = {}
        self._host_labels: LabelSet | None = None

    def update(
        self,
        local: Iterable[int],
        identities: Iterable[int],
        remote: Iterable[bytes],
        keys: Iterable[PolicyKey],
        nodes: Iterable[str] = (),
    ) -> None:
        """Take up changed rows, given by their keys; `keys` are of policies and of trials."""
        dirty: set[UnitKey] = set()
        renamed = self._names.update(local, remote)
        relabelled = set(identities)
        for number in relabelled:
            labels = self._state.identities.get(number)
            if labels is None:
                self.selectors.remove(number)
            else:
                self.selectors.put(number, labels)
        for key in sorted(keys):
            dirty |= self._policy(key)
        stale = self.selectors.users(self.selectors.take_changed())
        if renamed:
            for entries in (one for specs in self._specs.values() for one in specs):
                if entries.uses_peer_names:
                    merge(stale, entries, renamed)
        for number in local:
            dirty |= self._endpoint(number)
        for found in [key for key in self._units if key[0] in relabelled]:
            self._select(found)
            dirty.add(found)
        if self._state.config.host_firewall:
            dirty |= self._host(nodes)
        for entries in stale:
            entries.invalidate()
        for found in sorted((dirty | self._patch(stale, dirty)) & self._units.keys()):
            self._compile(found)
        if dirty or stale:
            self._store.keep_policies(self.used())

    def _patch(self, stale: Mapping[SpecEntries, Numbers], dirty: Set[UnitKey]) -> set[UnitKey]:
        """Patch the maps of units whose specs name other identities now.

        Returns the units that must be compiled as a whole; `dirty` ones must in any case.
        """
        wishes: dict[UnitKey, Wishes | None] = dict.fromkeys(dirty)
        for key, unit in self._units.items():
            concerned = stale.keys() & unit.specs.values()
            if not concerned or key in dirty:
                continue
            parts = [stale[entries] for entries in concerned]
            numbers = {number for part in parts for number in part or ()}
            wishes[key] = None
            if None not in parts and key not in self.problems:
                wishes[key] = self._builder.wishes(key, unit, self._labels(key), numbers)
        if not any(wishes.values()):
            return {key for key, wish in wishes.items() if wish is None}
        users = {key: unit.policies for key, unit in self._units.items()}
        patches, whole = agreed(wishes, users)
        for number, changes in sorted(patches.items()):
            if not self._builder.patch(number, changes):
                whole |= {key for key, numbers in users.items() if number in numbers}
        return whole

    def used(self) -> set[int]:
        """Return the policy ids in use, those of all tiers."""
        return {number for unit in self._units.values() for number in unit.policies}

    def sizes(self) -> dict[UnitKey, tuple[int, ...]]:
        """Return how many entries each unit's policy maps have."""
        policies = self._store.policies
        return {
            key: tuple(len(policies[n].entries) for n in sorted(unit.policies) if n in policies)
            for key, unit in self._units.items()
        }

    def cost(self, key: PolicyKey) -> Cost:
        """Return what a policy asks for, on trial or not; nothing for one that is not known."""
        identities: set[int] = set()
        entries = 0
        for trial in (False, True):
            for spec in self._specs.get((key, trial), ()):
                for whom in spec.peers:
                    identities |= self.selectors.identities(whom)
                owns = {unit[1] for unit in self._units} if spec.uses_own_names else {()}
                entries += max((spec.size(own) for own in owns), default=0)
        return Cost(len(identities), entries)

    def selecting(self, endpoint_id: int) -> list[tuple[PolicyKey, str]]:
        """Return the policies that select an endpoint, each with the path of its spec, in order."""
        unit = self._units.get(self._unit_of.get(endpoint_id, (0, ())))
        found = self._builder.in_force(unit, trials=True) if unit is not None else []
        return [(entries.policy.key, entries.spec.path) for entries in found]

    def policy_id(self, endpoint_id: int) -> int:
        """Return the policy id of an endpoint; LOCKED for one that is not known."""
        unit = self._units.get(self._unit_of.get(endpoint_id, (0, ())))
        return int(PolicyIds.LOCKED) if unit is None else unit.ref.policy_id

    def _policy(self, key: PolicyKey) -> set[UnitKey]:
        """Take up a policy; return the units that its old or its new form selects."""
        dirty: set[UnitKey] = set()
        old = [(trial, self._specs.pop((key, trial), [])) for trial in (False, True)]
        for found, unit in self._units.items():
            for trial, specs in old:
                for index in range(len(specs)):
                    if unit.specs.pop((key, trial, index), None) is not None:
                        dirty.add(found)
        for trial, specs in old:
            for index, entries in enumerate(specs):
                for label in places(entries.spec.subject) or (None,):
                    del self._subjects[label][key, trial, index]
                    if not self._subjects[label]:
                        del self._subjects[label]
        trial = self._state.trials.get(key)
        self._resolve(key, self._state.policies.get(key), trial.policy if trial else None)
        for entries in [entries for _, specs in old for entries in specs]:
            for whom in entries.peers:
                self.selectors.drop(whom, entries)
        if any(entries.proxies for _, specs in old for entries in specs):
            every = (entries for specs in self._specs.values() for entries in specs)
            self._ids.proxies.retain(proxy for entries in every for proxy in entries.proxies)
        for place, entries in self._places(key):
            for label in places(entries.spec.subject) or (None,):
                self._subjects.setdefault(label, {})[place] = entries
        for found, unit in self._units.items():
            labels = self._labels(found)
            for place, entries in self._places(key):
                if labels is not None and _selects(entries, found, labels):
                    unit.specs[place] = entries
                    dirty.add(found)
        return dirty

    def _places(self, key: PolicyKey) -> Iterator[tuple[Place, SpecEntries]]:
        for trial in (False, True):
            for index, entries in enumerate(self._specs.get((key, trial), ())):
                yield (key, trial, index), entries

    def _resolve(self, key: PolicyKey, policy: Policy | None, tried: Policy | None) -> None:
        """Give a policy's rules their ids and peers; without free ids it closes instead."""
        self.refused.pop(key, None)
        versions = {t: p for t, p in ((False, policy), (True, tried)) if p is not None}
        if not versions:
            self._ids.rules.forget(key)
            return
        specs = (spec for version in versions.values() for spec in version.specs)
        parts = (part.path for spec in specs for rule in spec.rules for part in rule.parts)
        try:
            ids = self._ids.rules.assign(key, parts)
        except OutOfIds as error:
            self.refused[key] = str(error)
            self._ids.rules.forget(key)
            ids = {}
            versions = {t: _closed(version, str(error)) for t, version in versions.items()}
        peers = Peers(self.selectors.identities, self._names.by_identity, self._ids.proxies.port)
        for trial, version in versions.items():
            found = [SpecEntries(version, spec, ids, peers) for spec in version.specs]
            self._specs[key, trial] = found
            for entries in found:
                for whom in entries.peers:
                    self.selectors.use(whom, entries)

    def _endpoint(self, number: int) -> set[UnitKey]:
        """Take up an endpoint; return the unit that it has come to, if that must be compiled."""
        row = self._state.local.get(number)
        key = None if row is None else unit_key(row)
        old = self._unit_of.get(number)
        if key == old:
            if key is not None:
                self._refer(number, self._units[key])
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
        if key not in self._units:
            self._units[key] = Unit()
            self._select(key)
        self._units[key].endpoints.add(number)
        return dirty | {key}

    def _host(self, nodes: Iterable[str]) -> set[UnitKey]:
        """Take up the node itself as an endpoint; return its unit if that must be compiled."""
        if self._host_labels is not None and self._state.self_name not in set(nodes):
            return set()
        node = self._state.nodes.get(self._state.self_name)
        own = node.labels if node is not None else ()
        self._host_labels = LabelSet((*own, *RESERVED[Identity.HOST]))
        number = int(EndpointIds.HOST)
        self._unit_of[number] = HOST_UNIT
        self._units.setdefault(HOST_UNIT, Unit(ref=PolicyRef())).endpoints.add(number)
        self._select(HOST_UNIT)
        return {HOST_UNIT}

    def _gone(self, number: int) -> bool:
        return self.selectors.labels(number) is None

    def _labels(self, key: UnitKey) -> LabelSet | None:
        return self._host_labels if key == HOST_UNIT else self.selectors.labels(key[0])

    def _select(self, key: UnitKey) -> None:
        """Find the specs that select a unit."""
        unit = self._units[key]
        labels = self._labels(key)
        unit.specs.clear()
        if labels is None:
            return
        for label in (None, *held(labels)):
            for place, entries in self._subjects.get(label, {}).items():
                if _selects(entries, key, labels):
                    unit.specs[place] = entries

    def _compile(self, key: UnitKey) -> None:
        """Work out a unit's policy, and let its endpoints refer to it."""
        unit = self._units[key]
        self.problems.pop(key, None)
        try:
            self._builder.build(key, unit, self._labels(key))
        except OutOfIds as error:
            costs = self._builder.costs(key, unit)
            self.problems[key] = Problem(key[0], tuple(sorted(unit.endpoints)), str(error), costs)
        for number in sorted(unit.endpoints):
            self._refer(number, unit)

    def _refer(self, number: int, unit: Unit) -> None:
        row = self._state.local.get(number)
        audit = self._state.config.audit or (row is not None and row.audit)
        ref = unit.ref._replace(flags=int(PolicyRefFlags.AUDIT)) if audit else unit.ref
        self._store.set(POLICY_REF, endpoints.ref_key(number), ref.pack())


def _selects(entries: SpecEntries, key: UnitKey, labels: LabelSet) -> bool:
    spec = entries.spec
    return spec.host is (key == HOST_UNIT) and spec.subject.matches(labels)


def _closed(policy: Policy, reason: str) -> Policy:
    """Return a policy that closes what it names, but never a node."""
    specs = tuple(replace(spec, rules=()) for spec in policy.specs if not spec.host)
    return replace(policy, specs=specs, tier=Tier.NORMAL, refusal=("", reason))
