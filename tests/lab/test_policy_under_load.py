"""A policy that changes while packets flow: each packet is judged by one version, never by a half.

Of two versions one allows one port only, the other another one only, each by several rules. So what
became of packets to both ports tells which version judged each of them, in the order in which they
were sent.
"""

from __future__ import annotations

import os
import socket
import threading
from bisect import bisect_right
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.datapath.abi import Runtime
from fimbria.kernel import netns
from fimbria.kernel.maps import BpfMap
from tests.lab.truth.packets import UDP, Probe
from tests.lab.truth.stations import Stations
from tests.lab.truth.world import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.lab.client import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

Document = dict[str, Any]
CHANGES = 30
PORTS = (7001, 7002)
"""The ports that the first and the second version allow."""
OWN = {7001: 8001, 7002: 8002}
"""Where flows to these ports that last are sent from."""
FIRST_OWN, LAST_OWN = 10000, 64000
"""Where the others are sent from, each port once."""
PODS = "\n---\n".join(
    f"{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, labels: {{app: {app}}}}}, "
    f"spec: {{nodeName: {node}, containers: [{{name: main, image: fimbria/sleep}}]}}}}"
    for name, app, node in (
        ("client", "client", "node1"), ("near", "server", "node1"), ("far", "server", "node2"),
    )
)  # fmt: skip


def port(number: int, last: int = 0) -> Document:
    return {"port": str(number), "protocol": "UDP", **({"endPort": last} if last else {})}


def cilium(version: int) -> Document:
    """Allows in a range, denies in the middle of it, and lets another spec allow the rest."""
    good, bad = PORTS[version], PORTS[1 - version]
    who = {"fromEndpoints": [{"matchLabels": {"app": "client"}}]}
    servers = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    filler = [{"ports": [port(n) for n in range(20000 + 999 * version, 20040 + 999 * version)]}]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "switched", "namespace": "default"},
        "specs": [
            {**servers, "ingress": [{**who, "toPorts": [{"ports": [port(7000, 7009)]}]},
                                    {**who, "toPorts": filler}]},
            {**servers, "ingressDeny": [{**who, "toPorts": [{"ports": [port(bad)]}]}]},
            {**servers, "ingress": [{"fromEntities": ["cluster"],
                                     "toPorts": [{"ports": [port(good)]}]}]},
        ],
    }  # fmt: skip


def tiered(version: int) -> Document:
    """An admin policy: one port is accepted, one passed on to the ordinary policies."""
    good, bad = PORTS[version], PORTS[1 - version]
    peers = {"from": [{"pods": {"podSelector": {"matchLabels": {"app": "client"}}}}]}

    def rule(number: int, action: str) -> Document:
        where = [{"udp": {"destinationPort": {"number": number}}}]
        return {"action": action, **peers, "protocols": where}

    subject = {"pods": {"podSelector": {"matchLabels": {"app": "server"}}}}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "switched"},
        "spec": {"tier": "Admin", "priority": 3, "subject": subject, "ingress": [
            rule(bad, "Pass"), rule(good, "Accept"), rule(bad, "Accept"),
        ]},
    }  # fmt: skip


def closed() -> Document:
    servers = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    return {**cilium(0), "metadata": {"name": "closed", "namespace": "default"},
            "specs": [{**servers, "ingress": [{}]}]}  # fmt: skip


