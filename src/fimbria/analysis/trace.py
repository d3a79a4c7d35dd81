"""`policy trace`: the reasoning about one packet, rule by rule, at both of its ends.

The text has the form of Cilium's command of that name; the verdict is the first judge's, and where
an end is a pod of this node, the entry of its policy map that decides (the second judge's) is
quoted beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from fimbria.analysis.explain import explain_rule, hit_text, policy_value
from fimbria.compile.ids import BUILT_IN
from fimbria.datapath.abi import Direction
from fimbria.datapath.lookup import Asked, Hit, policy_lookup
from fimbria.model.policy import Protocol
from fimbria.model.selector import Selector
from fimbria.model.semantics import End, Question, Reason, Verdict, selecting, verdict

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fimbria.compile.node import Compiler
    from fimbria.model.policy import Peer, Policy, Rule, Spec

ANY = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
_RULE = "-" * 64
_WAYS = {
    Direction.EGRESS: ("egress", "to", "Egress"),
    Direction.INGRESS: ("ingress", "from", "Ingress"),
}
_FOUND = {Reason.ALLOW_RULE: "Found allow rule", Reason.DENY_RULE: "Found deny rule"}


@dataclass(frozen=True, slots=True)
class TraceEnd:
    """One end: who it is, and its endpoint id if it is a pod of this node."""

    end: End
    endpoint_id: int | None = None
    policed: bool = True
    """False for nodes and the world, which no policy selects."""


@dataclass(frozen=True, slots=True)
class TraceStep:
    """The judgement at one end. `hit` is the map's own, if the endpoint is on this node."""

    direction: Direction
    verdict: Verdict
    hit: Hit | None


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole reasoning. `protocol` is the one it is about, of those asked for."""

    allowed: bool
    protocol: int
    steps: tuple[TraceStep, ...]
    text: str

    def document(self) -> dict[str, Any]:
        """Return it as the agent's API gives it."""
        deciding = next((s for s in self.steps if not s.verdict.allowed), None)
        if deciding is None and self.steps:
            deciding = self.steps[-1]
        return {
            "text": self.text,
            "verdict": "allowed" if self.allowed else "denied",
            "steps": [
                {
                    "direction": _WAYS[step.direction][0],
                    "verdict": "allowed" if step.verdict.allowed else "denied",
                    "reason": str(step.verdict.reason),
                    "rules": [
                        {
                            "kind": name.policy.kind,
                            "namespace": name.policy.namespace,
                            "name": name.policy.name,
                            "path": name.path,
                        }
                        for name in step.verdict.rules
                    ],
                    "entry": None if step.hit is None else hit_text(step.hit),
                }
                for step in self.steps
            ],
            "entry": None if deciding is None or deciding.hit is None else hit_text(deciding.hit),
        }


def trace(
    compiler: Compiler,
    source: TraceEnd,
    destination: TraceEnd,
    port: int = 0,
    protocols: Sequence[int] = ANY,
) -> Trace:
    """Judge a packet from `source` to `destination` and say why.

    `port` is the destination port, for ICMP the type. With several protocols it is about the first
    that passes, or the first if none does.
    """
    judged = {number: _judge(compiler, source, destination, port, number) for number in protocols}
    passing = [n for n, steps in judged.items() if all(s.verdict.allowed for s in steps)]
    protocol = passing[0] if passing else protocols[0]
    asked = "ANY" if len(protocols) > 1 else _protocol_name(protocol)
    lines = [
        _RULE,
        f"Tracing From: [{_labels(source, ', ')}] => To: [{_labels(destination, ', ')}] "
        f"Ports: [{port}/{asked}]",
    ]
    for step in judged[protocol]:
        egress = step.direction is Direction.EGRESS
        own, other = (source, destination) if egress else (destination, source)
        lines += ["", *_reasoning(compiler, step, own, other, port, protocol)]
    lines += ["", f"Final verdict: {'ALLOWED' if passing else 'DENIED'}"]
    return Trace(bool(passing), protocol, judged[protocol], "\n".join(lines) + "\n")


