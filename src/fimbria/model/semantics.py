"""The first judge: what the rules say about a packet, read off them one by one.

Nothing in here is fast or clever. The compiled maps (`datapath.lookup`) and the C in the kernel
must say the same.

Order of decision, per direction:

1. enable-policy "never" switches everything off.
2. The admin tier: of the rules that match, the first one (lowest priority, then object, then place)
   accepts, denies, or passes on to the next tier.
3. Ordinary policies, if any says something about this direction. A rule that denies beats
   everything else; an object that was refused (of any kind; its tier is NORMAL then) closes its
   subjects whatever other rules allow; a rule that redirects to a proxy beats those that only
   allow, and of several proxies one is chosen (model.redirects); what no rule allows is denied if a
   policy with default deny selects the endpoint. The node itself may always reach its pods unless a
   rule denies it.
4. The baseline tier, like the admin tier, for what is still open.
5. Everything else is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from fimbria.datapath.abi import Direction, Identity
from fimbria.model.matching import names
from fimbria.model.peers import NOTHING
from fimbria.model.policy import Action, Tier
from fimbria.model.redirects import ANYONE, BY_CIDR, BY_IDENTITY, closeness

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fimbria.model.labels import LabelSet
    from fimbria.model.peers import Context, Prefix
    from fimbria.model.policy import NamedPort, Policy, PolicyKey, PortSpec, Rule, Spec

INIT_LABEL = "reserved:init"
WORLD_LABELS = frozenset({"reserved:world", "reserved:world-ipv4", "reserved:world-ipv6"})
NO_PORTS: frozenset[NamedPort] = frozenset()


class Mode(StrEnum):
    """enable-policy."""

    DEFAULT = "default"
    ALWAYS = "always"
    NEVER = "never"


class Reason(StrEnum):
    """Why a verdict is what it is."""

    NO_POLICY = "no policy is enforced"
    ALLOW_RULE = "a rule allows it"
    REDIRECT = "a rule sends it to a proxy"
    LOCALHOST = "the node may reach its pods"
    NO_DEFAULT_DENY = "no policy that selects the endpoint denies by default"
    DENY_RULE = "a rule denies it"
    DEFAULT_DENY = "no rule allows it"
    REFUSED = "a policy that selects the endpoint could not be enforced"


@dataclass(frozen=True, slots=True)
class End:
    """One end of a packet's way: its identity with labels, and the ports that its pods name.

    `net` is what rules by CIDR see of it: its address, if it is outside the cluster or
    policy-cidr-match-mode covers its like; the whole family (0.0.0.0/0 or ::/0) for an address of
    the cluster that belongs to nobody known; None for what no CIDR matches.
    """

    identity: int
    labels: LabelSet
    named: frozenset[NamedPort] = frozenset()
    net: Prefix | None = None


@dataclass(frozen=True, slots=True)
class RuleName:
    """A part of a rule that has an id of its own: the object, and the path of the field."""

    policy: PolicyKey
    path: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement. `rules` are all that decide alike, in object order; empty where none did.

    `parser`: the proxy that a redirect goes to; such a packet is allowed as far as L3/L4 goes, and
    dropped by the datapath as long as no proxy listens. Its `rules` are those that want this proxy,
    the one that decides first.
    """

    allowed: bool
    reason: Reason
    rules: tuple[RuleName, ...] = ()
    parser: str = ""


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What holds for one endpoint and direction before any rule is looked at."""

    enforced: bool
    default_deny: bool
    closed: bool


def enforcement(
    specs: Iterable[tuple[Policy, Spec]], direction: Direction, mode: Mode, *, init: bool
) -> Enforcement:
    """Return how the ordinary tier holds in a direction, given the specs that select the endpoint.

    Specs of other tiers say nothing here. `init`: the endpoint has no identity yet; it is always
    enforced.
    """
    if mode is Mode.NEVER:
        return Enforcement(False, False, False)
    said = [(policy, deny) for policy, spec in specs
            if policy.tier is Tier.NORMAL
            and (deny := spec.default_deny(direction)) is not None]  # fmt: skip
    always = init or mode is Mode.ALWAYS
    return Enforcement(
        enforced=always or bool(said),
        default_deny=always or any(deny for _, deny in said),
        closed=any(policy.refusal is not None for policy, _ in said),
    )


def selecting(
    policies: Sequence[Policy], labels: LabelSet, *, host: bool = False
) -> list[tuple[Policy, Spec]]:
    """Return the specs that select an endpoint (`host`: this node), in object order."""
    return [
        (policy, spec)
        for policy in sorted(policies, key=lambda policy: policy.key)
        for spec in policy.specs
        if spec.host is host and spec.subject.matches(labels)
    ]


def tier_order(specs: Iterable[tuple[Policy, Spec]], tier: Tier) -> list[tuple[Policy, Spec]]:
    """Return the specs of an ordered tier, first asked first."""
    return sorted(
        (pair for pair in specs if pair[0].tier is tier),
        key=lambda pair: (pair[0].priority, pair[0].key),
    )


@dataclass(frozen=True, slots=True)
class Question:
    """One packet as one of its ends sees it.

    `subject` is the endpoint whose policy is asked, `peer` the other end; `port` is the destination
    port, for ICMP the type. `host`: the subject is the node itself.
    """

    subject: End
    peer: End
    direction: Direction
    protocol: int
    port: int
    mode: Mode = Mode.DEFAULT
    context: Context = NOTHING
    host: bool = False


def verdict(policies: Sequence[Policy], asked: Question, *, shadow: bool = False) -> Verdict:
    """Judge a packet at one of its ends.

    Policies in audit mode count only if `shadow`. The node's own traffic is judged by host policies
    alone, and `enable-policy` other than "never" does not change that.
    """
    specs = [
        pair
        for pair in selecting(policies, asked.subject.labels, host=asked.host)
        if shadow or not pair[0].audit
    ]
    if asked.mode is Mode.NEVER:
        return Verdict(True, Reason.NO_POLICY)
    first = _tier(tier_order(specs, Tier.ADMIN), asked)
    if first is not None:
        return first
    mode = Mode.DEFAULT if asked.host else asked.mode
    init = INIT_LABEL in asked.subject.labels.values
    state = enforcement(specs, asked.direction, mode, init=init)
    if state.enforced:
        found = _ordinary([pair for pair in specs if pair[0].tier is Tier.NORMAL], state, asked)
        if found is not None:
            return found
    last = _tier(tier_order(specs, Tier.BASELINE), asked)
    if last is not None:
        return last
    said = any(spec.default_deny(asked.direction) is not None for _, spec in specs)
    return Verdict(True, Reason.NO_DEFAULT_DENY if said else Reason.NO_POLICY)


def _tier(specs: list[tuple[Policy, Spec]], asked: Question) -> Verdict | None:
    """Return what an ordered tier's first matching rule decides; None: on to the next tier."""
    for policy, spec in specs:
        for rule in spec.rules:
            if rule.direction is not asked.direction:
                continue
            names = tuple(RuleName(policy.key, part.path) for part in _matching(rule, asked))
            if names and rule.action is Action.PASS:
                return None
            if names:
                reason = Reason.DENY_RULE if rule.deny else Reason.ALLOW_RULE
                return Verdict(not rule.deny, reason, names)
    return None


