"""The first judge: what the rules say about a packet, read off them one by one.

Nothing in here is fast or clever. The compiled maps (`datapath.lookup`) and the C in the kernel
must say the same.

Order of decision, per direction: the enforcement mode may switch policy off; an object that was
refused closes its subjects; a rule that denies beats every rule that allows; what no rule allows is
denied if a policy with default deny selects the endpoint. The node itself may always reach its pods
unless a rule denies it.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from fimbria.datapath.abi import Direction, Identity

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fimbria.model.labels import LabelSet
    from fimbria.model.policy import NamedPort, Peer, Policy, PolicyKey, PortSpec, Rule, Spec

INIT_LABEL = "reserved:init"


class Mode(StrEnum):
    """enable-policy."""

    DEFAULT = "default"
    ALWAYS = "always"
    NEVER = "never"


class Reason(StrEnum):
    """Why a verdict is what it is."""

    NO_POLICY = "no policy is enforced"
    ALLOW_RULE = "a rule allows it"
    LOCALHOST = "the node may reach its pods"
    NO_DEFAULT_DENY = "no policy that selects the endpoint denies by default"
    DENY_RULE = "a rule denies it"
    DEFAULT_DENY = "no rule allows it"
    REFUSED = "a policy that selects the endpoint could not be enforced"


ALLOWING = (Reason.NO_POLICY, Reason.ALLOW_RULE, Reason.LOCALHOST, Reason.NO_DEFAULT_DENY)


@dataclass(frozen=True, slots=True)
class End:
    """One end of a packet's way: its identity with labels, and the ports that its pods name."""

    identity: int
    labels: LabelSet
    named: frozenset[NamedPort] = frozenset()


@dataclass(frozen=True, slots=True)
class RuleName:
    """A part of a rule that has an id of its own: the object, and the path of the field."""

    policy: PolicyKey
    path: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement. `rules` are all that decide alike, in object order; empty where none did."""

    allowed: bool
    reason: Reason
    rules: tuple[RuleName, ...] = ()


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What holds for one endpoint and direction before any rule is looked at."""

    enforced: bool
    default_deny: bool
    closed: bool


def enforcement(
    specs: Iterable[tuple[Policy, Spec]], direction: Direction, mode: Mode, *, init: bool
) -> Enforcement:
    """Return how a direction is enforced, given the specs that select the endpoint.

    `init`: the endpoint has no identity yet; it is always enforced.
    """
    if mode is Mode.NEVER:
        return Enforcement(False, False, False)
    said = [(policy, deny) for policy, spec in specs
            if (deny := spec.default_deny(direction)) is not None]  # fmt: skip
    always = init or mode is Mode.ALWAYS
    return Enforcement(
        enforced=always or bool(said),
        default_deny=always or any(deny for _, deny in said),
        closed=any(policy.refusal is not None for policy, _ in said),
    )


def selecting(policies: Sequence[Policy], labels: LabelSet) -> list[tuple[Policy, Spec]]:
    """Return the specs that select an endpoint, in object order."""
    return [
        (policy, spec)
        for policy in sorted(policies, key=lambda policy: policy.key)
        for spec in policy.specs
        if spec.subject.matches(labels)
    ]


def verdict(
    policies: Sequence[Policy],
    subject: End,
    peer: End,
    direction: Direction,
    protocol: int,
    port: int,
    mode: Mode = Mode.DEFAULT,
) -> Verdict:
    """Judge a packet at one of its ends.

    `subject` is the endpoint whose policy is asked, `peer` the other end; `port` is the destination
    port, for ICMP the type.
    """
    specs = selecting(policies, subject.labels)
    init = INIT_LABEL in subject.labels.values
    state = enforcement(specs, direction, mode, init=init)
    if not state.enforced:
        return Verdict(True, Reason.NO_POLICY)
    from_host = direction is Direction.INGRESS and peer.identity == Identity.HOST
    if state.closed:
        return Verdict(True, Reason.LOCALHOST) if from_host else Verdict(False, Reason.REFUSED)
    receiver = subject if direction is Direction.INGRESS else peer
    denying: list[RuleName] = []
    allowing: list[RuleName] = []
    for policy, spec in specs:
        for rule in spec.rules:
            if rule.direction is direction:
                names = [
                    RuleName(policy.key, part.path)
                    for part in _matching(rule, peer, protocol, port, receiver.named)
                ]
                (denying if rule.deny else allowing).extend(names)
    if denying:
        return Verdict(False, Reason.DENY_RULE, tuple(denying))
    if allowing:
        return Verdict(True, Reason.ALLOW_RULE, tuple(allowing))
    if from_host:
        return Verdict(True, Reason.LOCALHOST)
    if not state.default_deny:
        return Verdict(True, Reason.NO_DEFAULT_DENY)
    return Verdict(False, Reason.DEFAULT_DENY)


def _matching(
    rule: Rule, peer: End, protocol: int, port: int, named: frozenset[NamedPort]
) -> list[PortSpec]:
    if not any(_selects(one, peer) for one in rule.peers):
        return []
    return [part for part in rule.parts if part.matches(protocol, port, named)]


def _selects(peer: Peer, end: End) -> bool:
    return peer.selector is None or peer.selector.matches(end.labels)
