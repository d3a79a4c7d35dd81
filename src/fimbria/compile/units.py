"""A unit's policy: the chains of tiers that hold for it, beside it in audit, and after a trial.

specs in force ─► tiers ─► stages, the last first ─► policy ids ─► struct policy_ref
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from fimbria.compile.endpoints import LOCKED, identity_of, reference
from fimbria.compile.ids import BUILT_IN, OutOfIds
from fimbria.compile.patches import changes
from fimbria.compile.specs import Only, SpecEntries
from fimbria.compile.stages import Stage, ordered, ordinary
from fimbria.datapath.abi import Identity, PolicyIds
from fimbria.model.policy import DIRECTIONS, NamedPort, PolicyKey, Tier
from fimbria.model.semantics import INIT_LABEL, Mode, enforcement

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Set

    from fimbria.compile import ids
    from fimbria.compile.delta import Store
    from fimbria.compile.ids import Changes
    from fimbria.compile.patches import Wishes
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

    `chains` are the ids of the maps that `ref` leads to: of its own policy, of the shadow and of
    the fallback, each tier by tier; `policies` all of them, without the built-in ones.
    """

    endpoints: set[int] = field(default_factory=set[int])
    specs: dict[Place, SpecEntries] = field(default_factory=dict[Place, SpecEntries])
    ref: PolicyRef = LOCKED
    chains: tuple[tuple[int, ...], ...] = ()

    @property
    def policies(self) -> set[int]:
        return {number for chain in self.chains for number in chain if number not in BUILT_IN}


def unit_key(endpoint: LocalEndpoint) -> UnitKey:
    """Return the unit that an endpoint belongs to."""
    return identity_of(endpoint), tuple(sorted(set(endpoint.named_ports)))


class Builder:
    """Makes units' policies, with ids from `numbers`, and puts them into `store`.

    `gone`: nobody has this identity any more.
    """

    def __init__(
        self,
        state: ClusterState,
        numbers: ids.PolicyIds,
        store: Store,
        gone: Callable[[int], bool],
    ) -> None:
        self._state = state
        self._numbers = numbers
        self._store = store
        self._gone = gone

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
            unit.ref, unit.chains = LOCKED, ()
            return
        chains = self._chains(key, unit, labels)
        self._check(stage for stages in chains for stage in stages)
        unit.chains = tuple(map(self._numbered, chains))
        real, shadow, fallback = (chain[0] if chain else 0 for chain in unit.chains)
        unit.ref = reference(real, shadow)
        until = self._until(unit)
        if until:
            unit.ref = unit.ref._replace(fallback_id=fallback, until=until)

    def wishes(
        self, key: UnitKey, unit: Unit, labels: LabelSet | None, identities: Set[int]
    ) -> Wishes | None:
        """Return what changes in a unit's maps because these identities came or went.

        None if that cannot be done in place. `unit` is as `build` left it, without a failure.
        """
        if labels is None:
            return None
        found: dict[int, Changes] = {}
        chains = self._chains(key, unit, labels, identities)
        if tuple(map(len, chains)) != tuple(map(len, unit.chains)):
            return None
        for stages, numbers in zip(chains, unit.chains, strict=True):
            changed = 0
            for stage, number in zip(stages, numbers, strict=True):
                one = changes(self._numbers[number], stage, identities, self._gone)
                if one is None or (one and not self._store.untouched(number)):
                    return None
                if found.setdefault(number, one) != one:  # chains that shared it go apart
                    return None
                changed += bool(one)
            if changed > 1:  # a packet could meet the one before and the other after
                return None
        return {number: one for number, one in found.items() if one}

    def patch(self, number: int, wanted: Changes) -> bool:
        """Change a policy in place; False if it must be made anew."""
        content = self._numbers[number]
        if len(content.policy.entries) + len(wanted) > self._state.config.policy_map_max:
            return False
        done = self._numbers.patch(number, wanted)
        if done:
            self._store.patch_policy(number, content.policy, wanted)
        return done

    def costs(self, key: UnitKey, unit: Unit) -> tuple[tuple[PolicyKey, int], ...]:
        """Return how many entries the policies of a unit ask for, the largest first."""
        found: dict[PolicyKey, int] = {}
        for entries in self.in_force(unit, trials=True):
            name = entries.policy.key
            found[name] = found.get(name, 0) + entries.size(key[1])
        return tuple(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def _chains(
        self, key: UnitKey, unit: Unit, labels: LabelSet, only: Only = None
    ) -> tuple[list[Stage], list[Stage], list[Stage]]:
        """Return a unit's own policy, its shadow and its fallback; the latter empty if none."""
        specs = self.in_force(unit, trials=True)
        shadow: list[Stage] = []
        fallback: list[Stage] = []
        if any(entries.policy.audit for entries in specs):
            shadow = self._stages(key, specs, labels, only)
        if self._until(unit):
            plain = self.in_force(unit, trials=False)
            fallback = self._stages(key, _judging(plain), labels, only)
        return self._stages(key, _judging(specs), labels, only), shadow, fallback

    def _stages(
        self, key: UnitKey, specs: list[SpecEntries], labels: LabelSet, only: Only
    ) -> list[Stage]:
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
            ordered(_in_order(specs, Tier.ADMIN), own, only),
            ordinary(normal, states, own, localhost=not host, only=only),
        ]
        if not found[1].final:
            found.append(ordered(_in_order(specs, Tier.BASELINE), own, only))
        return [stage for stage in found if stage.flags]

    def _check(self, stages: Iterable[Stage]) -> None:
        size = max((len(stage.entries) for stage in stages), default=0)
        limit = self._state.config.policy_map_max
        if size > limit:
            raise OutOfIds(f"its policy needs {size} entries, bpf-policy-map-max allows {limit}")

    def _numbered(self, stages: list[Stage]) -> tuple[int, ...]:
        """Return the numbers of linked policies, which the store then has."""
        numbers: list[int] = []
        for stage in reversed(stages):
            number = self._numbers.take(stage.policy(numbers[-1] if numbers else PolicyIds.NONE))
            if number not in BUILT_IN:
                self._store.add_policy(number, self._numbers[number].policy)
            numbers.append(number)
        return tuple(reversed(numbers))

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


def _judging(specs: list[SpecEntries]) -> list[SpecEntries]:
    """Return the specs that are not in audit mode."""
    return [entries for entries in specs if not entries.policy.audit]


def _in_order(specs: list[SpecEntries], tier: Tier) -> list[SpecEntries]:
    """Return the specs of an ordered tier, the first asked first; specs come in object order."""
    found = [entries for entries in specs if entries.policy.tier is tier]
    return sorted(found, key=lambda entries: (entries.policy.priority, entries.policy.key))
