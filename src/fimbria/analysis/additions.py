"""The smallest change of policies that turns a flow's verdict, tried out before it is told.

    flow, DENIED  ─► an allow rule where nothing allows it; the deny less that names it
    flow, ALLOWED ─► a deny that names this peer and port only

Each step is an edit of one object. Edits are applied to a copy of the world and judged there: a
change that does not turn the verdict, or that turns one it does not name, is not offered.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fimbria.analysis import additions_text as text
from fimbria.analysis.additions_check import Scope, turned
from fimbria.analysis.additions_cut import undenied, without_object
from fimbria.analysis.additions_edit import Asked, Edit, NoAddition, at, edited, parsed
from fimbria.analysis.additions_text import Document, Unnameable
from fimbria.analysis.engine import loops
from fimbria.analysis.flows import Flow
from fimbria.analysis.places import packet
from fimbria.analysis.results import Because, Outcome
from fimbria.datapath.abi import Direction, Identity
from fimbria.model.identity import RESERVED
from fimbria.model.kinds import CILIUM_CLUSTERWIDE_POLICY, CILIUM_NETWORK_POLICY, NETWORK_POLICY
from fimbria.model.labels import LabelSet
from fimbria.model.policy import PolicyKey, Tier
from fimbria.model.semantics import Mode

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.diff import Change
    from fimbria.analysis.engine import Engine
    from fimbria.analysis.results import Result
    from fimbria.analysis.world import World
    from fimbria.model.policy import Policy, Spec

STEPS = 8
"""Edits after which no more are tried; a flow is rarely denied by more than two rules."""


@dataclass(frozen=True, slots=True)
class Addition:
    """Edits that turn a flow's verdict together. `result` is what becomes of the flow then.

    `changes` are all verdicts that turn, the flow's own among them.
    """

    edits: tuple[Edit, ...]
    result: Result
    changes: tuple[Change, ...]


def smallest(engine: Engine, flow: Flow) -> Addition:
    """Return the smallest addition that turns a flow's verdict.

    A flow that is redirected counts as allowed, a reply as what opened its connection. Raises
    FlowError for a flow that cannot be judged, NoAddition.
    """
    if flow.reply:
        flow = Flow(flow.destination, flow.source, flow.protocol, flow.port)
    if engine.mode is Mode.NEVER:
        raise NoAddition("enable-policy is never: no policy is asked")
    before = engine.eval(flow)
    edits = _opened(engine, flow) if not before.allowed else _closed(engine, flow)
    after = edited(engine, edits)
    found = turned(engine, after, [edit.scope for edit in edits])
    if found.unnamed:
        raise NoAddition(f"every addition would turn more than it names: {found.unnamed[0]}")
    return Addition(tuple(edits), after.eval(flow), found.changes)


def _halves(engine: Engine, flow: Flow, result: Result) -> Iterator[Asked]:
    """Yield the halves of the packet that decided about a flow; ingress last."""
    source = engine.place(flow.source)
    targets = dict(engine.places.targets(flow))
    name = result.backend or next(iter(targets))
    target = engine.place(name)
    protocol, port = packet(flow, source, target, targets[name])
    ends = engine.views.seen(source, target)[1:], engine.views.seen(target, source)[1:]
    yield Asked(*ends[0], Direction.EGRESS, protocol, port, result.egress)
    yield Asked(*ends[1], Direction.INGRESS, protocol, port, result.ingress)


# -- what is denied


def _opened(engine: Engine, flow: Flow) -> list[Edit]:
    """Return edits after which a denied flow passes. Raises NoAddition."""
    edits: list[Edit] = []
    now = engine
    for _ in range(STEPS):
        result = now.eval(flow)
        if result.allowed:
            return edits
        denied = [one for one in _halves(now, flow, result) if one.half.verdict is Outcome.DENIED]
        try:
            edits.append(_open(now, denied[0]))
        except Unnameable as error:
            raise NoAddition(str(error)) from error
        now = edited(engine, edits)
    raise NoAddition(f"{STEPS} changes would not be enough")


def _open(engine: Engine, asked: Asked) -> Edit:
    half = asked.half
    key = (
        PolicyKey(half.policy.kind, half.policy.namespace, half.policy.name)
        if half.policy
        else None
    )
    if half.reason is Because.DEFAULT_DENY:
        return _allow(engine, asked, key)
    assert key is not None
    policy = engine.world.policies[key]
    if half.reason is Because.REFUSED:
        return without_object(policy, asked)
    if policy.tier is Tier.BASELINE:
        return _allow(engine, asked, None)
    return undenied(engine, asked, policy)


def _allow(engine: Engine, asked: Asked, key: PolicyKey | None) -> Edit:
    """Return an allow rule: in the object that closes, if that is about these pods only."""
    world, direction = engine.world, asked.direction
    spec = None if key is None else _own_spec(world, asked, world.policies[key])
    if key is not None and spec is not None:
        write = text.network_rule if key.kind == NETWORK_POLICY else text.cilium_rule
        try:
            rule = write(world, asked.other, direction, key.namespace, asked.protocol, asked.port)
        except Unnameable:
            return _new(world, asked, deny=False)
        document = copy.deepcopy(dict(world.policies[key].document))
        place = at(document, spec.path)
        rules = place.setdefault(text.section(direction), [])
        rules.append(rule)
        path = f"{spec.path}.{text.section(direction)}[{len(rules) - 1}]"
        return _edit(world, "add", key, path, rule, document, direction)
    return _new(world, asked, deny=False)


def _own_spec(world: World, asked: Asked, policy: Policy) -> Spec | None:
    """Return the spec that closes an end, if it selects no other node, or pod of another kind."""
    spec = next((one for one in policy.specs if one.path == asked.half.rule), None)
    if spec is None or policy.refusal is not None or not isinstance(policy.document, dict):
        return None
    others = {pod.identity for pod in world.pods.values()} - {asked.own.end.identity}
    labels = (LabelSet(world.identities[number]) for number in others)
    if spec.host:
        nodes = (node for name, node in world.nodes.items() if name != asked.own.node)
        labels = (LabelSet((*RESERVED[Identity.HOST], *node.labels)) for node in nodes)
    return None if any(spec.subject.matches(have) for have in labels) else spec


def _new(world: World, asked: Asked, *, deny: bool) -> Edit:
    """Return a policy of its own for one peer and port."""
    direction, namespace = asked.direction, asked.own.pod.namespace if asked.own.pod else ""
    rule = text.cilium_rule(world, asked.other, direction, namespace, asked.protocol, asked.port)
    kind = CILIUM_CLUSTERWIDE_POLICY if asked.own.is_node else CILIUM_NETWORK_POLICY
    name = _name(world, asked, "deny" if deny else "allow", kind, namespace)
    document = text.cilium_policy(world, asked.own, rule, direction, name, deny=deny)
    key = PolicyKey(kind, namespace, name)
    path = f"spec.{text.section(direction, deny=deny)}[0]"
    return replace(_edit(world, "create", key, path, document, document, direction), path="")


def _name(world: World, asked: Asked, verb: str, kind: str, namespace: str) -> str:
    ends = [asked.own.name.rpartition("/")[2], asked.other.name.rpartition("/")[2]]
    if asked.direction is Direction.INGRESS:
        ends.reverse()
    return text.free_name(world, kind, namespace, verb, ends[0], "to", ends[1])


def _edit(
    world: World,
    verb: str,
    key: PolicyKey,
    path: str,
    shown: Any,
    document: Document,
    direction: Direction,
) -> Edit:
    """Return an edit whose scope is the rule that its document has at `path`."""
    policy = parsed(world, document)
    if policy.refusal is not None:
        raise Unnameable(": ".join(policy.refusal))
    spec, rule = next((s, r) for s in policy.specs for r in s.rules if r.path == path)
    scope = Scope(direction, spec.subject, rule.peers, rule.ports, spec.host)
    return Edit(verb, key, path, shown, document, scope)


# -- what is allowed


def _closed(engine: Engine, flow: Flow) -> list[Edit]:
    """Return the edit after which a flow is denied. Raises NoAddition."""
    halves = [
        one
        for one in _halves(engine, flow, engine.eval(flow))
        if one.own.unit and not loops(one.own, one.other)
    ]
    why = "no policy can be about either end"
    for asked in reversed(halves):
        for make in (_denied, _denied_first):
            try:
                edit = make(engine.world, asked)
                if not edited(engine, [edit]).eval(flow).allowed:
                    return [edit]
            except Unnameable as error:
                why = str(error)
    raise NoAddition(why)


def _denied(world: World, asked: Asked) -> Edit:
    return _new(world, asked, deny=True)


def _denied_first(world: World, asked: Asked) -> Edit:
    """Return a denial that is asked before the rule of the Admin tier that accepts."""
    named = asked.half.policy
    policy = None if named is None else world.policies[PolicyKey(*_fields(named))]
    if policy is None or policy.tier is not Tier.ADMIN:
        raise Unnameable("nothing denies before the rule that accepts")
    if policy.priority:
        name = _name(world, asked, "deny", policy.key.kind, "")
    else:
        name = "0"  # of those of one priority, the name decides
        if policy.key.name <= name:
            raise Unnameable(f"nothing is asked before {policy.key}")
    document = text.admin_policy(
        world, asked.own, asked.other, asked.direction, name, max(policy.priority - 1, 0),
        (asked.protocol, asked.port),
    )  # fmt: skip
    key = PolicyKey(policy.key.kind, "", name)
    path = f"spec.{text.section(asked.direction)}[0]"
    edit = _edit(world, "create", key, path, document, document, asked.direction)
    return replace(edit, path="")


def _fields(name: Any) -> tuple[str, str, str]:
    return name.kind, name.namespace, name.name
