"""Recorded traffic: what `fimbria monitor -o json` printed, or flows as `policy eval` takes them.

    lines ─► events ─► one Seen per connection, with who its ends are and what became of it

Events about replies, and drops that no policy decided, say nothing that a change of policies could
change. A connection is seen at both of its ends; it counts once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import msgspec

from fimbria.analysis.flows import FlowError, as_flow
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.model.labels import Labels

Document = dict[str, Any]

_ICMP = (Protocol.ICMP, Protocol.ICMPV6)


@dataclass(frozen=True, slots=True)
class Party:
    """One end of recorded traffic.

    `name` is the pod's or "", `address` its address or "". `labels` are its identity's, empty where
    only the name is known.
    """

    name: str
    address: str = ""
    identity: int = 0
    labels: Labels = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """A connection: its ends, the port that it went to (ICMP: the type), and what became of it.

    `denied` is None where that was not recorded.
    """

    source: Party
    destination: Party
    protocol: str
    port: int
    denied: bool | None = None


@dataclass
class Recording:
    """Connections by what tells them apart, and lines that are neither event nor flow."""

    seen: dict[tuple[object, ...], Seen] = field(default_factory=dict[tuple[object, ...], Seen])
    errors: list[str] = field(default_factory=list[str])

    def line(self, number: int, text: str | bytes) -> None:
        """Take up one line of a file; what is wrong with it is noted."""
        if not text.strip():
            return
        try:
            value = msgspec.json.decode(text)
            if not isinstance(value, dict):
                raise FlowError("expected an object")
            document = cast("Document", value)
            if "saddr" in document:
                self.event(document)
            else:
                flow = as_flow(document)
                ends = Party(flow.source), Party(flow.destination)
                if flow.reply:
                    ends = ends[1], ends[0]
                self.seen[number,] = Seen(*ends, flow.protocol.upper(), flow.port)
        except (msgspec.DecodeError, FlowError, KeyError, TypeError, ValueError) as error:
            self.errors.append(f"line {number}: {error}")

    def events(self, documents: Iterable[Document]) -> None:
        """Take up events of a node."""
        for number, document in enumerate(documents, 1):
            try:
                self.event(document)
            except (KeyError, TypeError, ValueError) as error:
                self.errors.append(f"event {number}: {error}")

    def event(self, event: Document) -> None:
        """Take up an event, if it is about a connection that a policy may be about."""
        if "dport" not in event or event.get("shadow") or event["protocol"] not in set(Protocol):
            return
        if event["type"] == "drop" and "explanation" not in event:
            return
        if event["ct_state"] not in ("new", "established", "reply"):
            return
        source, destination = _party(event, "src", "saddr"), _party(event, "dst", "daddr")
        sport, dport = int(event["sport"]), int(event["dport"])
        protocol = Protocol(event["protocol"])
        if event["ct_state"] == "reply":
            if protocol in _ICMP:
                return  # what it answers is not in it
            source, destination, sport, dport = destination, source, dport, sport
        if protocol in _ICMP:
            dport >>= 8
        key = (source.address, sport, destination.address, dport, protocol)
        have = self.seen.get(key)
        denied = _denied(event) or bool(have and have.denied)
        self.seen[key] = Seen(
            _known(source, have and have.source),
            _known(destination, have and have.destination),
            protocol.name, dport, denied,
        )  # fmt: skip


def _party(event: Document, side: str, address: str) -> Party:
    labels = tuple(str(one) for one in event.get(f"{side}_labels") or ())
    name, number = str(event.get(f"{side}_pod") or ""), int(event.get(f"{side}_label") or 0)
    return Party(name, str(event[address]), number, labels)


def _known(now: Party, before: Party | None) -> Party:
    """Return the one that says more: a node that drops early may not know the other end."""
    return before if before is not None and before.labels and not now.labels else now


def _denied(event: Document) -> bool:
    return event["type"] == "drop" or event.get("action") == "deny"
