"""A policy that changes while packets flow: each packet is judged by one version, never by a half.

None is judged by a version that is no longer in force, and the kernels' counters agree.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fimbria.datapath.abi import CtEntry, CtKey
from fimbria.kernel import netns
from fimbria.kernel.maps import BpfMap
from fimbria.lab.client import Lab
from fimbria.lab.spec import LabSpec
from tests.lab.hostlab import until
from tests.lab.truth.sequences import OWN, Load
from tests.lab.truth.stations import Stations
from tests.lab.truth.versions import (
    OUTSIDE,
    PORTS,
    Kind,
    by_group,
    cilium,
    closed,
    group,
    outgoing,
    prefixes,
    tiered,
)
from tests.lab.truth.world import Cluster

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVERS = {"near": "node1", "far": "node2"}
pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

CHANGES = 40
own_ports = iter(range(10000, 64000))
"""Where new connections are sent from: each port once, so that no node remembers it."""
PODS = "\n---\n".join(
    f"{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, labels: {{app: {app}}}}}, "
    f"spec: {{nodeName: {node}, containers: [{{name: main, image: fimbria/sleep}}]}}}}"
    for name, app, node in (
        ("client", "client", "node1"), ("near", "server", "node1"), ("far", "server", "node2"),
    )
)  # fmt: skip
KINDS = {
    "cilium": Kind(cilium),
    "outgoing": Kind(outgoing, at="node1"),
    "tiers": Kind(tiered, (closed(),)),
    "prefixes": Kind(prefixes, outside=OUTSIDE),
    "group": Kind(group, (by_group(),), OUTSIDE),
}


@contextmanager
def sinks(cluster: Cluster) -> Iterator[None]:
    """Sockets that take what is sent, so that no kernel answers that nobody listens."""
    lab = cluster.lab
    with ExitStack() as stack:
        for pod in SERVERS:
            for number in PORTS:
                stack.enter_context(inside(lab, pod, partial(sink, number)))
        for number in OWN.values():
            stack.enter_context(inside(lab, "client", partial(sink, number)))
            stack.enter_context(inside(lab, "", partial(sink, number)))
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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A client, and a server on each node."""
    manifest = tmp_path_factory.mktemp("load") / "pods.yaml"
    manifest.write_text(PODS)
    lab = Lab.up(LabSpec(f"versions-{os.getpid()}", ipv6=True), [manifest])
    yield Cluster(lab, {})
    lab.down()


@pytest.fixture(autouse=True)
def clean(cluster: Cluster) -> None:
    """No policies of other tests: theirs have the same names."""
    cluster.switch([])


@pytest.mark.parametrize("kind", KINDS)
def test_every_packet_is_judged_by_one_version(cluster: Cluster, kind: str) -> None:
    """As many changes are seen as were made, none is late, and the kernels count what is missing.

    New connections, lasting ones and what comes back on these, on both nodes, both families. A
    lasting one that lost its permission stops with the revision, and goes on with the next.
    """
    made = KINDS[kind]
    with closing(Stations(cluster.stations())) as stations, sinks(cluster):
        objects = [*made.others, made.version(1)]
        groups = [one for one in objects if one["kind"] == "CiliumCIDRGroup"]
        cluster.switch([one for one in objects if one not in groups], groups)
        load = Load(cluster, stations, made, own_ports)
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


def carried(cluster: Cluster, pod: str) -> int:
    """Packets of a server's connections that its own node has let through, either way."""
    lab = cluster.lab
    own = {mapped(address) for address in lab.pod(pod)["addresses"]}
    path = Path(lab.node(SERVERS[pod])["bpffs"]) / "tc/globals/cilium_ct"
    with BpfMap.open(path) as table:
        found = [
            CtEntry.unpack(value)
            for key, value in table.items().items()
            if own & {CtKey.unpack(key).a, CtKey.unpack(key).b}
        ]
    assert found, "established connections are in this map"
    return sum(way.packets for entry in found for way in entry.dir)


def mapped(address: str) -> bytes:
    packed = ip_address(address).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


@contextmanager
def connections(cluster: Cluster) -> Iterator[dict[str, list[socket.socket]]]:
    """TCP connections of `client` to every address of the servers; both ends, by server."""
    lab = cluster.lab
    ends: dict[str, list[socket.socket]] = {}
    with ExitStack() as stack:
        for pod in SERVERS:
            listen = partial(
                socket.create_server, ("::", PORTS[0]), family=socket.AF_INET6, dualstack_ipv6=True
            )
            listener = stack.enter_context(inside(lab, pod, listen))
            for address in lab.pod(pod)["addresses"]:
                connect = partial(socket.create_connection, (address, PORTS[0]), timeout=10)
                mine = stack.enter_context(inside(lab, "client", connect))
                theirs = stack.enter_context(listener.accept()[0])
                ends[pod] = [*ends.get(pod, []), mine, theirs]
        yield ends


def inside(lab: Lab, pod: str, make: Callable[[], socket.socket]) -> socket.socket:
    """A socket made in a pod's network namespace, or with "" in the world's."""
    space = netns.open_netns(Path((lab.pod(pod) if pod else lab.status())["netns"]))
    try:
        return netns.run_in(space, make)
    finally:
        os.close(space)


def test_a_connection_stops_and_goes_on(cluster: Cluster) -> None:
    """Without permission no segment of a connection passes in either direction.

    With it again, what was held back arrives.
    """
    cluster.switch([cilium(0)])
    with connections(cluster) as ends:
        every = [end for some in ends.values() for end in some]
        for word in (b"one", b"two"):
            for end in every:
                end.sendall(word)
            for end in every:
                end.settimeout(10)
                assert end.recv(16) == word
        cluster.change(cilium(1))
        passed = {pod: carried(cluster, pod) for pod in SERVERS}
        before = {node: refused(cluster, node) for node in SERVERS.values()}
        for end in every:
            end.sendall(b"held")
        for pod, node in SERVERS.items():
            tries = 3 * len(ends[pod])
            until(
                lambda node=node, tries=tries: refused(cluster, node) >= before[node] + tries, node
            )
        assert {pod: carried(cluster, pod) for pod in SERVERS} == passed
        for end in every:
            end.setblocking(False)
            with pytest.raises(BlockingIOError):
                end.recv(16)
        cluster.change(cilium(0))
        for end in every:
            end.settimeout(30)
            assert end.recv(16) == b"held"
