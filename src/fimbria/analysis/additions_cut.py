"""Taking away what denies: the peer, the port or the rule that goes with the fewest verdicts."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

from fimbria.analysis.additions_check import Scope, turned
from fimbria.analysis.additions_edit import STEP, Asked, Edit, NoAddition, at, edited
from fimbria.datapath.abi import Direction
from fimbria.model.matching import names
from fimbria.model.policy import Policy, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.engine import Engine
    from fimbria.model.policy import Peer, PortSpec, Rule, Spec


def undenied(engine: Engine, asked: Asked, policy: Policy) -> Edit:
    """Return the least that has to go from a rule so that it does not deny any more."""
    spec, rule = _ruling(policy, asked)
    best: tuple[int, Edit] | None = None
    for edit in _cuts(engine, asked, policy, spec, rule):
        after = edited(engine, [edit])
        found = turned(engine, after, [edit.scope])
        if not found.unnamed and (best is None or found.size < best[0]):
            best = found.size, edit
    if best is None:
        raise NoAddition(f"{policy.key}: {rule.path} cannot go without turning other verdicts")
    return best[1]


def _ruling(policy: Policy, asked: Asked) -> tuple[Spec, Rule]:
    """Return the rule that decided."""
    for spec in policy.specs:
        for rule in spec.rules:
            if asked.half.rule in (rule.path, *(part.path for part in rule.parts)):
                return spec, rule
    raise NoAddition(f"{policy.key} has no rule {asked.half.rule}")


def _cuts(engine: Engine, asked: Asked, policy: Policy, spec: Spec, rule: Rule) -> Iterator[Edit]:
    """Yield edits that take the matching part of a rule away: a peer, a port, or the rule."""
    peer = asked.other.end
    context = engine.state.context()
    peers = tuple(one for one in rule.peers if names(one, peer, context))
    receiver = asked.other.end if asked.direction is Direction.EGRESS else asked.own.own
    ports = tuple(
        one for one in rule.ports if one.matches(asked.protocol, asked.port, receiver.named)
    )
    paths = {one.path for one in peers}
    own = tuple(one for one in rule.peers if one.path in paths)
    if len(paths) == 1:
        yield from _cut(policy, spec, asked.direction, own[0].path, own, rule.ports)
    if len(ports) == 1:
        yield from _cut(policy, spec, asked.direction, ports[0].path, rule.peers, ports)
    yield from _cut(policy, spec, asked.direction, rule.path, rule.peers, rule.ports, whole=True)


def _cut(
    policy: Policy,
    spec: Spec,
    direction: Direction,
    path: str,
    peers: tuple[Peer, ...],
    ports: tuple[PortSpec, ...],
    *,
    whole: bool = False,
) -> Iterator[Edit]:
    """Yield the edit that removes a list's item; nothing if that is not possible.

    An empty list of peers or ports means everything, so their last items stay. The last deny rule
    of Cilium's kinds leaves an empty rule, because its section makes the direction closed.
    """
    document = copy.deepcopy(dict(policy.document))
    steps = STEP.findall(path)
    if not steps or not steps[-1][1] or (whole and path == spec.path):
        return
    items = cast("list[Any]", at(document, path[: path.rindex("[")]))
    index = int(steps[-1][1])
    if len(items) == 1 and not whole:
        return
    gone: Any = items.pop(index)
    if not items and policy.tier is Tier.NORMAL:
        items.append({})
    scope = Scope(direction, spec.subject, peers, ports, spec.host)
    yield Edit("remove", policy.key, path, gone, document, scope)


def without_object(policy: Policy, asked: Asked) -> Edit:
    """Return the removal of an object that cannot be enforced and closes what it selects."""
    spec = next(s for s in policy.specs if s.subject.matches(asked.own.own.labels))
    scope = Scope(None, spec.subject, None)
    return Edit("remove", policy.key, "", dict(policy.document), None, scope)
