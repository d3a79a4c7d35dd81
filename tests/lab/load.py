"""A lab under load: pods, a policy, traffic of every sort, and what must be the same afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimbria.datapath import abi
from fimbria.kernel.maps import BpfMap
from fimbria.lab.spec import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.lab.client import Lab

TRAFFIC = Path(__file__).with_name("traffic.py")
SORTS = ("stream", "request", "connect", "udp", "ping", "forbidden")

CLIENT_AND_SERVERS = """
{kind: Pod, apiVersion: v1, metadata: {name: client, labels: {app: client}},
 spec: {nodeName: node1, containers: [{name: main, image: fimbria/sleep}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: near, labels: {app: server}},
 spec: {nodeName: node1, containers: [{name: main, image: fimbria/sleep}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: far, labels: {app: server}},
 spec: {nodeName: node2, containers: [{name: main, image: fimbria/sleep}]}}
---
"""
"""A client, a server beside it, and one on the other node."""

PODS = (
    CLIENT_AND_SERVERS
    + """apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: only-what-is-allowed, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: client}}]
    toPorts: [{ports: [{port: "7000"}]}]
  - fromEndpoints: [{matchLabels: {app: client}}]
    icmps: [{fields: [{type: 8}, {family: IPv6, type: EchoRequest}]}]
"""
)


def inside(lab: Lab, pod: str, *words: str) -> subprocess.Popen[str]:
    """traffic.py in a pod's network namespace."""
    return subprocess.Popen(
        ["nsenter", f"--net={lab.pod(pod)['netns']}", sys.executable, str(TRAFFIC), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def traffic(lab: Lab) -> Iterator[Callable[[], dict[str, Any]]]:
    """Traffic from `client` to the other PODS; the callable ends it and gives its report."""
    targets = [address for pod in ("near", "far") for address in lab.pod(pod)["addresses"]]
    for node in ("node1", "node2"):
        lab.cli("policy", "wait", node=node)
    processes = [inside(lab, pod, "serve") for pod in ("near", "far")]
    try:
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        client = inside(lab, "client", "load", "until-eof", *targets)
        processes.append(client)
        assert client.stdout is not None
        assert client.stdout.readline() == "running\n"

        def report() -> dict[str, Any]:
            output, _ = client.communicate(timeout=60)
            return json.loads(output)

        yield report
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def nothing_broke(report: dict[str, Any]) -> None:
    """Every sort of traffic ran, and none of it failed."""
    assert report["broken"] == []
    counts = report["counts"]
    for sort in SORTS:
        assert counts[sort] > 0, counts


def long_lived(lab: Lab) -> set[bytes]:
    """Keys of the connections that have carried more than 50 packets, on both nodes."""
    found: set[bytes] = set()
    for node in lab.status()["nodes"]:
        with BpfMap.open(Path(node["bpffs"]) / "tc/globals/cilium_ct") as table:
            for key, value in table.items().items():
                entry = abi.CtEntry.unpack(value)
                if entry.dir[0].packets > 50 and entry.dir[1].packets > 50:
                    found.add(node["name"].encode() + key)
    return found


def settled(lab: Lab) -> set[bytes]:
    """Wait until every lasting connection of the traffic is a long-lived one, and return them.

    Stream, request, UDP and ping to four addresses; those to `near` are on one node only.
    """
    deadline = time.monotonic() + 30
    while len(found := long_lived(lab)) < 4 * (2 + 4):
        assert time.monotonic() < deadline, f"{len(found)} connections"
        time.sleep(0.05)
    return found


def replaced(lab: Lab, node: str, old: int) -> None:
    """Wait until another agent runs on the node."""
    deadline = time.monotonic() + 20
    while lab.node(node)["agent_pid"] in (0, None, old):
        assert time.monotonic() < deadline, f"{node}: no new agent"
        time.sleep(0.01)


def ready(lab: Lab, node: str) -> None:
    """Wait until the node's agent has reconciled and no controller fails."""
    deadline = time.monotonic() + 30
    while True:
        try:
            lab.cli("policy", "wait", node=node)
            status: dict[str, Any] = json.loads(lab.cli("status", "-o", "json", node=node))
        except LabError:  # the agent is not there yet
            status = {}
        if status and all(line["state"] == "ok" for line in status["lines"]):
            return
        assert time.monotonic() < deadline, f"{node}: {status}"
        time.sleep(0.05)
