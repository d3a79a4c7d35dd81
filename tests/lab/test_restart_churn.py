"""Pods come and go while the agent is killed: nobody is forgotten, and nothing is left behind."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fimbria.datapath.abi import EndpointInfo
from fimbria.kernel.maps import BpfMap
from fimbria.lab.spec import LabError
from tests.lab.load import ready, replaced

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.lab.client import Lab

KILLS = 3
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
CEPS = "/apis/cilium.io/v2/namespaces/default/ciliumendpoints"
MANIFEST = """
{kind: Deployment, apiVersion: apps/v1, metadata: {name: churn}, spec: {replicas: 2,
 selector: {matchLabels: {app: churn}}, template: {metadata: {labels: {app: churn}},
 spec: {containers: [{name: main, image: fimbria/sleep}]}}}}
"""


def devices(lab: Lab) -> list[str]:
    """The node's pod devices."""
    command = ["nsenter", f"--net={lab.node('node1')['netns']}", "ip", "-j", "link"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return [one["ifname"] for one in shown if one["ifname"].startswith("lxc")]


def found(lab: Lab) -> dict[str, int]:
    """How many pods each part of the system knows."""
    bpffs = Path(lab.node("node1")["bpffs"])
    with BpfMap.open(bpffs / "tc/globals/cilium_lxc") as table:
        rows = [EndpointInfo.unpack(value).lxc_id for value in table.items().values()]
    with BpfMap.open(bpffs / "tc/globals/cilium_devices") as table:
        known = table.count()
    links = [pin for pin in (bpffs / "fimbria/links").iterdir() if pin.name.startswith("lxc")]
    return {
        "ready pods": sum(pod["ready"] for pod in lab.status()["pods"]),
        "endpoints": len(json.loads(lab.cli("endpoint", "list", "-o", "json", node="node1"))),
        "published": len(lab.api("GET", CEPS)[1]["items"]),
        "devices": len(devices(lab)),
        "links": len(links),
        "cilium_devices": known,
        "cilium_lxc": len({number for number in rows if number}),
    }


def scale(lab: Lab, replicas: int, rng: random.Random) -> None:
    """Change the number of pods, kill the agent meanwhile, and wait until all agree on it."""
    status, answer = lab.api("PATCH", f"{DEPLOYMENTS}/churn", {"spec": {"replicas": replicas}})
    assert status == 200, answer
    for _ in range(KILLS):
        time.sleep(rng.uniform(0.0, 0.6))  # the moment is what varies
        pid = lab.node("node1")["agent_pid"]
        if pid:
            os.kill(pid, signal.SIGKILL)
        replaced(lab, "node1", pid)
    deadline = time.monotonic() + 60
    counts: dict[str, int] = {}
    while set(counts.values()) != {replicas}:
        assert time.monotonic() < deadline, counts
        time.sleep(0.1)
        try:
            counts = found(lab)
        except LabError:
            continue  # the agent is not there yet
    ready(lab, "node1")


@pytest.mark.root
@pytest.mark.timeout(240)
def test_pods_come_and_go_while_the_agent_dies(make_lab: Callable[..., Lab]) -> None:
    """Pods, endpoints, objects, devices, links and map rows are the same number in the end."""
    rng = random.Random(os.environ.get("FIMBRIA_SEED", "1"))
    lab = make_lab(MANIFEST, nodes=1)
    for replicas in (20, 4):
        scale(lab, replicas, rng)
