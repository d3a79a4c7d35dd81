"""Tables that fill up, in a running cluster: who fills them is told, and nothing else breaks."""

from __future__ import annotations

import json
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.test_load import FLOODED, PODS, PORT, PORTS, everything_alive, loads, said, tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fimbria.lab.client import Lab

__all__ = ["tool"]

HALF_OPEN = 1024
CONFIG = {
    "bpf-ct-half-open-max": str(HALF_OPEN),
    "conntrack-gc-interval": "1",
    "prometheus-serve-addr": ":9962",
    "bpf-policy-map-max": "256",
}

TOO_LARGE = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: too-large, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
"""


def line(lab: Lab, name: str) -> dict[str, Any]:
    """One line of node1's status."""
    words = ["status", "-o", "json"]
    status = json.loads(lab.cli(*words, node="node1"))
    return next(one for one in status["lines"] if one["name"] == name)


def awaited(ask: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
    """Ask until the answer is good; the answer."""
    deadline = time.monotonic() + 30
    while not good(found := ask()):
        assert time.monotonic() < deadline, found
        time.sleep(0.1)
    return found


def scraped(lab: Lab) -> dict[str, float]:
    """What Prometheus would get from node1: name and labels as they stand in the text -> value."""
    script = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:9962/metrics').read().decode())"
    pid = lab.node("node1")["agent_pid"]
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "python3", "-c", script]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [row.rpartition(" ") for row in text.splitlines() if row and not row.startswith("#")]
    return {name: float(value) for name, _, value in rows}


def standings(lab: Lab) -> dict[str, str]:
    """Policies as node1 has them: name -> status."""
    found: dict[str, Any] = json.loads(lab.cli("policy", "get", "-o", "json", node="node1"))
    return {one["name"]: one["status"] for one in found["policies"]}


@pytest.mark.root
@pytest.mark.timeout(180)
def test_a_flood_is_told_of(make_lab: Callable[..., Lab], tool: Path) -> None:
    """While the half-open table is full, status and metrics name it, and the pod that fills it."""
    lab = make_lab(PODS, config=CONFIG)
    pressure = 'cilium_bpf_map_pressure{map_name="cilium_ct_new"}'
    awaited(lambda: scraped(lab), lambda found: found.get(pressure, 1) < 0.5)
    with loads(lab, tool) as made:
        holder = made.start("client", "hold", made.address("near"), PORT, PORTS - 1, 50)
        assert said(holder) == {"open": 50}
        assert everything_alive(holder) == 50
        flood = made.start("attacker", "flood", made.address("far"), FLOODED, 3000, 60)
        alarm = awaited(lambda: line(lab, "BPF maps"), lambda one: one["state"] == "warning")
        assert alarm["text"].startswith("cilium_ct_new ")
        assert "most: default/attacker" in alarm["text"]
        found = awaited(lambda: scraped(lab), lambda found: found[pressure] >= 0.9)
        assert found['cilium_bpf_map_capacity{map_group="cilium_ct_new"}'] == HALF_OPEN
        assert found["cilium_endpoint"] == 3
        assert found['cilium_endpoint_state{endpoint_state="ready"}'] == 3
        assert found['cilium_forward_count_total{direction="EGRESS"}'] > HALF_OPEN
        assert found["cilium_controllers_failing"] == 0
        assert found['cilium_ip_addresses{family="ipv4"}'] >= 3
        assert everything_alive(holder) == 50
        flood.kill()
    listed = json.loads(lab.cli("metrics", "list", "-p", "^cilium_policy_max", "-o", "json"))
    assert [one["name"] for one in listed] == ["cilium_policy_max_revision"]


@pytest.mark.root
@pytest.mark.timeout(180)
def test_a_policy_that_does_not_fit(make_lab: Callable[..., Lab], tool: Path) -> None:
    """It is named as not applied; what is there stays, and what comes after is applied."""
    lab = make_lab(PODS, config=CONFIG)
    with loads(lab, tool) as made:
        holder = made.start("client", "hold", made.address("near"), PORT, PORTS, 20)
        assert said(holder) == {"open": 20}
        ports = "".join(
            f"  - toPorts: [{{ports: [{{port: '{port}', protocol: TCP}}]}}]\n"
            for port in range(20_000, 20_600, 2)
        )
        lab.kubectl("apply", "-f", "-", stdin=TOO_LARGE + ports)
        told = awaited(lambda: line(lab, "Policy"), lambda one: one["state"] != "ok")
        assert "default/too-large" in told["text"]
        assert everything_alive(holder) == 20
        small = TOO_LARGE.replace("too-large", "small").replace("app: server", "app: client")
        lab.kubectl("apply", "-f", "-", stdin=small + "  - {}\n")
        state = awaited(lambda: standings(lab), lambda found: len(found) == 2)
        assert state["small"] == "enforced"
        assert state["too-large"] != "enforced"
        assert everything_alive(holder) == 20
