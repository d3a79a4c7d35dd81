"""Datapath events as documents: numbers become names, and what the agent knows is added.

The form is that of `GET /v1/monitor`: the fields of `struct event`, with `reason`, `point`,
`ct_state`, `match`, `action`, `direction` and `tcp_flags` as words, addresses as text, and
`interface`, `src_pod`, `dst_pod`, `src_labels`, `dst_labels`, `explanation` from the agent. A
verdict of a shadow policy, which differs from what was done, has `shadow`.
"""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Any, Protocol

from fimbria.datapath.abi import (
    CtState,
    Direction,
    DropReason,
    Event,
    EventFlags,
    EventType,
    PolicyMatch,
    TracePoint,
)
from fimbria.datapath.reasons import REASONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TYPES = {
    EventType.DROP: "drop",
    EventType.TRACE: "trace",
    EventType.POLICY_VERDICT: "policy-verdict",
}
POINTS = {
    point: point.name.lower().replace("_", "-").replace("to-lxc", "to-endpoint")
    .replace("from-lxc", "from-endpoint")
    for point in TracePoint
}  # fmt: skip
DIRECTIONS = {Direction.INGRESS: "ingress", Direction.EGRESS: "egress"}
STATES = {state: state.name.lower() for state in CtState}
MATCHES = {
    PolicyMatch.NONE: "none",
    PolicyMatch.L3_ONLY: "L3-Only",
    PolicyMatch.L3_L4: "L3-L4",
    PolicyMatch.L4_ONLY: "L4-Only",
    PolicyMatch.ALL: "all",
    PolicyMatch.L3_PROTO: "L3-Proto",
    PolicyMatch.PROTO_ONLY: "Proto-Only",
}
TCP_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
POLICY_REASONS = (DropReason.POLICY, DropReason.POLICY_DENY, DropReason.NO_PROXY)


class Names(Protocol):
    """What the agent knows about the numbers in an event."""

    def interface(self, ifindex: int) -> str:
        """Return a device's name, "" if there is none."""
        ...

    def pod(self, address: str) -> str:
        """Return namespace/name of the pod that has an address, "" if none has."""
        ...

    def labels(self, identity: int) -> Sequence[str]:
        """Return an identity's labels."""
        ...

    def rule(self, event: Event) -> dict[str, Any]:
        """Return kind, namespace, name, path and text of the rule that decided, or why none did."""
        ...


def address_text(raw: bytes) -> str:
    """Return an `addr` (16 bytes, IPv4 v4-mapped) in its usual notation."""
    address = IPv6Address(raw)
    return str(address.ipv4_mapped or address)


def document(event: Event, names: Names, wall: Callable[[int], float]) -> dict[str, Any]:
    """Return an event as a document; `wall` turns the datapath's ns into seconds since 1970."""
    source, destination = address_text(event.saddr), address_text(event.daddr)
    found: dict[str, Any] = {
        "time": wall(event.time),
        "type": TYPES.get(_enum(EventType, event.type), event.type),
        "source": event.source,
        "direction": DIRECTIONS.get(_enum(Direction, event.direction)),
        "ct_state": STATES.get(_enum(CtState, event.ct_state), event.ct_state),
        "saddr": source,
        "daddr": destination,
        "protocol": event.protocol,
        "tcp_flags": tcp_flags(event.tcp_flags),
        "src_label": event.src_label,
        "dst_label": event.dst_label,
        "dst_id": event.dst_id,
        "rule": event.rule,
        "policy_id": event.policy_id,
        "ifindex": event.ifindex,
        "interface": names.interface(event.ifindex),
        "length": event.length,
        "src_pod": names.pod(source),
        "dst_pod": names.pod(destination),
        "src_labels": list(names.labels(event.src_label)),
        "dst_labels": list(names.labels(event.dst_label)),
    }
    if event.flags & EventFlags.PORTS:
        found["sport"], found["dport"] = event.sport, event.dport
    if event.flags & EventFlags.IPV6:
        found["ipv6"] = True
    if event.type == EventType.DROP:
        found["reason"] = reason(event.subtype)
        found["reason_number"] = event.subtype
        found["file"], found["line"] = event.file, event.line
        if event.subtype in POLICY_REASONS:
            found["explanation"] = names.rule(event)
            found["match"] = MATCHES.get(_enum(PolicyMatch, event.match), event.match)
    elif event.type == EventType.TRACE:
        found["point"] = POINTS.get(_enum(TracePoint, event.subtype), str(event.subtype))
    elif event.type == EventType.POLICY_VERDICT:
        found["match"] = MATCHES.get(_enum(PolicyMatch, event.match), event.match)
        found["action"] = action(event)
        found["verdict"] = event.verdict
        if event.flags & EventFlags.SHADOW:
            found["shadow"] = True
        if event.verdict > 0:
            found["proxy_port"] = event.verdict
        found["explanation"] = names.rule(event)
        if event.verdict < 0:
            found["reason"] = reason(-event.verdict)
    return found


def action(event: Event) -> str:
    """Return what a verdict means: allow, deny, redirect or audit."""
    if event.flags & EventFlags.AUDITED:
        return "audit"
    if event.verdict < 0:
        return "deny"
    return "redirect" if event.verdict else "allow"


def reason(number: int) -> str:
    """Return a drop reason's words."""
    return REASONS.get(number, f"reason {number}")


def tcp_flags(bits: int) -> str:
    """Return TCP flags as words: "SYN, ACK"."""
    return ", ".join(name for bit, name in enumerate(TCP_FLAGS) if bits >> bit & 1)


def _enum(kind: Any, number: int) -> Any:
    try:
        return kind(number)
    except ValueError:
        return None
