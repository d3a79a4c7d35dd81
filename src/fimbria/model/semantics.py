"""Judge one: the verdict straight from the rules, as a reader of the policy language would say.

Slow and plain on purpose. The compiler and the C are held against it, so nothing here may know
of maps, shapes or identities as the kernel sees them.

1. No spec selects the subject in this direction (or enforcement is `never`): allowed.
2. Any deny rule that matches: denied. 3. Any allow rule that matches: allowed.
4. The node itself may always reach its pods. 5. A spec with default deny selects the subject:
denied. Otherwise allowed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from fimbria.datapath.abi import Identity
from fimbria.model.policy import (
    Direction,
    Enforcement,
    Peer,
    Policy,
    PolicyKey,
    Port,
    Protocol,
    Rule,
    Spec,
)

if TYPE_CHECKING:
    from fimbria.model.selector import LabelIndex

NamedPorts = Callable[[Protocol, str], frozenset[int]]
"""Numbers that a port name stands for: the subject's at ingress, the peers' at egress."""


class Reason(StrEnum):
    ALLOW_RULE = "allow rule"
    DENY_RULE = "deny rule"
    DEFAULT_DENY = "default deny"
    NOT_SELECTED = "not selected"
    NO_POLICY = "no policy"


@dataclass(frozen=True, slots=True)
class Verdict:
    """`policy` and `path` name the rule that decided, where one did."""

    allowed: bool
    reason: Reason
    policy: PolicyKey | None = None
    path: str = ""


@dataclass(frozen=True, slots=True)
class Party:
    """One side of a packet: its identity and that identity's labels."""

    identity: int
    labels: LabelIndex


def peer_matches(peer: Peer, party: Party) -> bool:
    if peer.anyone:
        return True
    if party.identity in peer.identities:
        return True
    return peer.selector is not None and peer.selector.matches(party.labels)


def port_matches(port: Port, protocol: Protocol, number: int, named: NamedPorts) -> bool:
    """`number` is the destination port, for ICMP the type."""
    if port.protocol not in (Protocol.ANY, protocol):
        return False
    if port.name:
        return number in named(port.protocol, port.name)
    return port.is_all or port.first <= number <= port.last


def matching_path(
    rule: Rule, party: Party, protocol: Protocol, number: int, named: NamedPorts
) -> str | None:
    """Path of the part of the rule that the packet matches; None if it does not."""
    if rule.peers is not None and not any(peer_matches(peer, party) for peer in rule.peers):
        return None
    if rule.ports is None:
        return rule.path
    for port in rule.ports:
        if port_matches(port, protocol, number, named):
            return port.path
    return None


def selecting(
    policies: Iterable[Policy], subject: LabelIndex, direction: Direction
) -> list[tuple[PolicyKey, Spec]]:
    """The specs that speak about the subject in this direction, in the policies' order."""
    return [
        (policy.key, spec)
        for policy in sorted(policies, key=lambda policy: policy.key)
        for spec in policy.specs
        if direction in spec.sections and spec.subject.matches(subject)
    ]


def verdict(
    policies: Iterable[Policy],
    subject: Party,
    peer: Party,
    direction: Direction,
    protocol: Protocol,
    number: int,
    named: NamedPorts,
    enforcement: Enforcement = Enforcement.DEFAULT,
) -> Verdict:
    """May the subject receive from (ingress) or send to (egress) the peer?"""
    if enforcement is Enforcement.NEVER:
        return Verdict(True, Reason.NO_POLICY)
    specs = selecting(policies, subject.labels, direction)
    init = subject.identity == Identity.INIT
    if not specs and enforcement is Enforcement.DEFAULT and not init:
        return Verdict(True, Reason.NOT_SELECTED)
    for deny in (True, False):
        for key, spec in specs:
            for rule in spec.rules:
                if rule.direction is direction and rule.deny is deny:
                    path = matching_path(rule, peer, protocol, number, named)
                    if path is not None:
                        reason = Reason.DENY_RULE if deny else Reason.ALLOW_RULE
                        return Verdict(not deny, reason, key, path)
    if direction is Direction.INGRESS and peer.identity == Identity.HOST:
        return Verdict(True, Reason.ALLOW_RULE)
    closed = any(direction in spec.default_deny for _, spec in specs)
    if closed or enforcement is Enforcement.ALWAYS or init:
        return Verdict(False, Reason.DEFAULT_DENY)
    return Verdict(True, Reason.NOT_SELECTED)
