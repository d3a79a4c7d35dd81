"""What a change would have denied, foretold from recorded traffic, and then seen to happen."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.hostlab import until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fimbria.lab.client import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

PODS = """
kind: Pod
apiVersion: v1
metadata: {name: server, labels: {app: server}}
spec:
  nodeName: node2
  containers: [{name: main, image: fimbria/echo, ports: [{containerPort: 80}]}]
---
kind: Pod
apiVersion: v1
metadata: {name: friend, labels: {app: friend}}
spec:
  nodeName: node1
  containers: [{name: main, image: fimbria/echo}]
---
kind: Pod
apiVersion: v1
metadata: {name: stranger, labels: {app: stranger}}
spec:
  nodeName: node2
  containers: [{name: main, image: fimbria/echo}]
"""
CHANGE = """
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: friends-only, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: server}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: friend}}]
      toPorts: [{ports: [{port: "80", protocol: TCP}]}]
"""
CONNECT = """
import socket, sys
s = socket.socket(type=socket.SOCK_STREAM if sys.argv[3] == "TCP" else socket.SOCK_DGRAM)
s.settimeout(1)
try:
    s.connect((sys.argv[1], int(sys.argv[2])))
    s.send(b"x")
except ConnectionRefusedError:
    pass
except TimeoutError:
    sys.exit(3)
"""
TRAFFIC = (
    ("friend", 80, "TCP", 3), ("stranger", 80, "TCP", 4), ("friend", 81, "TCP", 2),
    ("stranger", 53, "UDP", 2),
)  # fmt: skip
"""Who connects to the server, where, how, and how often."""
DENIED = {("stranger", 80, "TCP"): 4, ("friend", 81, "TCP"): 2, ("stranger", 53, "UDP"): 2}


def whatif(lab: Lab, *words: str) -> tuple[int, dict[str, Any]]:
    """Exit code and document of `fimbria policy whatif`, asked of the server's node."""
    done = subprocess.run(
        [sys.executable, "-m", "fimbria.cli.main", "--lab", f"{lab.name}/node2",
         "policy", "whatif", "-o", "json", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def run_traffic(lab: Lab) -> set[tuple[str, int, str]]:
    """Make all connections; what was never answered."""
    address = lab.pod("server")["addresses"][0]
    silent: set[tuple[str, int, str]] = set()
    for pod, port, protocol, times in TRAFFIC:
        for _ in range(times):
            words = ["python3", "-c", CONNECT, address, str(port), protocol]
            done = lab.exec(pod, words)
            assert done.returncode in (0, 3), done.stderr
            if done.returncode:
                silent.add((pod, port, protocol))
    return silent


def foretold(document: dict[str, Any]) -> dict[tuple[str, int, str], int]:
    """Connections that would be denied, by who, where and how."""
    found: dict[tuple[str, int, str], int] = {}
    for group in document["groups"]:
        assert group["after"]["verdict"] == "DENIED"
        assert group["destinations"] == ["default/server"]
        (source,) = group["sources"]
        found[source.removeprefix("default/"), group["port"], group["protocol"]] = group[
            "connections"
        ]
    return found


def events(lab: Lab) -> str:
    """What the server's node has recorded."""
    return lab.cli("monitor", "--last", "4096", "-o", "json", node="node2")


def drops(lab: Lab) -> set[tuple[str, int, str]]:
    """What policy has dropped at the server."""
    names = {6: "TCP", 17: "UDP"}
    found = [json.loads(line) for line in events(lab).splitlines()]
    return {
        (one["src_pod"].removeprefix("default/"), one["dport"], names[one["protocol"]])
        for one in found
        if one["type"] == "drop" and one["dst_pod"] == "default/server"
    }


def test_what_is_foretold_happens(make_lab: Callable[..., Lab], tmp_path: Path) -> None:
    """The change denies exactly the connections that were named, and no others."""
    lab = make_lab(PODS)
    assert run_traffic(lab) == set()
    change, recorded = tmp_path / "change.yaml", tmp_path / "flows.jsonl"
    change.write_text(CHANGE)
    recorded.write_text(events(lab))

    code, document = whatif(lab, "-f", str(change), "--flows", str(recorded))
    assert (code, foretold(document)) == (1, DENIED)
    assert document["denied"] == 8
    assert document["recordedOtherwise"] == 0
    reasons = {group["after"]["ingress"]["policy"]["name"] for group in document["groups"]}
    assert reasons == {"friends-only"}
    assert whatif(lab, "-f", str(change))[1]["denied"] == 8

    lab.kubectl("apply", "-f", str(change))
    until(lambda: "friends-only" in lab.cli("policy", "list", node="node2"), "the policy is known")
    lab.cli("policy", "wait", node="node2")
    silent = run_traffic(lab)
    assert silent == {one for one in DENIED if one[2] == "TCP"}
    until(lambda: drops(lab) == set(DENIED), "drops are those foretold")

    # Taken away again, all of the first traffic and of the second would pass.
    recorded.write_text(events(lab))
    gone = ("--delete", "cnp/default/friends-only", "--flows", str(recorded))
    code, document = whatif(lab, *gone)
    assert code == 1
    assert document["denied"] == 0
    assert document["allowed"] == 16
    assert document["recordedOtherwise"] == 8


NODES = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: friends-only}
spec:
  nodeSelector: {matchLabels: {role: server}}
  ingress:
    - fromNodes: [{matchLabels: {role: client}}]
    - fromEntities: [kube-apiserver]
    - fromEndpoints: [{matchLabels: {app: friend}}]
      toPorts: [{ports: [{port: "8080", protocol: TCP}]}]
"""


def test_a_node_is_judged_with_its_own_settings(
    make_lab: Callable[..., Lab], tmp_path: Path
) -> None:
    """A policy about nodes would deny what was seen to come to the node from others than these."""
    config = {"enable-host-firewall": "true", "enable-node-selector-labels": "true"}
    lab = make_lab(PODS, config=config)
    for number, role in ((1, "client"), (2, "server")):
        lab.kubectl("label", "node", f"node{number}", f"role={role}")
    address = lab.node("node2")["addresses"][0]

    def connect(pod: str, port: int) -> None:
        done = lab.exec(pod, ["python3", "-c", CONNECT, address, str(port), "TCP"])
        assert done.returncode == 0, done.stderr

    for port in (8080, 8081):
        connect("friend", port)
        connect("stranger", port)
    netns = lab.node("node1")["netns"]
    words = ["nsenter", f"--net={netns}", sys.executable, "-c", CONNECT, address, "8080", "TCP"]
    subprocess.run(words, check=True)
    change = tmp_path / "change.yaml"
    change.write_text(NODES)

    def denied() -> set[tuple[str, int]]:
        found = whatif(lab, "-f", str(change))[1]["groups"]
        return {(name, group["port"]) for group in found for name in group["sources"]}

    wanted = {("default/friend", 8081), ("default/stranger", 8080), ("default/stranger", 8081)}
    until(lambda: denied() == wanted, "what is foretold is what comes from others")
