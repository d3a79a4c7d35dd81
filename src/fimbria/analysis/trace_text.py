"""What `policy trace` prints: its steps in words, in the form of Cilium's command of that name."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from fimbria.analysis.explain import explain_rule, hit_text, policy_value
from fimbria.analysis.peertext import whom_text
from fimbria.datapath.abi import Direction
from fimbria.model.matching import names
from fimbria.model.policy import Action, Protocol, Tier
from fimbria.model.selector import Selector
from fimbria.model.semantics import Reason, selecting, tier_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.trace import TraceEnd, TraceHalf, TraceStep
    from fimbria.model.peers import Context
    from fimbria.model.policy import Peer, Policy, Rule, Spec
    from fimbria.model.semantics import End

NO_PROXY = "dropped, because no proxy is running"
_RULE = "-" * 64
_FOUND = {
    Reason.ALLOW_RULE: "Found allow rule",
    Reason.DENY_RULE: "Found deny rule",
    Reason.REDIRECT: "Found redirect rule",
}
_VERBS = {Action.ALLOW: "Allows", Action.DENY: "Denies", Action.PASS: "Passes on"}


class Words(NamedTuple):
    """What a direction is called: as a field, before its peer, at the start of a line."""

    name: str
    preposition: str
    title: str


WORDS = {
    Direction.EGRESS: Words("egress", "to", "Egress"),
    Direction.INGRESS: Words("ingress", "from", "Ingress"),
}


def heading(source: TraceEnd, destination: TraceEnd, port: int, protocol: int | str) -> str:
    """Return the first lines: which packet it is about."""
    ends = f"From: [{_labels(source, ', ')}] => To: [{_labels(destination, ', ')}]"
    asked = protocol if isinstance(protocol, str) else _protocol_name(protocol)
    return f"{_RULE}\nTracing {ends} Ports: [{port}/{asked}]"


def reasoning(step: TraceStep, half: TraceHalf, port: int, protocol: int) -> Iterator[str]:
    """Yield the lines about one end: the rules that were asked, and what decided."""
    compiler, own, other = half.compiler, half.own, half.other
    words = WORDS[step.direction]
    policies = list(compiler.state.policies.values())
    total = sum(1 for policy in policies for spec in policy.specs if _says(spec, step.direction))
    yield f"Resolving {words.name} policy for [{_labels(own, ' ')}]"
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
    yield f"{words.title} verdict: {step.outcome}, {reason}"


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
    head = f"    {_VERBS[rule.action]} {WORDS[rule.direction].preposition}"
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
