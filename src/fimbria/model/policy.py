"""Policies as values: what a manifest says once read, whatever its kind.

    Policy ── Spec (whom it is about) ── Rule (direction, allow or deny) ── Peer, PortSpec

Every part remembers the path of the field that it came from, so that a verdict can be traced to it.
The language is the one of NetworkPolicy, ClusterNetworkPolicy, CiliumNetworkPolicy and
CiliumClusterwideNetworkPolicy. What this version does not enforce at all is not represented: such
an object carries a refusal instead. What it knows but cannot do yet (layer 7, toFQDNs) is
represented, denied by the datapath, and named in `Policy.pending`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from fimbria.datapath.abi import Direction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.model.peers import Whom
    from fimbria.model.selector import Selector

DIRECTIONS = (Direction.INGRESS, Direction.EGRESS)


class Protocol(IntEnum):
    """IP protocols that rules can name (IANA numbers)."""

    ICMP = 1
    TCP = 6
    UDP = 17
    ICMPV6 = 58
    SCTP = 132


ICMP, TCP, UDP, ICMPV6, SCTP = Protocol

AUDIT_ANNOTATION = "fimbria.io/policy-audit-mode"
"""Set to "true" on a policy of any kind, it is judged and reported, and not enforced.

"false" is as if it were not set; capitals do not count. With any other value the policy is refused.
"""

FORCE_ANNOTATION = "fimbria.io/force"
"""Set to "true" on a policy about nodes, it is taken up although it cuts what a node needs."""

MAX_REASON = 300
"""Characters of a reason why a policy is refused."""

NamedPort = tuple[str, int, int]
"""A port that a pod names: name, protocol number, port number."""


class PolicyError(Exception):
    """A policy object that cannot be enforced: which field, and why.

    A reason may quote what the field holds, so it is cut off where it gets too long for a status.
    """

    def __init__(self, path: str, reason: str) -> None:
        if len(reason) > MAX_REASON:
            reason = f"{reason[: MAX_REASON - 1]}…"
        super().__init__(f"{path}: {reason}" if path else reason)
        self.path = path
        self.reason = reason


class PolicyKey(NamedTuple):
    """What an object is called; sorts in the order in which objects are considered."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {where}{self.name}"


@dataclass(frozen=True, slots=True)
class PortSpec:
    """Protocols and ports of a rule.

    `protocols` are IP protocol numbers, empty for every protocol. `ports` is (first, last), both
    included, None for all of the protocol; for ICMP it is the type. `name` is resolved at the pod
    that receives. `parser` names the proxy that the traffic is redirected to ("http", "kafka",
    "dns", "tls", an l7proto, "listener:…"), "" for none.
    """

    path: str
    protocols: tuple[int, ...] = ()
    ports: tuple[int, int] | None = None
    name: str = ""
    parser: str = ""

    def matches(self, protocol: int, port: int, named: frozenset[NamedPort]) -> bool:
        """Return whether a packet's protocol and destination port are meant.

        `named` are the ports that the receiving pods name.
        """
        if not self.protocols:
            return True
        if protocol not in self.protocols:
            return False
        if self.name:
            return (self.name, protocol, port) in named
        return self.ports is None or self.ports[0] <= port <= self.ports[1]


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a rule (`model.peers`); None for anyone at all."""

    path: str
    whom: Whom | None


class Action(StrEnum):
    """What a rule does with what it matches. PASS (ClusterNetworkPolicy): on to the next tier."""

    ALLOW = "allow"
    DENY = "deny"
    PASS = "pass"


class Tier(IntEnum):
    """In which order policies are asked: the first tier that decides, decides."""

    ADMIN = 0
    NORMAL = 1
    BASELINE = 2


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule. Without peers it concerns nobody; without ports, all traffic of its peers."""

    path: str
    direction: Direction
    action: Action
    peers: tuple[Peer, ...]
    ports: tuple[PortSpec, ...] = ()

    @property
    def deny(self) -> bool:
        """Return whether it denies."""
        return self.action is Action.DENY

    @property
    def parts(self) -> tuple[PortSpec, ...]:
        """Return what gets a rule id each: the ports, or the rule as a whole if it has none."""
        return self.ports or (PortSpec(self.path),)


@dataclass(frozen=True, slots=True)
class Spec:
    """Whom a policy is about and what it says about them.

    `ingress` and `egress`: None if nothing is said about that direction, True if what is not
    allowed is denied, False if the rest stays open. In the tiers beside NORMAL it is False or None.
    `host`: it is about nodes, and `subject` selects them by their labels (source "node").
    """

    path: str
    subject: Selector
    ingress: bool | None
    egress: bool | None
    rules: tuple[Rule, ...] = ()
    host: bool = False

    def default_deny(self, direction: Direction) -> bool | None:
        """Return `ingress` or `egress`."""
        return self.ingress if direction is Direction.INGRESS else self.egress


@dataclass(frozen=True, slots=True)
class Policy:
    """One object. With a `refusal`, its specs have no rules and close what they name instead."""

    key: PolicyKey
    specs: tuple[Spec, ...]
    refusal: tuple[str, str] | None = None
    """Field path and reason, if the object cannot be enforced."""
    document: Mapping[str, Any] = field(default_factory=dict[str, Any], compare=False, repr=False)
    """The object as it was read; what explanations quote."""
    tier: Tier = Tier.NORMAL
    """NORMAL for every refused object, so that it closes."""
    priority: int = 0
    """Among the policies of a tier other than NORMAL: the lowest is asked first."""
    audit: bool = False
    """Judged in the shadow policy only (annotation AUDIT_ANNOTATION)."""
    pending: tuple[tuple[str, str], ...] = ()
    """(path, reason) of what is known but not enforced yet; its traffic is denied meanwhile."""
    forced: bool = False
    """Taken up whatever it cuts (annotation FORCE_ANNOTATION)."""

    @property
    def rules(self) -> int:
        """Return how many rules it has."""
        return sum(len(spec.rules) for spec in self.specs)
