"""Forwarding does not notice that the agent dies, whenever it dies.

Traffic of every sort runs between two pods of one node and of two nodes under a default-deny
policy, while the agents are killed at random moments (also while they start), and while policy
changes. FIMBRIA_KILLS says how often; `make soak` runs 20.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.datapath import abi
from fimbria.kernel.maps import BpfMap
from fimbria.lab.spec import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.lab.client import Lab

KILLS = int(os.environ.get("FIMBRIA_KILLS", "3"))
TRAFFIC = Path(__file__).with_name("traffic.py")

PODS = """
{kind: Pod, apiVersion: v1, metadata: {name: client, labels: {app: client}},
 spec: {nodeName: node1, containers: [{name: main, image: fimbria/sleep}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: near, labels: {app: server}},
 spec: {nodeName: node1, containers: [{name: main, image: fimbria/sleep}]}}
---
{kind: Pod, apiVersion: v1, metadata: {name: far, labels: {app: server}},
 spec: {nodeName: node2, containers: [{name: main, image: fimbria/sleep}]}}
---
apiVersion: cilium.io/v2
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


def update(number: int) -> dict[str, Any]:
    """A policy about the same pods that changes with every number, and no verdict of ours."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "changing", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "server"}},
            "ingress": [
                {
                    "fromEndpoints": [{"matchLabels": {"app": "other"}}],
                    "toPorts": [{"ports": [{"port": str(8000 + number % 100)}]}],
                }
            ],
        },
    }


def inside(lab: Lab, pod: str, *words: str) -> subprocess.Popen[str]:
    """traffic.py in a pod's network namespace."""
    return subprocess.Popen(
        ["nsenter", f"--net={lab.pod(pod)['netns']}", sys.executable, str(TRAFFIC), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def traffic(make_lab: Callable[..., Lab]) -> Iterator[tuple[Lab, Callable[[], dict[str, Any]]]]:
    """A lab with traffic running; the callable ends the traffic and gives its report."""
    lab = make_lab(PODS, ipv6=True)
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

        yield lab, report
    finally:
        for process in processes:
            process.kill()
            process.communicate()


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


@pytest.mark.root
@pytest.mark.timeout(90 + 15 * KILLS)
def test_agents_killed_under_load(
    traffic: tuple[Lab, Callable[[], dict[str, Any]]],
) -> None:
    """0 broken connections, 0 failed new ones, 0 forbidden ones let through, conntrack kept."""
    lab, report = traffic
    rng = random.Random(os.environ.get("FIMBRIA_SEED", "1"))
    before = long_lived(lab)
    over = threading.Event()
    failures: list[BaseException] = []

    def change_policy() -> None:
        path = "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies"
        number = 0
        while not over.is_set():
            number += 1
            status, answer = lab.api("POST", path, update(number))
            if status == 409:
                status, answer = lab.api("PATCH", f"{path}/changing", update(number))
            if status >= 300:
                failures.append(AssertionError(answer))
                return
            over.wait(0.1)

    changes = threading.Thread(target=change_policy)
    changes.start()
    try:
        for number in range(KILLS):
            node = ("node1", "node2")[number % 2]
            # Every third kill meets an agent that is starting, at any point of its start.
            time.sleep(rng.uniform(0.0, 0.8) if number % 3 == 2 else rng.uniform(0.5, 2.0))
            pid = lab.node(node)["agent_pid"]
            if pid:
                os.kill(pid, signal.SIGKILL)
                replaced(lab, node, pid)
            if number % 3 == 0:
                ready(lab, node)
    finally:
        over.set()
        changes.join()
    for node in ("node1", "node2"):
        ready(lab, node)
    after = long_lived(lab)
    found = report()
    assert not failures
    assert found["broken"] == []
    assert before <= after, "connections were lost from conntrack"
    counts = found["counts"]
    for sort in ("stream", "request", "connect", "udp", "ping", "forbidden"):
        assert counts[sort] > 0, counts
