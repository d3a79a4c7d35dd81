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
from fimbria.analysis.peertext import whom_text
from fimbria.compile.delta import CIDR
from fimbria.compile.ids import BUILT_IN
from fimbria.datapath.abi import Direction
from fimbria.datapath.lookup import Asked, Hit, cidr_lookup, policy_lookup
from fimbria.model.matching import names
from fimbria.model.policy import Action, Protocol, Tier
from fimbria.model.selector import Selector
from fimbria.model.semantics import (
    End,
    Question,
    Reason,
    Verdict,
    selecting,
    tier_order,
    verdict,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fimbria.compile.node import Compiler
    from fimbria.model.peers import Context
    from fimbria.model.policy import Peer, Policy, Rule, Spec

ANY = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
_RULE = "-" * 64
_ORDER = ("allowed", "redirected", "denied")
_WAYS = {
    Direction.EGRESS: ("egress", "to", "Egress"),
    Direction.INGRESS: ("ingress", "from", "Ingress"),
}
_FOUND = {
    Reason.ALLOW_RULE: "Found allow rule",
    Reason.DENY_RULE: "Found deny rule",
    Reason.REDIRECT: "Found redirect rule",
}
_VERBS = {Action.ALLOW: "Allows", Action.DENY: "Denies", Action.PASS: "Passes on"}
NO_PROXY = "dropped, because no proxy is running"


@dataclass(frozen=True, slots=True)
class TraceEnd:
    """One end: who it is, and its endpoint id if it is a pod of this node."""

    end: End
    endpoint_id: int | None = None
    policed: bool = True
    """False for nodes and the world, which no policy selects."""
    host: bool = False
    """The node itself, as policies about nodes see it (`endpoint_id` is ENDPOINT_HOST)."""


@dataclass(frozen=True, slots=True)
class TraceHalf:
    """What one end's policy is asked: by whom it is compiled, and the other end as it sees it."""

    compiler: Compiler
    direction: Direction
    own: TraceEnd
    other: TraceEnd


@dataclass(frozen=True, slots=True)
class TraceStep:
    """The judgement at one end. `hit` is the map's own, if the endpoint is on this node."""

    direction: Direction
    verdict: Verdict
    hit: Hit | None

    @property
    def outcome(self) -> str:
        """Return allowed, denied, or redirected: to a proxy, which drops it while none runs."""
        if self.verdict.reason is Reason.REDIRECT:
            return "redirected"
        return "allowed" if self.verdict.allowed else "denied"


@dataclass(frozen=True, slots=True)
class Trace:
    """The whole reasoning. `protocol` is the one it is about, of those asked for."""

    outcome: str
    protocol: int
    steps: tuple[TraceStep, ...]
    text: str

    def document(self) -> dict[str, Any]:
        """Return it as the agent's API gives it."""
        deciding = next((s for s in self.steps if s.outcome == self.outcome), None)
        if deciding is None and self.steps:
            deciding = self.steps[-1]
        return {
            "text": self.text,
            "verdict": self.outcome,
            "steps": [
                {
                    "direction": _WAYS[step.direction][0],
                    "verdict": step.outcome,
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
    """Judge a packet from `source` to `destination`, both as one node sees them, and say why.

    `port` is the destination port, for ICMP the type. With several protocols it is about the first
    that passes, or the first if none does.
    """
    egress = TraceHalf(compiler, Direction.EGRESS, source, destination)
    ingress = TraceHalf(compiler, Direction.INGRESS, destination, source)
    return trace_halves(egress, ingress, port, protocols)


def trace_halves(
    egress: TraceHalf, ingress: TraceHalf, port: int = 0, protocols: Sequence[int] = ANY
) -> Trace:
    """Do as `trace`, each half with its own view of the ends."""
    halves = {half.direction: half for half in (egress, ingress)}
    judged = {number: _judge(halves.values(), port, number) for number in protocols}
    outcomes = {number: _outcome(steps) for number, steps in judged.items()}
    protocol = min(protocols, key=lambda number: _ORDER.index(outcomes[number]))
    outcome = outcomes[protocol]
    asked = "ANY" if len(protocols) > 1 else _protocol_name(protocol)
    ends = (_labels(half.own, ", ") for half in (egress, ingress))
    lines = [_RULE, "Tracing From: [{}] => To: [{}] ".format(*ends) + f"Ports: [{port}/{asked}]"]
    for step in judged[protocol]:
        lines += ["", *_reasoning(step, halves[step.direction], port, protocol)]
    lines += ["", f"Final verdict: {outcome.upper()}"]
    return Trace(outcome, protocol, judged[protocol], "\n".join(lines) + "\n")


def _outcome(steps: Sequence[TraceStep]) -> str:
    """Return what becomes of a packet that passes all steps: the worst of their outcomes."""
    return max((step.outcome for step in steps), key=_ORDER.index, default="allowed")


def _judge(halves: Iterable[TraceHalf], port: int, protocol: int) -> tuple[TraceStep, ...]:
    steps: list[TraceStep] = []
    for half in halves:
        own, other, direction, compiler = half.own, half.other, half.direction, half.compiler
        if not own.policed:
            continue
        state = compiler.state
        asked = Question(
            own.end, other.end, direction, protocol, port, state.config.enforcement,
            state.context(), own.host,
        )  # fmt: skip
        judged = verdict(list(state.policies.values()), asked)
        hit = None
        if own.endpoint_id is not None and (own.host or own.endpoint_id in state.local):
            number = compiler.policies.policy_id(own.endpoint_id)
            held = {**compiler.desired().policies, **BUILT_IN}
            packet = Asked(
                other.end.identity, direction, protocol, port, _cidr_side(compiler, other.end)
            )
            hit = policy_lookup(held, number, packet)
        steps.append(TraceStep(direction, judged, hit))
    return tuple(steps)


def _cidr_side(compiler: Compiler, peer: End) -> int:
    """Return the identity of a cluster's address as rules by CIDR see it, 0 if they do not."""
    if peer.net is None or not peer.net.bits:
        return 0
    match = compiler.state.config.cidr_match
    return cidr_lookup(
        compiler.desired().maps[CIDR], peer.identity, peer.net.ip,
        nodes="nodes" in match, pods="pods" in match,
    )  # fmt: skip


def _reasoning(step: TraceStep, half: TraceHalf, port: int, protocol: int) -> Iterator[str]:
    compiler, own, other = half.compiler, half.own, half.other
    way, _, title = _WAYS[step.direction]
    policies = list(compiler.state.policies.values())
    total = sum(1 for policy in policies for spec in policy.specs if _says(spec, step.direction))
    yield f"Resolving {way} policy for [{_labels(own, ' ')}]"
    selected = selecting(policies, own.end.labels, host=own.host)
    chosen = [
        (policy, spec)
        for tier in Tier
        for policy, spec in tier_order(selected, tier)
        if _says(spec, step.direction)
    ]
    context = compiler.state.context()
    receiver = own if step.direction is Direction.INGRESS else other
    for policy, spec in chosen:
        yield f"* Rule {spec.subject}: selected ({policy.key}, {spec.path}{_place(policy)})"
        if policy.audit:
            yield "    In audit mode: reported, not enforced"
        if policy.refusal is not None:
            path, reason = policy.refusal
            yield f"    Refused, so it closes what it selects: {path}: {reason}"
        for rule in spec.rules:
            if rule.direction is step.direction:
                yield from _rule(policy, rule, other, receiver.end, context, port, protocol)
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
    reason = str(step.verdict.reason)
    if step.verdict.reason is Reason.REDIRECT:
        reason = f"{reason} ({step.verdict.parser}): {NO_PROXY}"
    yield f"{title} verdict: {step.outcome}, {reason}"


def _place(policy: Policy) -> str:
    """Return where an ordered tier asks a policy, "" for ordinary ones."""
    if policy.tier is Tier.NORMAL:
        return ""
    return f"; tier {policy.tier.name.capitalize()}, priority {policy.priority}"


def _rule(
    policy: Policy,
    rule: Rule,
    other: TraceEnd,
    receiver: End,
    context: Context,
    port: int,
    protocol: int,
) -> Iterator[str]:
    head = f"    {_VERBS[rule.action]} {_WAYS[rule.direction][1]}"
    if not rule.peers:
        yield f"{head} nobody ({rule.path})"
        return
    matched = False
    for path, group in groupby(rule.peers, key=lambda peer: peer.path):
        peers = list(group)
        here = any(names(peer, other.end, context) for peer in peers)
        matched |= here
        yield f"{head} {_peer(policy, peers[0])} ({path})"
        yield f"      {_who(other.end)} {'found' if here else 'not found'}"
    for part in rule.ports if matched else ():
        found = "matches" if part.matches(protocol, port, receiver.named) else "does not match"
        proxy = f", redirects to the {part.parser} proxy" if part.parser else ""
        yield f"      Port {port}/{_protocol_name(protocol)} {found} ({part.path}){proxy}"
    if matched and not rule.ports:
        yield "      No port restrictions"


def _says(spec: Spec, direction: Direction) -> bool:
    return spec.default_deny(direction) is not None


def _peer(policy: Policy, peer: Peer) -> str:
    written = policy_value(policy, peer.path)
    if isinstance(peer.whom, Selector | None) and isinstance(written, str):
        return f"entity {written}"
    if isinstance(peer.whom, Selector):
        return f"labels {peer.whom}"
    return "anyone" if peer.whom is None else whom_text(peer.whom)


def _who(end: End) -> str:
    """Return what rules see of an end."""
    labels = f"Labels [{' '.join(end.labels.labels)}]"
    return labels if end.net is None else f"{labels} address {end.net}"


def _labels(end: TraceEnd, separator: str) -> str:
    return separator.join(end.end.labels.labels)


def _protocol_name(number: int) -> str:
    return Protocol(number).name if number in set(Protocol) else str(number)
