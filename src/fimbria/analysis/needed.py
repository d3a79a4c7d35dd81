"""What would have to change for a flow to become what a test expects: words for people.

For a flow that is denied by default, the rules that come nearest are named: those that know the
peer but not the port, and those that know the port but not the peer.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from fimbria.analysis.explain import policy_value
from fimbria.analysis.places import packet
from fimbria.analysis.results import Because, Outcome
from fimbria.datapath.abi import Direction
from fimbria.model.matching import names
from fimbria.model.policy import Action, Tier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fimbria.analysis.coverage import Deciders
    from fimbria.analysis.engine import Engine
    from fimbria.analysis.flows import Flow
    from fimbria.analysis.places import Place
    from fimbria.analysis.results import Half, Result
    from fimbria.model.policy import Peer, Policy

NEAR = 3
"""Rules that are named as near misses, at most."""

_WAYS = {
    Direction.EGRESS: ("egress", "to"),
    Direction.INGRESS: ("ingress", "from"),
}


def where(half: Half) -> str:
    """Return what decided a half: `CiliumNetworkPolicy shop/db spec.ingress[0] (shop.yaml:12)`."""
    if half.policy is None:
        return ""
    namespace = f"{half.policy.namespace}/" if half.policy.namespace else ""
    place = f" ({half.file}:{half.line})" if half.file else ""
    return f"{half.policy.kind} {namespace}{half.policy.name} {half.rule}{place}"


def needed(
    engine: Engine, deciders: Deciders, flow: Flow, result: Result, expected: Outcome
) -> list[str]:
    """Return lines that say what is missing or too much for `expected`."""
    target = result.backend or flow.destination
    ends = engine.place(flow.source), engine.place(target)
    halves = (
        (Direction.EGRESS, result.egress, *ends),
        (Direction.INGRESS, result.ingress, *reversed(ends)),
    )
    firewall = engine.host_firewall
    if expected is Outcome.DENIED:
        return ["one of the two must deny:", *(
            f"{_WAYS[way][0]}: {_to_deny(way, half, own, firewall)}" for way, half, own, _ in halves
        )]  # fmt: skip
    found: list[str] = []
    for way, half, own, other in halves:
        if half.verdict is Outcome.DENIED:
            found += _to_pass(engine, deciders, flow, way, half, own, other)
        elif half.verdict is Outcome.REDIRECTED:
            found.append(f"a rule without layer 7, or the test expects `redirect`: {where(half)}")
    if not found:
        found.append(f"a rule with layer 7 that names {flow.port}/{flow.protocol.upper()}")
    return found


def _to_deny(way: Direction, half: Half, own: Place, firewall: bool) -> str:
    match half.reason:
        case Because.ALLOW_RULE | Because.REDIRECT:
            return f"narrow {where(half)}, or deny it by another rule"
        case Because.NO_DEFAULT_DENY:
            return f"no policy that selects {own.name} denies by default (enableDefaultDeny)"
        case Because.LOCAL_NODE:
            return "a node reaches its own pods unless a rule denies it"
        case Because.NOT_SELECTED | Because.NO_POLICY:
            if not own.unit and not (own.is_node and firewall):
                return f"no policy is ever about {own.name}"
            word = _WAYS[way][0]
            return f"no policy is about {own.name} here: one with {word} rules denies the rest"
        case _:
            return "it denies already"


def _to_pass(
    engine: Engine,
    deciders: Deciders,
    flow: Flow,
    way: Direction,
    half: Half,
    own: Place,
    other: Place,
) -> Iterator[str]:
    word, preposition = _WAYS[way]
    if half.reason is Because.DENY_RULE:
        yield f"{word}: this denial beats every rule that allows: narrow {where(half)}"
        return
    if half.reason is Because.REFUSED:
        yield f"{word}: mend the policy that is refused: {where(half)}"
        return
    asked = f"{flow.port}/{flow.protocol.upper()}"
    yield f"{word}: a rule for {own.name} that allows {asked} {preposition} {other.name}"
    near = list(_near(engine, deciders, flow, way, own, other))
    yield from (f"  near: {text}" for text in near[:NEAR])


def _near(
    engine: Engine, deciders: Deciders, flow: Flow, way: Direction, own: Place, other: Place
) -> Iterator[str]:
    """Yield the rules that match half of a packet."""
    ends = (own, other) if way is Direction.EGRESS else (other, own)
    port = flow.port
    for name, number in engine.places.targets(flow):
        if name == ends[1].name:
            port = number
    protocol, port = packet(flow, *ends, port)
    view, own, other = engine.views.seen(own, other)
    if view is not engine:
        engine, deciders = view, deciders.view(own.node)
    asked = f"{port}/{flow.protocol.upper()}"
    peer = other.end
    receiver = own.own if way is Direction.INGRESS else peer
    context = engine.state.context()
    for policy in deciders.selecting(own):
        if policy.tier is not Tier.NORMAL or policy.audit:
            continue
        for spec in policy.specs:
            if spec.host is not own.is_node or not spec.subject.matches(own.own.labels):
                continue
            for rule in spec.rules:
                if rule.direction is not way or rule.action is not Action.ALLOW or not rule.peers:
                    continue
                known = any(names(one, peer, context) for one in rule.peers)
                ported = any(one.matches(protocol, port, receiver.named) for one in rule.parts)
                if known:
                    yield f"{_at(engine, policy, rule.path)} names {other.name}, but not {asked}"
                elif ported:
                    wanted = " or ".join(_written(policy, rule.peers))
                    yield f"{_at(engine, policy, rule.path)} allows {asked} for {wanted}"


def _at(engine: Engine, policy: Policy, path: str) -> str:
    manifest = engine.world.manifests.get(policy.key)
    place = f" ({manifest.file}:{manifest.line(path)})" if manifest is not None else ""
    return f"{policy.key} {path}{place}"


def _written(policy: Policy, peers: Sequence[Peer]) -> list[str]:
    """Return the first peers of a rule as they were written, each once."""
    paths = list(dict.fromkeys(peer.path for peer in peers))
    values = [policy_value(policy, path) for path in paths[:NEAR]]
    rest = [] if len(paths) <= NEAR else [f"{len(paths) - NEAR} more"]
    return [one if isinstance(one, str) else json.dumps(one) for one in values] + rest