def prefixes(version: int) -> Document:
    """By CIDR: prefixes with and without exceptions become other ones, around the same address."""
    wide = [{"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}, {"cidr": "2001:db8::/32"}]
    narrow = [{"cidr": "192.0.2.1/32"}, {"cidr": "2001:db8:1::/48"}]
    to = [{"ports": [port(PORTS[version])]}]
    rules = [{"fromCIDRSet": [narrow, wide][version], "toPorts": to}]
    servers = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    return {**cilium(0), "specs": [{**servers, "ingress": rules}]}


@dataclass(frozen=True)
class Kind:
    """Two versions of an object, what there is beside it, and where packets come from."""

    version: Callable[[int], Document]
    others: tuple[Document, ...] = ()
    outside: tuple[str, ...] = ()


KINDS = {
    "cilium": Kind(cilium),
    "tiers": Kind(tiered, (closed(),)),
    "prefixes": Kind(prefixes, outside=("192.0.2.1", "2001:db8:1::7")),
}


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
            assert index == CHANGES, f"{self.name} {self.destination}"


class Load:
    """All sequences, sent in turns until told to stop."""

    def __init__(self, cluster: Cluster, stations: Stations, outside: tuple[str, ...]) -> None:
        self.cluster, self.stations = cluster, stations
        self.numbers = 0
        self.revisions = {
            node["name"]: BpfMap.open(Path(node["bpffs"]) / "tc/globals/cilium_runtime_config")
            for node in cluster.nodes
        }
        self.sequences: list[Sequence] = []
        client = outside or cluster.lab.pod("client")["addresses"]
        for pod, node in (("near", "node1"), ("far", "node2")):
            for ours, theirs in zip(client, cluster.lab.pod(pod)["addresses"], strict=True):
                self.sequences += [
                    Sequence(f"new {pod}", ours, theirs, node, fresh=True),
                    Sequence(f"lasting {pod}", ours, theirs, node, fresh=False),
                    Sequence(f"back {pod}", theirs, ours, node, fresh=False, back=True),
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
        for own in range(FIRST_OWN, LAST_OWN):
            if over.is_set():
                break
            for one in self.sequences:
                for version in (0, 1):
                    sent = Sent(self.next(), version, self.revision(one.node))
                    one.sent.append(sent)
                    self.stations.send(one.probe(sent.number, version, own))
            self.stations.take(0)
        else:
            raise AssertionError("no ports left")
        while self.stations.take(0.25):
            pass

    def close(self) -> None:
        for one in self.revisions.values():
            one.close()


@contextmanager
def sinks(cluster: Cluster) -> Iterator[None]:
    """Sockets that take what is sent, so that no kernel answers that nobody listens."""
    lab = cluster.lab
    places = [(lab.pod(pod)["netns"], PORTS) for pod in ("near", "far")]
    places += [(path, OWN.values()) for path in (lab.pod("client")["netns"], lab.status()["netns"])]
    with ExitStack() as stack:
        for path, ports in places:
            space = netns.open_netns(Path(path))
            for number in ports:
                stack.enter_context(netns.run_in(space, partial(sink, number)))
            os.close(space)
        yield


def sink(number: int) -> socket.socket:
    made = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    made.bind(("::", number))
    return made


def refused(cluster: Cluster, node: str) -> int:
    """Packets that a node has dropped because of a policy."""
    rows = cluster.agents[node].get("/v1/metrics")
    return sum(
        int(row["value"])
        for row in rows
        if row["name"] == "cilium_drop_count_total" and "olicy" in row["labels"]["reason"]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_packet_is_judged_by_one_version(make_lab: Callable[..., Lab], kind: str) -> None:
    """As many changes are seen as were made, none is late, and the kernels count what is missing.

    New connections, lasting ones and what comes back on these, on both nodes, both families. A
    lasting one that lost its permission stops with the revision, and goes on with the next.
    """
    made = KINDS[kind]
    cluster = Cluster(make_lab(PODS, ipv6=True), {})
    with closing(Stations(cluster.stations())) as stations, sinks(cluster):
        cluster.switch([*made.others, made.version(1)])
        load = Load(cluster, stations, made.outside)
        load.establish(1)
        cluster.change(made.version(0))
        load.establish(0)
        over = threading.Event()
        before = {node: refused(cluster, node) for node in cluster.agents}
        revisions = [{node: load.revision(node) for node in cluster.agents}]
        sender = threading.Thread(target=load.send, args=(over,))
        sender.start()
        try:
            for turn in range(1, CHANGES + 1):
                cluster.change(made.version(turn % 2))
                revisions.append({node: load.revision(node) for node in cluster.agents})
        finally:
            over.set()
            sender.join()
            load.close()
        for one in load.sequences:
            known = [row[one.node] for row in revisions]
            one.check(stations.seen.arrived, known)
        for node in cluster.agents:
            there = [one for one in load.sequences if one.node == node]
            lost = sum(s.number not in stations.seen.arrived for one in there for s in one.sent)
            assert lost == refused(cluster, node) - before[node]
