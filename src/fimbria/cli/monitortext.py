"""Datapath events as lines of text: the words of Cilium's monitor, then the explanation.

An event is the agent's document: the fields of `struct event` by name, numbers decoded to names
(`type`, `reason`, `point`, `direction`, `ct_state`, `match`, `action`, `tcp_flags`), addresses as
text, and what the agent knows about it (`interface`, `src_pod`, `dst_pod`, `src_labels`,
`dst_labels`, `explanation`).
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

from fimbria.cli.documents import Document, part, rows
from fimbria.cli.maptext import protocol, with_port
from fimbria.datapath.abi import DropReason, SourceFile

if TYPE_CHECKING:
    from collections.abc import Collection

TYPES = ("drop", "trace", "policy-verdict")

POINTS = {
    "to-endpoint": "-> endpoint",
    "to-proxy": "-> proxy",
    "to-host": "-> host",
    "to-stack": "-> stack",
    "to-overlay": "-> overlay",
    "to-network": "-> network",
    "from-endpoint": "<- endpoint",
    "from-proxy": "<- proxy",
    "from-host": "<- host",
    "from-stack": "<- stack",
    "from-overlay": "<- overlay",
    "from-network": "<- network",
}


def as_verdict(event: Document) -> Document:
    """Return the verdict that a drop by policy is; other events as they are.

    The datapath sends one event for a denied packet, the drop, and says in it all that the verdict
    would.
    """
    number = int(event.get("reason_number") or 0)
    if event.get("type") != "drop" or number not in (DropReason.POLICY, DropReason.POLICY_DENY):
        return event
    return {**event, "type": "policy-verdict", "action": "deny", "verdict": -number}


def wanted(
    event: Document,
    types: Collection[str],
    sources: Collection[int],
    destinations: Collection[int],
    related: Collection[int],
) -> bool:
    """Say whether an event passes the filters; an empty filter lets everything pass.

    An event's `source` is the endpoint that it is about, on whichever side `direction` says. That
    events were lost is never filtered away.
    """
    if event.get("type") == "lost":
        return True
    about, direction = event.get("source", 0), event.get("direction")
    sender = about if direction == "egress" else 0
    receivers = {event.get("dst_id", 0), about if direction == "ingress" else 0} - {0}
    if types and event.get("type") not in types:
        return False
    if sources and sender not in sources:
        return False
    if destinations and receivers.isdisjoint(destinations):
        return False
    return not related or not receivers.union({sender, about}).isdisjoint(related)


def event_line(event: Document) -> str:
    """Return one event as one line."""
    kind = event.get("type")
    if kind == "drop":
        return _drop(event)
    if kind == "policy-verdict":
        return _verdict(event)
    if kind == "trace":
        return _trace(event)
    if kind == "lost":
        return f"?? {event.get('count', 0)} events lost: they came faster than they were read"
    return f"?? event of type {kind}: {packet(event)}"


def detail_lines(event: Document) -> list[str]:
    """Return what `-v` prints below an event: who the ends are and which rule decided."""
    if event.get("type") == "lost":
        return []
    lines = [
        f"    from {_end(event, 'src')}",
        f"    to   {_end(event, 'dst')}",
    ]
    because = explanation(event)
    if because:
        lines.append(f"    by   {because}")
    return lines


def explained_lines(event: Document) -> list[str]:
    """Return an event with everything that is known about it."""
    return [event_line(event), *detail_lines(event)]


def explanation(event: Document) -> str:
    """Return which rule of which policy decided, or why none did; empty for plain traces."""
    rule = part(event, "explanation")
    if not rule:
        return ""
    owner = "/".join(str(rule[key]) for key in ("namespace", "name") if rule.get(key))
    where = " ".join(str(one) for one in (rule.get("kind"), owner, rule.get("path")) if one)
    text = str(rule.get("text") or "")
    origin = f"rule {event.get('rule', 0)}, policy map {event.get('policy_id', 0)}"
    return f"{': '.join(one for one in (where, text) if one)} ({origin})"


def packet(event: Document) -> str:
    """Return `a:1 -> b:2 tcp SYN`; without ports where they are not known."""
    number = int(event.get("protocol", 0))
    source, destination = str(event.get("saddr")), str(event.get("daddr"))
    if number in (6, 17, 132) and event.get("sport") is not None:
        source = with_port(source, int(event["sport"]))
        destination = with_port(destination, int(event["dport"]))
    text = f"{source} -> {destination} {protocol(number).lower()}"
    if number in (1, 58) and event.get("dport") is not None:
        icmp = int(event["dport"])
        text += f" type {icmp >> 8} code {icmp & 0xFF}"
    flags = event.get("tcp_flags")
    return f"{text} {flags}" if number == 6 and flags else text


def source_file(number: int) -> str:
    """Return the name of the C source that an event's `file` means, the number if it has none."""
    try:
        name = SourceFile(number).name.lower()
    except ValueError:
        return str(number)
    return f"{name}.bpf.c" if name.startswith(("from_", "to_")) else f"{name}.h"


def flow_hash(event: Document) -> int:
    """Return a number that both directions of one connection share, to find them with grep."""
    ends = sorted(
        (str(event.get(address)), int(event.get(port) or 0))
        for address, port in (("saddr", "sport"), ("daddr", "dport"))
    )
    return zlib.crc32(f"{ends} {event.get('protocol')}".encode())


def _drop(event: Document) -> str:
    side = "to endpoint" if event.get("direction") == "ingress" else "from endpoint"
    place = f"file {source_file(int(event.get('file', 0)))}:{event.get('line', 0)}"
    return (
        f"xx drop ({event.get('reason')}) flow {flow_hash(event):#010x} "
        f"{side} {event.get('source', 0)}, ifindex {event.get('ifindex', 0)}, {place}, , "
        f"identity {_identities(event)}: {packet(event)}"
    )


def _verdict(event: Document) -> str:
    incoming = event.get("direction") == "ingress"
    remote = event.get("src_label" if incoming else "dst_label", 0)
    return (
        f"Policy verdict log: flow {flow_hash(event):#010x} local EP ID {event.get('source', 0)}, "
        f"remote ID {remote}, proto {event.get('protocol', 0)}, {event.get('direction')}, "
        f"action {_action(event)}, auth: disabled, match {event.get('match')}, {packet(event)}"
    )


def _action(event: Document) -> str:
    """Return a verdict's action; what a policy in audit mode would have done is in brackets."""
    text = str(event.get("action"))
    if event.get("proxy_port"):
        text += f" to port {event['proxy_port']}"
    return f"none (audit mode: {text})" if event.get("shadow") else text


def _trace(event: Document) -> str:
    point = str(event.get("point"))
    where = POINTS.get(point, point)
    if point.endswith("endpoint"):
        where += f" {event.get('dst_id' if point == 'to-endpoint' else 'source', 0)}"
    device = event.get("interface") or event.get("ifindex", 0)
    return (
        f"{where} flow {flow_hash(event):#010x} , identity {_identities(event)} "
        f"state {event.get('ct_state')} ifindex {device} orig-ip {event.get('saddr')}: "
        f"{packet(event)}"
    )


def _identities(event: Document) -> str:
    return f"{event.get('src_label', 0)}->{event.get('dst_label', 0)}"


def _end(event: Document, side: str) -> str:
    pod: Any = event.get(f"{side}_pod")
    labels = ", ".join(map(str, rows(event, f"{side}_labels")))
    named = f"{pod} " if pod else ""
    return f"{named}identity {event.get(f'{side}_label', 0)} [{labels}]"
