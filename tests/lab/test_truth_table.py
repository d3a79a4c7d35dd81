"""The whole policy language on the real kernel: every packet fares as the first judge says.

Small by default; FIMBRIA_TRUTH=full is the full size (`make nightly`), FIMBRIA_TRUTH_SEED another
seed.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fimbria.analysis import Flow, Outcome
from tests.lab.truth.draw import groups, packets, policies
from tests.lab.truth.packets import ICMP, ICMPV6, SCTP, TCP, UDP, Probe
from tests.lab.truth.stations import Stations
from tests.lab.truth.world import Cluster, complete, pods, services

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.analysis import Engine, Result
    from fimbria.lab.client import Lab

NAMES = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ICMPV6: "ICMPV6", SCTP: "SCTP"}
SEED = int(os.environ.get("FIMBRIA_TRUTH_SEED", "1"))


@dataclass(frozen=True)
class Size:
    """How much: pods, sets of policies one after the other, packets for each set."""

    pods: int
    rounds: int
    packets: int


FULL = os.environ.get("FIMBRIA_TRUTH") == "full"
SIZE = Size(24, 150, 4000) if FULL else Size(10, 12, 1500)
WAYS: dict[str, dict[str, Any]] = {"tunnel": {}}
if FULL:
    WAYS |= {
        "native": {"routing": "native"},
        "cidr-match": {"config": {"policy-cidr-match-mode": "nodes pods"}},
        "always": {"config": {"enable-policy": "always"}},
    }


class Table:
    """One lab, and what came of the probes in it."""

    def __init__(self, cluster: Cluster, stations: Stations) -> None:
        self.cluster = cluster
        self.stations = stations
        self.numbers = count(1)
        self.mismatches: list[str] = []
        self.passed = self.refused = self.again = 0

    def probe(self, flow: tuple[str, str, int, int]) -> Probe:
        return Probe(next(self.numbers), *flow)

    def compare(self, seed: str, flows: list[tuple[str, str, int, int]]) -> None:
        """Send a packet of every flow and judge what became of it."""
        engine = self.cluster.engine()
        expected = {probe: judged(engine, probe) for probe in map(self.probe, flows)}
        wanted = {p.number for p, said in expected.items() if said.verdict is Outcome.ALLOWED}
        self.passed += len(wanted)
        self.refused += len(expected) - len(wanted)
        self.stations.run(expected, wanted)
        seen = self.stations.seen
        for probe, said in expected.items():
            problem = ""
            if probe.number not in wanted:
                problem = "arrived" if probe.number in seen.arrived else ""
            elif probe.number not in seen.arrived:
                problem = "did not arrive"
            elif probe.answered and probe.number not in seen.answered:
                problem = "was not answered"
            if problem:
                self.mismatches.append(f"{seed}: {probe} {problem}; {self.why(said, probe)}")

    def why(self, said: Result, probe: Probe) -> str:
        """What the judge said, and what the kernels say of the same packet."""
        again = Probe(next(self.numbers), *probe_flow(probe))
        self.stations.run([again], set())
        events = [
            f"{node}: {one['type']} {one.get('direction', '')} {one.get('reason', '')} "
            f"{one.get('verdict', '')} {one.get('rule', '')}"
            for node in self.cluster.agents
            for one in self.cluster.events(node, again.source_port)
        ]
        halves = "; ".join(
            f"{name} {half.verdict} {half.reason} {half.policy} {half.rule}"
            for name, half in (("egress", said.egress), ("ingress", said.ingress))
        )
        return f"model: {said.verdict}: {halves}; kernel: {events}"


def probe_flow(probe: Probe) -> tuple[str, str, int, int]:
    return probe.source, probe.destination, probe.protocol, probe.port


def judged(engine: Engine, probe: Probe) -> Result:
    name = NAMES[probe.protocol]
    return engine.eval(Flow(probe.source, probe.destination, name, probe.port))


@pytest.mark.root
@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("way", WAYS)
def test_every_packet_fares_as_the_model_says(make_lab: Callable[..., Lab], way: str) -> None:
    """No packet passes that the model refuses, and none is lost that it lets through."""
    random = Random(SEED)
    fixed = [*pods(random, SIZE.pods), *services()]
    options = {"ipv6": True, **WAYS[way]}
    lab = make_lab(yaml.safe_dump_all(fixed), **options)
    cluster = Cluster(lab, options.get("config", {}))
    places = cluster.stations()
    stations = Stations(places)
    table = Table(cluster, stations)
    try:
        began, spent = time.monotonic(), 0.0
        for turn in range(SIZE.rounds):
            seed = SEED * 1000 + turn
            wanted = [
                complete(one, f"s{seed}-{index}")
                for index, one in enumerate(policies(seed, random.randint(1, 5)))
            ]
            cluster.switch(wanted + [complete(g, g["metadata"]["name"]) for g in groups(seed)])
            start = time.monotonic()
            table.compare(f"seed {seed}", packets(random, places, SIZE.packets))
            spent += time.monotonic() - start
        total = table.passed + table.refused
        print(
            f"{way}: {total} probes ({table.passed} let through, {table.refused} refused) in "
            f"{time.monotonic() - began:.1f} s, {total / spent:.0f}/s while probing"
        )
    finally:
        stations.close()
    assert table.mismatches == []
    assert stations.seen.strange == []
    assert min(table.passed, table.refused) > total / 10, "policies that say too little"
