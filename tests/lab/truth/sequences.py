"""Packets in an order: what became of each tells which version of a policy judged it.

Of two versions each allows one of two ports only. So a packet that arrives was judged by the
version that allows its port, and one that does not arrive by the other.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fimbria.datapath.abi import Runtime
from fimbria.kernel.maps import BpfMap
from tests.lab.truth.packets import UDP, Probe
from tests.lab.truth.versions import PORTS, Kind

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator

    from tests.lab.truth.stations import Stations
    from tests.lab.truth.world import Cluster

OWN = {7001: 8001, 7002: 8002}
"""Where flows to these ports that last are sent from."""


@dataclass
class Sent:
    """A packet of a sequence: `before` is the node's revision read just before it was sent."""

    number: int
    version: int
    before: int


@dataclass
class Sequence:
    """Packets to one server that are judged there, in the order in which they were sent."""

    name: str
    source: str
    destination: str
    node: str
    fresh: bool
    back: bool = False
    sent: list[Sent] = field(default_factory=list[Sent])

    def probe(self, number: int, version: int, own: int) -> Probe:
        """The next packet to the port of a version; `own` is a port that was never used."""
        to = PORTS[version]
        if self.back:
            return Probe(number, self.source, self.destination, UDP, OWN[to], to, silent=True)
        ours = own if self.fresh else OWN[to]
        return Probe(number, self.source, self.destination, UDP, to, ours, silent=True)

    def check(self, arrived: set[int], known: list[int]) -> None:
        """Compare what became of the packets with when the versions came into force.

        `known[n]` is the node's revision after change n was in force. A new connection is judged by
        what is in force at that moment, so all of them together change once with every change. A
        lasting one may go on until the revision is another one, hence the two ports each by itself.
        """
        judged = [s.version if s.number in arrived else 1 - s.version for s in self.sent]
        parts = [range(len(judged))] if self.fresh else [range(0, len(judged), 2),
                                                         range(1, len(judged), 2)]  # fmt: skip
        for part in parts:
            index = 0
            for at in part:
                index += judged[at] != index % 2
                lowest = bisect_right(known, self.sent[at].before) - 1
                assert lowest <= index <= lowest + 1, f"{self.name} {self.destination}, packet {at}"
            assert index == len(known) - 1, f"{self.name} {self.destination}"


class Load:
    """All sequences, sent in turns until told to stop.

    `own` gives ports that nothing was sent from yet.
    """

    def __init__(
        self, cluster: Cluster, stations: Stations, kind: Kind, own: Iterator[int]
    ) -> None:
        self.cluster, self.stations, self._own = cluster, stations, own
        self.numbers = 0
        self.revisions = {
            node["name"]: BpfMap.open(Path(node["bpffs"]) / "tc/globals/cilium_runtime_config")
            for node in cluster.nodes
        }
        self.sequences: list[Sequence] = []
        client = kind.outside or cluster.lab.pod("client")["addresses"]
        for pod, node in (("near", "node1"), ("far", "node2")):
            for ours, theirs in zip(client, cluster.lab.pod(pod)["addresses"], strict=True):
                self.sequences += [
                    Sequence(f"new {pod}", ours, theirs, kind.at or node, fresh=True),
                    Sequence(f"lasting {pod}", ours, theirs, kind.at or node, fresh=False),
                    Sequence(f"back {pod}", theirs, ours, kind.at or node, fresh=False, back=True),
                ]

    def revision(self, node: str) -> int:
        value = self.revisions[node].get(bytes(4))
        assert value is not None
        return Runtime.unpack(value).revision

    def next(self) -> int:
        self.numbers += 1
        return self.numbers

    def establish(self, version: int) -> None:
        """Open the lasting flows to a version's port, with an answer."""
        to = PORTS[version]
        probes = [
            Probe(self.next(), one.source, one.destination, UDP, to, OWN[to])
            for one in self.sequences
            if not one.fresh and not one.back
        ]
        wanted = {probe.number for probe in probes}
        self.stations.run(probes, wanted)
        assert wanted <= self.stations.seen.answered

    def send(self, over: threading.Event) -> None:
        """Send a packet of every sequence to both ports, again and again."""
        for own in self._own:
            last = over.is_set()  # what came into force before must be seen, too
            for one in self.sequences:
                for version in (0, 1):
                    sent = Sent(self.next(), version, self.revision(one.node))
                    one.sent.append(sent)
                    self.stations.send(one.probe(sent.number, version, own))
            self.stations.take(0)
            if last:
                break
        else:
            raise AssertionError("no ports left")
        while self.stations.take(0.25):
            pass

    def close(self) -> None:
        for one in self.revisions.values():
            one.close()
