"""A full node's agent starts again: two hundred endpoints, as they were."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.kernel.maps import BpfMap
from tests.lab.load import ready, replaced

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.lab.client import Lab

pytestmark = pytest.mark.root

PODS, POLICIES = 200, 50
UNCHANGED = ("cilium_lxc", "cilium_devices", "cilium_ipcache", "cilium_policy_ref")
CNPS = "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies"

MANY = """
apiVersion: apps/v1
kind: Deployment
metadata: {{name: many}}
spec:
  replicas: {pods}
  selector: {{matchLabels: {{app: many}}}}
  template:
    metadata: {{labels: {{app: many}}}}
    spec: {{containers: [{{name: main, image: fimbria/sleep}}]}}
"""


def policy(number: int) -> dict[str, Any]:
    """A policy that selects every pod."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": f"p{number}", "namespace": "default"},
        "spec": {
            "endpointSelector": {"matchLabels": {"app": "many"}},
            "ingress": [{"toPorts": [{"ports": [{"port": str(7000 + number)}]}]}],
        },
    }


def maps(lab: Lab) -> dict[str, dict[bytes, bytes]]:
    """What packets meet."""
    folder = Path(lab.node("node1")["bpffs"]) / "tc" / "globals"
    found: dict[str, dict[bytes, bytes]] = {}
    for name in UNCHANGED:
        with BpfMap.open(folder / name) as held:
            found[name] = held.items()
    return found


def endpoints(lab: Lab) -> dict[int, Any]:
    """What is known of each endpoint that a restart must not change."""
    shown = json.loads(lab.cli("endpoint", "list", "-o", "json", node="node1"))
    new = ("log", "policy-revision")
    return {one["id"]: {k: v for k, v in one.items() if k not in new} for one in shown}


@pytest.fixture
def full(make_lab: Callable[..., Lab]) -> Lab:
    """One node with PODS pods and POLICIES policies."""
    lab = make_lab(MANY.format(pods=PODS), nodes=1)
    for number in range(POLICIES):
        status, answer = lab.api("POST", CNPS, policy(number))
        assert status == 201, answer
    ready(lab, "node1")
    return lab


@pytest.mark.timeout(180)
def test_a_full_node_is_taken_over_as_it_is(full: Lab) -> None:
    """After kill -9 every endpoint has its id, identity, addresses and policy; no map changed."""
    before, rows = endpoints(full), maps(full)
    assert len(before) == PODS
    assert len(list((Path(full.node("node1")["bpffs"]) / "fimbria" / "links").iterdir())) > PODS
    pid = full.node("node1")["agent_pid"]
    os.kill(pid, signal.SIGKILL)
    replaced(full, "node1", pid)
    ready(full, "node1")
    assert endpoints(full) == before
    assert maps(full) == rows


@pytest.mark.timeout(120)
def test_started_while_the_api_hangs(make_lab: Callable[..., Lab]) -> None:
    """An API that does not answer delays the first reconcile and takes nothing away."""
    lab = make_lab(MANY.format(pods=3), nodes=1)
    ready(lab, "node1")
    rows, routes = maps(lab), routes_of(lab)
    assert "unreachable" in routes
    node = lab.node("node1")
    api = lab.status()["apiserver_pid"]
    os.kill(api, signal.SIGSTOP)
    try:
        os.kill(node["agent_pid"], signal.SIGKILL)
        replaced(lab, "node1", node["agent_pid"])
        deadline = time.monotonic() + 60
        while "pod CIDRs as last known" not in log(lab):
            assert time.monotonic() < deadline, log(lab)
            time.sleep(0.05)
        assert maps(lab) == rows
    finally:
        os.kill(api, signal.SIGCONT)
    ready(lab, "node1")
    assert maps(lab) == rows
    assert routes_of(lab) == routes


def log(lab: Lab) -> str:
    return lab.paths.agent_log("node1").read_text()


def routes_of(lab: Lab) -> str:
    command = ["nsenter", f"--net={lab.node('node1')['netns']}", "ip", "route"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
