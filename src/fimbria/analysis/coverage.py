"""Which parts of which rules decide about flows, and which ones no test has made decide.

A flow is decided by every rule that decides alike, not only by the one that a map entry names, so
it is asked of the rules themselves (model.semantics). A default deny is a part of its own: tests
that only see what is allowed leave it uncovered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from fimbria.analysis.engine import loops
from fimbria.analysis.places import packet
from fimbria.datapath.abi import Direction, EndpointIds
from fimbria.model.policy import DIRECTIONS, Action, Tier
from fimbria.model.semantics import Question, Reason, Verdict, selecting, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fimbria.analysis.engine import Engine
    from fimbria.analysis.flows import Flow
    from fimbria.analysis.places import Place
    from fimbria.analysis.world import World
    from fimbria.model.policy import Policy, PolicyKey

WAYS = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}


class Part(NamedTuple):
    """What can decide: the part of a rule at `path`, or the default deny of the spec there.

    `default` is the direction of a default deny, "" for a rule.
    """

    policy: PolicyKey
    path: str
    default: str = ""

    def __str__(self) -> str:
        what = f" (default deny, {self.default})" if self.default else ""
        return f"{self.policy} {self.path}{what}"


@dataclass(frozen=True, slots=True)
class Decision:
    """One end's part in a flow: whether it denies, and the parts that say so, in object order."""

    direction: Direction
    denied: bool
    parts: tuple[Part, ...]
    passed: tuple[Part, ...] = ()
    """Rules that handed it on to the next tier."""


class Deciders:
    """Finds what decides about flows in an engine's world."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._context = engine.state.context()
        self._about: dict[int, list[Policy]] = {}
        self._views: dict[str, Deciders] = {}

    def of(self, flow: Flow) -> list[Decision]:
        """Return both ends' decisions, for all that a Service stands for. Raises FlowError."""
        engine = self._engine
        source = engine.place(flow.source)
        found: list[Decision] = []
        for name, port in engine.places.targets(flow):
            target = engine.place(name)
            protocol, number = packet(flow, source, target, port)
            found += self._half(source, target, Direction.EGRESS, protocol, number)
            found += self._half(target, source, Direction.INGRESS, protocol, number)
        return found

    def view(self, node: str) -> Deciders:
        """Return what finds the deciders as a node sees them."""
        found = self._views.get(node)
        if found is None:
            found = self._views[node] = Deciders(self._engine.views.of(node))
        return found

    def of_half(
        self, own: str, other: str, direction: Direction, protocol: int, port: int
    ) -> list[Decision]:
        """Return one end's decision about a packet; none if no policy can be about it."""
        ends = self._engine.place(own), self._engine.place(other)
        return list(self._half(*ends, direction, protocol, port))

    def selecting(self, place: Place) -> list[Policy]:
        """Return the policies that select an end, in object order."""
        found = self._about.get(place.unit)
        if found is None:
            policies = list(self._engine.world.policies.values())
            pairs = selecting(policies, place.own.labels, host=_is_host(place))
            found = list({policy.key: policy for policy, _ in pairs}.values())
            self._about[place.unit] = found
        return found

    def _half(
        self, own: Place, other: Place, direction: Direction, protocol: int, port: int
    ) -> Iterator[Decision]:
        view, own, peer = self._engine.views.seen(own, other)
        if view is not self._engine:
            yield from self.view(own.node).of_half(own.name, peer.name, direction, protocol, port)
            return
        if not own.unit or loops(own, peer):
            return
        mode = self._engine.mode
        host = _is_host(own)
        asked = Question(own.own, peer.end, direction, protocol, port, mode, self._context, host)
        policies = self.selecting(own)
        judged = verdict(policies, asked)
        parts = [Part(rule.policy, rule.path) for rule in judged.rules]
        if judged.reason is Reason.DEFAULT_DENY:
            parts = [
                Part(policy.key, spec.path, WAYS[direction])
                for policy, spec in selecting(policies, own.own.labels, host=host)
                if policy.tier is Tier.NORMAL and not policy.audit and spec.default_deny(direction)
            ]
        yield Decision(direction, not judged.allowed, tuple(parts), _passed(policies, asked))


def _is_host(place: Place) -> bool:
    """Return whether an end is the node whose view it is, with a policy of its own."""
    return place.unit == EndpointIds.HOST


def _passed(policies: Sequence[Policy], asked: Question) -> tuple[Part, ...]:
    """Return the rules that hand a packet on: those that would decide if they decided at all."""
    found: list[Part] = []
    for tier in (Tier.ADMIN, Tier.BASELINE):
        passing = {
            (policy.key, part.path)
            for policy in policies
            if policy.tier is tier
            for spec in policy.specs
            for rule in spec.rules
            if rule.action is Action.PASS
            for part in rule.parts
        }
        if not passing:
            continue
        judged: Verdict = verdict([_deciding(policy, tier) for policy in policies], asked)
        found += [Part(*name) for rule in judged.rules
                  if (name := (rule.policy, rule.path)) in passing]  # fmt: skip
    return tuple(found)


def _deciding(policy: Policy, tier: Tier) -> Policy:
    """Return a policy of `tier` with rules that accept where it has rules that pass."""
    if policy.tier is not tier:
        return policy
    specs = tuple(
        replace(
            spec,
            rules=tuple(
                replace(rule, action=Action.ALLOW) if rule.action is Action.PASS else rule
                for rule in spec.rules
            ),
        )
        for spec in policy.specs
    )
    return replace(policy, specs=specs)


def parts_of(policy: Policy, *, host: bool) -> Iterator[Part]:
    """Yield what can decide in a policy. One in audit mode, or refused, decides nothing.

    `host`: nodes have policies too (enable-host-firewall).
    """
    if policy.audit or policy.refusal is not None:
        return
    for spec in policy.specs:
        if spec.host and not host:
            continue
        for direction in DIRECTIONS:
            if spec.default_deny(direction):
                yield Part(policy.key, spec.path, WAYS[direction])
        for rule in spec.rules:
            if rule.peers:
                yield from (Part(policy.key, part.path) for part in rule.parts)


class Covered(NamedTuple):
    """A part, where it was written, and whether any flow was decided by it."""

    file: str
    line: int
    part: Part
    covered: bool


class Coverage:
    """Sums up over many worlds which parts have decided. A file's object counts once."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, int, Part], bool] = {}

    def add(self, world: World, *, host: bool = False) -> None:
        """Take in what there is to cover in a world; `host` as in `parts_of`."""
        for policy in world.policies.values():
            for part in parts_of(policy, host=host):
                self._rows.setdefault(self._key(world, part), False)

    def hit(self, world: World, decisions: Sequence[Decision]) -> None:
        """Note what has decided about a flow in a world that was added."""
        for one in decisions:
            for part in (*one.parts, *one.passed):
                key = self._key(world, part)
                if key in self._rows:
                    self._rows[key] = True

    @staticmethod
    def _key(world: World, part: Part) -> tuple[str, int, Part]:
        manifest = world.manifests.get(part.policy)
        if manifest is None:
            return "", 1, part
        return manifest.file, manifest.line(part.path), part

    def rows(self) -> list[Covered]:
        """Return all parts by file and line."""
        return [Covered(*key, covered) for key, covered in sorted(self._rows.items())]

    @property
    def percent(self) -> float:
        """Return how much is covered, 100 if there is nothing to cover."""
        total = len(self._rows)
        return 100.0 * sum(self._rows.values()) / total if total else 100.0
