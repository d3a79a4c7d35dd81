"""Compare what happened with what was expected, and find the drop events that tell why.

Pure: results of probes and events of agents in, outcomes out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fimbria.connectivity.cluster import Spot
    from fimbria.connectivity.model import Action, Document

PROTOCOLS = {("tcp", 4): 6, ("udp", 4): 17, ("icmp", 4): 1, ("tcp", 6): 6, ("udp", 6): 17}
ICMPV6 = 58
REACHED = ("reached", "refused")
"""A refused connection is an answer of the other end: the network let both packets through."""


@dataclass(frozen=True)
class Outcome:
    """One action, what came of it, and what is wrong with that ("" if nothing is)."""

    action: Action
    result: str
    problem: str
    events: tuple[Document, ...] = ()


def judge(
    action: Action, result: Document, spots: Mapping[str, Spot], events: Sequence[Document]
) -> Outcome:
    """Judge one action. `events` are what the nodes' datapaths reported during the step.

    A refusal must be seen in the event that it should have made: at the right end, for the right
    reason. An answer must come to the address that the source really has.
    """
    what = str(result["result"])
    related = tuple(one for one in events if concerns(one, action, spots))
    problem = ""
    if action.expect.reached:
        seen, own = result.get("saw"), spots[action.source].addresses
        if what not in REACHED:
            problem = f"expected an answer, got {what}{_because(result)}"
        elif (
            seen and spots[action.source].pod and spots[action.destination].pod and seen not in own
        ):
            problem = f"the receiver saw {seen} instead of the sender's own address"
    elif what in REACHED:
        problem = f"expected it to be {action.expect}, but it was answered"
    elif not any(explains(one, action) for one in related):
        problem = f"no answer, but no event that says it was {action.expect}"
    return Outcome(action, what, problem, related if problem else ())


def concerns(event: Document, action: Action, spots: Mapping[str, Spot]) -> bool:
    """Say whether an event is about a packet of this action, from source to destination."""
    protocol = PROTOCOLS.get((action.probe.kind, action.family), ICMPV6)
    if event.get("type") != "drop" or event.get("protocol") != protocol:
        return False
    if event.get("daddr") not in spots[action.destination].addresses:
        return False
    source = spots[action.source]
    if source.pod and event.get("saddr") not in source.addresses:
        return False
    return not action.probe.port or event.get("dport") == action.probe.port


def explains(event: Document, action: Action) -> bool:
    """Say whether an event is the refusal that was expected."""
    expect, seen = action.expect, (event.get("reason_number"), event.get("direction"))
    return seen == (expect.refusal.value, expect.direction)


def _because(result: Document) -> str:
    return f" ({result['error']})" if result.get("error") else ""
