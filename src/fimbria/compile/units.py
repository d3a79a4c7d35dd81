"""A unit's policy: the chains of tiers that hold for it, beside it in audit, and after a trial.

specs in force ─► tiers ─► stages, the last first ─► policy ids ─► struct policy_ref
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fimbria.compile.endpoints import LOCKED, identity_of, reference
from fimbria.compile.ids import BUILT_IN, OutOfIds
from fimbria.compile.policymap import SpecEntries, Stage, ordered, ordinary
from fimbria.datapath.abi import Identity, PolicyIds
from fimbria.model.policy import DIRECTIONS, NamedPort, PolicyKey, Tier
from fimbria.model.semantics import INIT_LABEL, Mode, enforcement

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.compile import ids
    from fimbria.compile.delta import Store
    from fimbria.compile.state import ClusterState, LocalEndpoint
    from fimbria.datapath.abi import PolicyRef
    from fimbria.model.labels import LabelSet

UnitKey = tuple[int, tuple[NamedPort, ...]]
"""Identity and named ports of a local endpoint."""
HOST_UNIT: UnitKey = (int(Identity.HOST), ())
Place = tuple[PolicyKey, bool, int]
"""A policy, whether it is on trial, and the number of its spec."""


class Cost(NamedTuple):
    """How many identities a policy's rules name, and how many entries it asks for in a map."""

    identities: int
    entries: int


@dataclass(eq=False, slots=True)
class Unit:
    """Endpoints with one policy. `ref` is LOCKED until something was compiled, for the node open.

    `policies` are the ids of all maps that `ref` leads to, without the built-in ones.
    """

    endpoints: set[int] = field(default_factory=set[int])
    specs: dict[Place, SpecEntries] = field(default_factory=dict[Place, SpecEntries])
    ref: PolicyRef = LOCKED
    policies: frozenset[int] = frozenset()


def unit_key(endpoint: LocalEndpoint) -> UnitKey:
    """Return the unit that an endpoint belongs to."""
    return identity_of(endpoint), tuple(sorted(set(endpoint.named_ports)))


class Builder:
    """Makes units' policies, with ids from `numbers`, and puts them into `store`."""

    def __init__(self, state: ClusterState, numbers: ids.PolicyIds, store: Store) -> None:
        self._state = state
        self._numbers = numbers
        self._store = store

    def in_force(self, unit: Unit, *, trials: bool) -> list[SpecEntries]:
        """Return the specs that select a unit, in object order, of policies on trial or not."""
        tried = self._state.trials if trials else ()
        return [
            unit.specs[place] for place in sorted(unit.specs) if place[1] is (place[0] in tried)
        ]

    def build(self, key: UnitKey, unit: Unit, labels: LabelSet | None) -> None:
        """Set a unit's reference; LOCKED while the labels of its identity are not known.

        Raises OutOfIds if there is no number left or a map would be too large; the unit then keeps
        what it has.
        """
        if labels is None:
            unit.ref, unit.policies = LOCKED, frozenset()
            return
        specs = self.in_force(unit, trials=True)
        chains = [self._stages(key, [s for s in specs if not s.policy.audit], labels), [], []]
        if any(entries.policy.audit for entries in specs):
            chains[1] = self._stages(key, specs, labels)
        until = self._until(unit)
        if until:
            plain = self.in_force(unit, trials=False)
            chains[2] = self._stages(key, [s for s in plain if not s.policy.audit], labels)
        self._check(stage for stages in chains for stage in stages)
        policies: set[int] = set()
        real, shadow, fallback = (self._chain(stages, policies) for stages in chains)
        unit.ref = reference(real, shadow)
        if until:
            unit.ref = unit.ref._replace(fallback_id=fallback, until=until)
        unit.policies = frozenset(policies)

    def costs(self, key: UnitKey, unit: Unit) -> tuple[tuple[PolicyKey, int], ...]:
        """Return how many entries the policies of a unit ask for, the largest first."""
        found: dict[PolicyKey, int] = {}
        for entries in self.in_force(unit, trials=True):
            name = entries.policy.key
            found[name] = found.get(name, 0) + entries.size(key[1])
        return tuple(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def _stages(self, key: UnitKey, specs: list[SpecEntries], labels: LabelSet) -> list[Stage]:
        """Return the tiers that say something, in order."""
        host, own = key == HOST_UNIT, key[1]
        mode = self._state.config.enforcement
        if mode is Mode.NEVER:
            return []
        pairs = [(entries.policy, entries.spec) for entries in specs]
        init = INIT_LABEL in labels.values
        states = {
            way: enforcement(pairs, way, Mode.DEFAULT if host else mode, init=init)
            for way in DIRECTIONS
        }
        normal = [entries for entries in specs if entries.policy.tier is Tier.NORMAL]
        found = [
            ordered(_in_order(specs, Tier.ADMIN), own),
            ordinary(normal, states, own, localhost=not host),
        ]
        if not found[1].final:
            found.append(ordered(_in_order(specs, Tier.BASELINE), own))
        return [stage for stage in found if stage.flags]

    def _check(self, stages: Iterable[Stage]) -> None:
        size = max((len(stage.entries) for stage in stages), default=0)
        limit = self._state.config.policy_map_max
        if size > limit:
            raise OutOfIds(f"its policy needs {size} entries, bpf-policy-map-max allows {limit}")

    def _chain(self, stages: list[Stage], policies: set[int]) -> int:
        """Return the number of the first of linked policies; note all in `policies`."""
        number = int(PolicyIds.NONE)
        for stage in reversed(stages):
            policy = stage.policy(number)
            number = self._numbers.take(policy)
            if number not in BUILT_IN:
                self._store.add_policy(number, policy)
                policies.add(number)
        return number

    def _until(self, unit: Unit) -> int:
        """Return when the first trial that concerns a unit ends; 0 if there is none."""
        keys = {place[0] for place in unit.specs}
        times = [trial.until for key in keys if (trial := self._state.trials.get(key)) is not None]
        if not times:
            return 0
        # Jiffies wrap, so only differences can be compared; and 0 would mean no end.
        base = times[0]
        first = min(times, key=lambda time: (time - base + (1 << 31)) % (1 << 32))
        return first or 1


def _in_order(specs: list[SpecEntries], tier: Tier) -> list[SpecEntries]:
    """Return the specs of an ordered tier, the first asked first; specs come in object order."""
    found = [entries for entries in specs if entries.policy.tier is tier]
    return sorted(found, key=lambda entries: (entries.policy.priority, entries.policy.key))
