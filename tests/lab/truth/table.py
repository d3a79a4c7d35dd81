"""The comparison: what became of packets, beside what the first judge says of them."""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from tests.lab.truth.packets import Probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tests.lab.truth.draw import Packet
    from tests.lab.truth.judge import Judge, Said
    from tests.lab.truth.stations import Stations
    from tests.lab.truth.world import Cluster, Document

EXPLAINED = 10
"""Mismatches that are asked about again; the rest would say the same."""


class Table:
    """Probes in one lab, counted. `mismatches` say what was seen, and why it should not have been.

    `reasons` counts the drops whose reason was compared too: of those the nodes still remember.
    """

    def __init__(self, cluster: Cluster, stations: Stations) -> None:
        self.cluster = cluster
        self.stations = stations
        self.mismatches: list[str] = []
        self.passed = self.refused = self.reasons = 0
        self._numbers = count(1)

    def compare(self, seed: str, judge: Judge, packets: Iterable[Packet]) -> None:
        """Send packets and judge what became of each."""
        expected = {
            probe: judge.say(probe)
            for probe in (Probe(next(self._numbers), *packet) for packet in packets)
        }
        wanted = {p.number for p, said in expected.items() if said.allowed}
        self.passed += len(wanted)
        self.refused += len(expected) - len(wanted)
        self.stations.run(expected, wanted)
        self._drops(seed, expected)
        for probe, said in expected.items():
            problem = self._problem(probe, good=probe.number in wanted)
            if problem:
                why = self._why(said, probe) if len(self.mismatches) < EXPLAINED else ""
                self.mismatches.append(f"{seed}: {probe} {problem}; {why}")

    def _problem(self, probe: Probe, *, good: bool) -> str:
        seen = self.stations.seen
        if not good:
            return "arrived" if probe.number in seen.arrived else ""
        if probe.number not in seen.arrived:
            return "did not arrive"
        unanswered = probe.answered and probe.number not in seen.answered
        return "was not answered" if unanswered else ""

    def _drops(self, seed: str, expected: Mapping[Probe, Said]) -> None:
        """Compare the reasons of drops."""
        by_tuple = {
            (p.source, p.destination, p.protocol, p.source_port, p.port): said
            for p, said in expected.items()
        }
        for node, events in self.cluster.events().items():
            for one in events:
                key = tuple(map(one.get, ("saddr", "daddr", "protocol", "sport", "dport")))
                said = by_tuple.get(key)
                if one["type"] != "drop" or said is None:
                    continue
                self.reasons += 1
                if one["reason_number"] != said.drop:
                    self.mismatches.append(f"{seed}: {node}: {one}; the model says {said}")

    def _why(self, said: Said, probe: Probe) -> str:
        """What the judge said, and what the kernels say of another such packet."""
        again = Probe(
            next(self._numbers), probe.source, probe.destination, probe.protocol, probe.port
        )
        self.stations.run([again], set())
        events = [
            f"{node}: {event_text(one)}"
            for node, events in self.cluster.events().items()
            for one in events
            if again.source_port in (one.get("sport"), one.get("dport"))
        ]
        return f"the model says {said}; the kernel {events}"


def event_text(event: Document) -> str:
    """An event in short: what, where, and the rule."""
    words = ("type", "direction", "reason", "action", "point", "explanation")
    return " ".join(str(event[word]) for word in words if event.get(word))
