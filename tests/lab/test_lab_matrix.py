"""Every pod reaches every pod and node, whatever the routing, on both families."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.sources import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fimbria.lab.client import Lab

pytestmark = pytest.mark.root

CONFIGURATIONS = ("tunnel", "native", "tunnel-legacy", "native-legacy")
PODS = {"a": "node1", "b": "node1", "c": "node2"}
MANIFEST = "---".join(
    f"""
apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: matrix}}
spec:
  nodeName: {node}
  containers:
  - name: echo
    image: fimbria/echo
    ports: [{{containerPort: 80}}, {{containerPort: 81, protocol: UDP}}]
"""
    for name, node in PODS.items()
)
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: matrix}\n---"


@pytest.fixture(params=CONFIGURATIONS)
def matrix(
    request: pytest.FixtureRequest,
    lab_pool: Callable[[str], Lab],
    tmp_path_factory: pytest.TempPathFactory,
) -> Lab:
    """A lab of each configuration with a and b on node1, c on node2."""
    lab = lab_pool(request.param)
    file = tmp_path_factory.mktemp("matrix") / "pods.yaml"
    file.write_text(NAMESPACE + MANIFEST)
    lab.wait(lab.apply(files.read([file])))
    return lab


def address(entry: dict[str, Any], family: int) -> str:
    return next(a for a in entry["addresses"] if (":" in a) == (family == 6))


def url(host: str) -> str:
    return f"http://[{host}]/" if ":" in host else f"http://{host}/"


def curl(host: str) -> list[str]:
    return ["curl", "-s", "-m", "5", url(host)]


def on_node(lab: Lab, node: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    entering = ["nsenter", f"--net={lab.node(node)['netns']}", "--"]
    return subprocess.run([*entering, *command], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("family", [4, 6])
def test_pod_to_pod(matrix: Lab, family: int) -> None:
    """Same node and across nodes, TCP and ping, and the receiver sees the sender's own address."""
    pods = {name: matrix.pod(name, "matrix") for name in PODS}
    for source, target in (("a", "b"), ("a", "c"), ("c", "b")):
        there = address(pods[target], family)
        done = matrix.exec(f"matrix/{source}", curl(there))
        assert done.returncode == 0, f"{source} -> {target}: {done.stderr}"
        answer = json.loads(done.stdout)
        assert answer["pod"] == target
        assert answer["client"]["address"] == address(pods[source], family)
        ping = matrix.exec(f"matrix/{source}", ["ping", "-c", "1", "-W", "5", there])
        assert ping.returncode == 0, f"{source} -> {target}: {ping.stdout}"


@pytest.mark.parametrize("family", [4, 6])
def test_node_to_pod(matrix: Lab, family: int) -> None:
    """A node reaches its own pods and those of other nodes."""
    for node, target in (("node1", "a"), ("node1", "c"), ("node2", "a")):
        done = on_node(matrix, node, curl(address(matrix.pod(target, "matrix"), family)))
        assert done.returncode == 0, f"{node} -> {target}"
        assert json.loads(done.stdout)["pod"] == target


@pytest.mark.parametrize("family", [4, 6])
def test_pod_to_node(matrix: Lab, family: int) -> None:
    """A pod reaches its node and the other one."""
    for node in ("node1", "node2"):
        there = address(matrix.node(node), family)
        done = matrix.exec("matrix/a", ["ping", "-c", "1", "-W", "5", there])
        assert done.returncode == 0, f"a -> {node}: {done.stdout}"


def test_large_segments_and_packets(matrix: Lab) -> None:
    """A megabyte of TCP and a datagram as large as the MTU allows cross the nodes."""
    there = address(matrix.pod("c", "matrix"), 4)
    body = "x" * 1_000_000
    send = ["curl", "-s", "-m", "10", "-X", "POST", "--data-binary", "@-", "-o", "/dev/null"]
    done = matrix.exec("matrix/a", [*send, "-w", "%{http_code}", url(there)], stdin=body[:60_000])
    assert done.stdout == "200", done.stderr
    mtu = int(matrix.exec("matrix/a", ["cat", "/sys/class/net/eth0/mtu"]).stdout or "1500")
    assert mtu > 0
    ping = ["ping", "-c", "1", "-W", "5", "-M", "do", "-s", "1300", there]
    assert matrix.exec("matrix/a", ping).returncode == 0


def test_a_deleted_pods_address_is_unreachable(matrix: Lab, tmp_path: Path) -> None:
    """The node answers for an address of its pod CIDR that no pod has."""
    pod = {"metadata": {"name": "gone", "namespace": "matrix"}}
    spec = {"nodeName": "node2", "containers": [{"name": "c", "image": "fimbria/sleep"}]}
    file = tmp_path / "gone.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", **pod, "spec": spec}))
    matrix.wait(matrix.apply(files.read([file])))
    there = address(matrix.pod("gone", "matrix"), 4)
    matrix.kubectl("delete", "pod", "-n", "matrix", "gone")
    done = matrix.exec("matrix/a", ["ping", "-c", "1", "-W", "5", there])
    assert done.returncode == 1
    assert "nreachable" in done.stdout
