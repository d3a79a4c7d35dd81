"""What a connectivity test is made of: places, probes, expectations, scenarios. Values only.

A scenario is a list of steps; a step applies policies and says what must then be reachable. What
must not be reachable says at which end it is refused and how, because "no answer" alone does not
prove that the policy was the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

Document = dict[str, Any]


class Side(Enum):
    """What policy says at one end. The values are the drop reason's number, 0 for none."""

    ALLOW = 0
    DEFAULT_DENY = 133
    DENY_RULE = 181


@dataclass(frozen=True)
class Expect:
    """The verdict at the sender's end, and at the receiver's if the sender's lets it go."""

    egress: Side = Side.ALLOW
    ingress: Side = Side.ALLOW

    @property
    def reached(self) -> bool:
        """True if the other end must answer."""
        return self.egress is Side.ALLOW and self.ingress is Side.ALLOW

    @property
    def direction(self) -> str:
        """Where it is refused: "egress" or "ingress"."""
        return "ingress" if self.egress is Side.ALLOW else "egress"

    @property
    def refusal(self) -> Side:
        """How it is refused; ALLOW if it is not."""
        return self.ingress if self.egress is Side.ALLOW else self.egress

    def __str__(self) -> str:
        if self.reached:
            return "allowed"
        how = "by a deny rule" if self.refusal is Side.DENY_RULE else "by default"
        return f"denied {how} at {self.direction}"


ALLOW = Expect()
EGRESS_DENIED = Expect(egress=Side.DEFAULT_DENY)
EGRESS_DENY_RULE = Expect(egress=Side.DENY_RULE)
INGRESS_DENIED = Expect(ingress=Side.DEFAULT_DENY)
INGRESS_DENY_RULE = Expect(ingress=Side.DENY_RULE)


class Probe(NamedTuple):
    """What is tried: a protocol and a port (0 for ICMP)."""

    kind: str
    port: int = 0

    def __str__(self) -> str:
        return f"{self.port}/{self.kind}" if self.port else self.kind


class Action(NamedTuple):
    """One attempt of a place to reach another, over one address family (4 or 6)."""

    source: str
    destination: str
    probe: Probe
    family: int
    expect: Expect

    def __str__(self) -> str:
        return f"{self.source} -> {self.destination} {self.probe} IPv{self.family}"


class Check(NamedTuple):
    """Every source tries every destination with every probe; one expectation for all."""

    sources: tuple[str, ...]
    destinations: tuple[str, ...]
    probes: tuple[Probe, ...]
    expect: Expect


@dataclass(frozen=True)
class Step:
    """Policies that are in force (all others of the test are not), and what holds then.

    `labels` are set on places before, and taken off again after the step.
    """

    policies: tuple[Document, ...]
    checks: tuple[Check, ...]
    labels: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])


@dataclass(frozen=True)
class Scenario:
    """A named claim about the network. The name is what `--test` matches."""

    name: str
    claim: str
    steps: tuple[Step, ...]


def single(
    name: str, claim: str, policies: Document | tuple[Document, ...], *checks: Check
) -> Scenario:
    """Make a scenario of one step; one policy may stand without a tuple."""
    documents = policies if isinstance(policies, tuple) else (policies,)
    return Scenario(name, claim, (Step(documents, checks),))


def probes(text: str) -> tuple[Probe, ...]:
    """Parse `8080 8053/udp icmp`."""
    found: list[Probe] = []
    for word in text.split():
        port, _, kind = word.partition("/")
        found.append(Probe("icmp") if word == "icmp" else Probe(kind or "tcp", int(port)))
    return tuple(found)


def check(sources: str, destinations: str, what: str, expect: Expect) -> Check:
    """Make a check of blank-separated names: `check("client", "echo-same", "8080", ALLOW)`."""
    return Check(tuple(sources.split()), tuple(destinations.split()), probes(what), expect)


def actions(one: Check, families: dict[str, set[int]]) -> list[Action]:
    """Expand a check; `families` has the address families of each place that exists here."""
    return [
        Action(source, destination, probe, family, one.expect)
        for source in one.sources
        for destination in one.destinations
        if source != destination and source in families and destination in families
        for probe in one.probes
        for family in sorted(families[source] & families[destination])
    ]
