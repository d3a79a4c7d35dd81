"""`policy trace`: the reasoning about one packet, rule by rule, at both of its ends.

    both ends, each half in its own view ─► TraceStep: the rules' verdict and the map's ─► Trace

The verdict is the first judge's, and where an end is a pod of this node, the entry of its policy
map that decides (the second judge's) is quoted beside it. `trace_text` puts it into words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fimbria.analysis.explain import hit_text
from fimbria.analysis.trace_text import WORDS, heading, reasoning
from fimbria.compile.delta import CIDR
from fimbria.compile.ids import BUILT_IN
from fimbria.datapath.abi import Direction
from fimbria.datapath.lookup import Asked, Hit, cidr_lookup, policy_lookup
from fimbria.model.policy import Protocol
from fimbria.model.semantics import End, Question, Reason, Verdict, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fimbria.compile.node import Compiler

ANY = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
_ORDER = ("allowed", "redirected", "denied")


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
                    "direction": WORDS[step.direction].name,
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
    lines = [heading(egress.own, ingress.own, port, "ANY" if len(protocols) > 1 else protocol)]
    for step in judged[protocol]:
        lines += ["", *reasoning(step, halves[step.direction], port, protocol)]
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