def _judge(
    compiler: Compiler, source: TraceEnd, destination: TraceEnd, port: int, protocol: int
) -> tuple[TraceStep, ...]:
    state = compiler.state
    policies = list(state.policies.values())
    steps: list[TraceStep] = []
    for direction, own, other in (
        (Direction.EGRESS, source, destination),
        (Direction.INGRESS, destination, source),
    ):
        if not own.policed:
            continue
        asked = Question(
            own.end, other.end, direction, protocol, port, state.config.enforcement, state.context()
        )
        judged = verdict(policies, asked)
        hit = None
        if own.endpoint_id is not None and own.endpoint_id in state.local:
            number = compiler.policies.policy_id(own.endpoint_id)
            held = {**compiler.desired().policies, **BUILT_IN}
            packet = Asked(other.end.identity, direction, protocol, port)
            hit = policy_lookup(held, number, packet)
        steps.append(TraceStep(direction, judged, hit))
    return tuple(steps)


def _reasoning(
    compiler: Compiler, step: TraceStep, own: TraceEnd, other: TraceEnd, port: int, protocol: int
) -> Iterator[str]:
    way, _, title = _WAYS[step.direction]
    policies = list(compiler.state.policies.values())
    total = sum(1 for policy in policies for spec in policy.specs if _says(spec, step.direction))
    yield f"Resolving {way} policy for [{_labels(own, ' ')}]"
    chosen = [
        (policy, spec)
        for policy, spec in selecting(policies, own.end.labels)
        if _says(spec, step.direction)
    ]
    receiver = own if step.direction is Direction.INGRESS else other
    for policy, spec in chosen:
        yield f"* Rule {spec.subject}: selected ({policy.key}, {spec.path})"
        if policy.refusal is not None:
            path, reason = policy.refusal
            yield f"    Refused, so it closes what it selects: {path}: {reason}"
        for rule in spec.rules:
            if rule.direction is step.direction:
                yield from _rule(policy, rule, other, receiver.end, port, protocol)
    yield f"{len(chosen)}/{total} rules selected"
    if chosen:
        yield _FOUND.get(step.verdict.reason, "Found no allow rule")
    for name in step.verdict.rules[:1]:
        yield f"Decided by {name.policy}, {name.path}"
    if step.hit is not None:
        yield f"Map entry: {hit_text(step.hit)}"
        explained = explain_rule(step.hit.rule_id, compiler.ids, compiler.state)
        if explained is not None and explained.path:
            yield from (f"    {line}" for line in explained.text.splitlines())
    outcome = "allowed" if step.verdict.allowed else "denied"
    yield f"{title} verdict: {outcome}, {step.verdict.reason}"


def _rule(
    policy: Policy, rule: Rule, other: TraceEnd, receiver: End, port: int, protocol: int
) -> Iterator[str]:
    head = f"    {'Denies' if rule.deny else 'Allows'} {_WAYS[rule.direction][1]}"
    if not rule.peers:
        yield f"{head} nobody ({rule.path})"
        return
    matched = False
    for path, group in groupby(rule.peers, key=lambda peer: peer.path):
        peers = list(group)
        here = any(
            p.whom is None or (isinstance(p.whom, Selector) and p.whom.matches(other.end.labels))
            for p in peers
        )
        matched |= here
        yield f"{head} {_peer(policy, peers[0])} ({path})"
        yield f"      Labels [{_labels(other, ' ')}] {'found' if here else 'not found'}"
    for part in rule.ports if matched else ():
        found = "matches" if part.matches(protocol, port, receiver.named) else "does not match"
        yield f"      Port {port}/{_protocol_name(protocol)} {found} ({part.path})"
    if matched and not rule.ports:
        yield "      No port restrictions"


def _says(spec: Spec, direction: Direction) -> bool:
    return spec.default_deny(direction) is not None


def _peer(policy: Policy, peer: Peer) -> str:
    written = policy_value(policy, peer.path)
    if isinstance(written, str):
        return f"entity {written}"
    return "anyone" if peer.whom is None else f"labels {peer.whom}"


def _labels(end: TraceEnd, separator: str) -> str:
    return separator.join(end.end.labels.labels)


def _protocol_name(number: int) -> str:
    return Protocol(number).name if number in set(Protocol) else str(number)