def _ordinary(
    specs: list[tuple[Policy, Spec]], state: Enforcement, asked: Question
) -> Verdict | None:
    """Return what ordinary policies decide; None if they leave it open."""
    # A node does not close itself to its own processes.
    from_host = asked.direction is Direction.INGRESS and asked.peer.identity == Identity.HOST
    denying: list[RuleName] = []
    allowing: list[RuleName] = []
    redirects: list[tuple[tuple[int, int], RuleName, str]] = []
    for policy, spec in specs:
        for rule in spec.rules:
            if rule.direction is asked.direction:
                for part in _matching(rule, asked):
                    name = RuleName(policy.key, part.path)
                    if rule.deny:
                        denying.append(name)
                    elif part.parser:
                        close = closeness(part, asked.port, _how_named(rule, part, asked))
                        redirects.append((close, name, part.parser))
                    else:
                        allowing.append(name)
    if denying:
        return Verdict(False, Reason.DENY_RULE, tuple(denying))
    if state.closed:
        return Verdict(True, Reason.LOCALHOST) if from_host else Verdict(False, Reason.REFUSED)
    if redirects:
        redirects.sort(key=lambda one: one[0], reverse=True)
        parser = redirects[0][2]
        chosen = tuple(name for _, name, its in redirects if its == parser)
        return Verdict(True, Reason.REDIRECT, chosen, parser)
    if allowing:
        return Verdict(True, Reason.ALLOW_RULE, tuple(allowing))
    if from_host:
        return Verdict(True, Reason.LOCALHOST)
    return Verdict(False, Reason.DEFAULT_DENY) if state.default_deny else None


def _matching(rule: Rule, asked: Question) -> list[PortSpec]:
    if not any(names(one, asked.peer, asked.context) for one in rule.peers):
        return []
    named: frozenset[NamedPort] = frozenset()
    if any(part.name for part in rule.parts):
        named = _port_names(rule, asked)
    return [part for part in rule.parts if part.matches(asked.protocol, asked.port, named)]


def _how_named(rule: Rule, part: PortSpec, asked: Question) -> int:
    """Return how a rule that matches names the peer. A port's name means one at somebody."""
    if any(one.whom is None for one in rule.peers):
        by_name = part.name and asked.direction is Direction.EGRESS
        return BY_IDENTITY if by_name else ANYONE
    peer = asked.peer
    if WORLD_LABELS.isdisjoint(peer.labels.values):
        peer = replace(peer, net=None)
    return BY_IDENTITY if any(names(one, peer, asked.context) for one in rule.peers) else BY_CIDR


def _port_names(rule: Rule, asked: Question) -> frozenset[NamedPort]:
    """Return what a rule's names mean: at the pod that receives, if the rule names it as a pod.

    Where a rule by CIDR matches a pod's address (policy-cidr-match-mode), it says nothing of ports
    that pods name.
    """
    if asked.direction is Direction.INGRESS:
        return asked.subject.named
    pod = replace(asked.peer, net=None)
    return pod.named if any(names(one, pod, asked.context) for one in rule.peers) else frozenset()
