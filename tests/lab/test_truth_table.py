"""The whole policy language on the real kernel: every packet fares as the first judge says.

Small by default; FIMBRIA_TRUTH=full is the full size (`make nightly`), FIMBRIA_TRUTH_SEED another
seed.
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.lab.hostlab import label
from tests.lab.truth.draw import CLOSED, NEEDED, OPEN, groups, packets, policies
from tests.lab.truth.stations import Stations
from tests.lab.truth.table import Table
from tests.lab.truth.world import Cluster, complete, pods, services, some_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.lab.client import Lab
    from tests.lab.truth.world import Document

SEED = int(os.environ.get("FIMBRIA_TRUTH_SEED", "1"))
FULL = os.environ.get("FIMBRIA_TRUTH") == "full"


@dataclass(frozen=True)
class Size:
    """How much: pods, sets of policies one after the other, packets for each set."""

    pods: int
    rounds: int
    packets: int


@dataclass(frozen=True)
class Way:
    """One kind of lab; `opened` is how often everything is allowed that nothing denies."""

    options: dict[str, Any]
    opened: float = 0.2

    @property
    def nodes(self) -> bool:
        """Whether policies are about nodes, too."""
        return self.config.get("enable-host-firewall") == "true"

    @property
    def config(self) -> dict[str, str]:
        return self.options.get("config", {})


SIZE = Size(24, 40, 3000) if FULL else Size(10, 12, 1500)
KEPT, RELABEL = 0.2, 3
"""How many policies stay from turn to turn; in which turns a pod changes its identity."""
FIREWALL = {"enable-host-firewall": "true"}
WAYS = {"tunnel": Way({}), "native": Way({"routing": "native"})}
if FULL:
    WAYS |= {
        "native-legacy": Way({"routing": "native", "host_routing": "legacy"}),
        "tunnel-legacy": Way({"host_routing": "legacy"}),
        "cidr-match": Way({"config": {"policy-cidr-match-mode": "nodes pods"}}),
        "always": Way({"config": {"enable-policy": "always"}}, opened=0.8),
        "nodes": Way({"config": FIREWALL}, opened=0.5),
        "nodes-native": Way({"routing": "native", "config": FIREWALL}, opened=0.5),
        "routes": Way({"host_routing": "legacy", "config": {"enable-endpoint-routes": "true"}}),
    }


def drawn(seed: int, random: Random, way: Way) -> list[Document]:
    """Policies with names of their own, so that nobody takes one for its predecessor."""
    found = policies(seed, random.randint(1, 5), nodes=way.nodes)
    found += [OPEN] if random.random() < way.opened else []
    return [complete(one, f"s{seed}-{index}") for index, one in enumerate(found)]


@pytest.mark.root
@pytest.mark.timeout(3600 if FULL else 120)
@pytest.mark.parametrize("way", WAYS)
def test_every_packet_fares_as_the_model_says(make_lab: Callable[..., Lab], way: str) -> None:
    """No packet passes that the model refuses, and none is lost that it lets through.

    Answers need no rule, drops say the right reason, and a wrong model would be found out.
    """
    random = Random(SEED)
    made = [*pods(random, SIZE.pods), *services()]
    lab = make_lab(yaml.safe_dump_all(made), ipv6=True, **WAYS[way].options)
    always = [complete(NEEDED, "needed")] if WAYS[way].nodes else []
    for node, role in (("node1", "edge"), ("node2", "core")):
        label(lab, node, role=role)
    cluster = Cluster(lab, WAYS[way].config)
    places = cluster.stations()
    with closing(Stations(places)) as stations:
        table, spent = Table(cluster, stations), 0.0
        for turn in range(SIZE.rounds):
            seed = SEED * 1000 + turn
            kept = [one for one in cluster.policies if one not in always and random.random() < KEPT]
            cluster.switch([*kept, *always, *drawn(seed, random, WAYS[way])], groups(seed))
            if turn % RELABEL == RELABEL - 1:
                cluster.relabel(random.choice(places[: SIZE.pods]).name, some_labels(random))
            some = packets(random, places, SIZE.packets, nodes=WAYS[way].nodes)
            began = time.monotonic()
            table.compare(f"seed {seed}", cluster.judge(), some)
            spent += time.monotonic() - began
        total = table.passed + table.refused
        print(
            f"{way}: {table.passed} let through, {table.refused} refused, {table.reasons} reasons "
            f"compared, {total / spent:.0f} probes/s"
        )
        assert table.mismatches == []
        assert stations.seen.strange == []
        assert min(table.passed, table.refused) > total / 10, "policies that say too little"
        assert table.reasons > table.refused / 20
        cluster.switch([complete(OPEN, "open")])
        cluster.policies = [complete(CLOSED, "closed")]
        table.compare("a wrong model", cluster.judge(), packets(random, places, 100))
        assert any("the model says DENIED" in one for one in table.mismatches)
