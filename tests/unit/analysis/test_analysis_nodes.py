"""Policies about nodes, and rules that name nodes by their labels, judged offline."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from fimbria.analysis import Engine, load
from fimbria.cli.main import root

if TYPE_CHECKING:
    from pathlib import Path

WORLD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec: {nodeName: edge}
---
apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db}}
spec: {nodeName: core}
---
apiVersion: v1
kind: Node
metadata: {name: edge, labels: {role: edge}}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: core, labels: {role: core}}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: edge-nodes}
spec:
  nodeSelector: {matchLabels: {role: edge}}
  ingress:
  - fromEntities: [remote-node]
  - fromEndpoints: [{matchLabels: {app: db}}]
    toPorts: [{ports: [{port: "22", protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  egress:
  - toNodes: [{matchLabels: {role: edge}}]
    toPorts: [{ports: [{port: "22", protocol: TCP}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: web}
spec:
  endpointSelector: {matchLabels: {app: web}}
  ingress:
  - fromNodes: [{matchLabels: {role: core}}]
  egress:
  - toNodes: [{matchLabels: {role: edge}}]
"""
Row = tuple[str, str, int, str, str, str]
ROWS: list[Row] = [
    ("default/db", "node:edge", 22, "ALLOWED", "allow rule", "allow rule"),
    ("default/db", "172.18.0.2", 80, "DENIED", "default deny", "default deny"),
    ("default/db", "node:core", 22, "DENIED", "default deny", "not selected"),
    ("node:core", "node:edge", 80, "ALLOWED", "not selected", "allow rule"),
    ("192.0.2.1", "node:edge", 80, "DENIED", "not selected", "default deny"),
    ("node:edge", "192.0.2.1", 80, "ALLOWED", "not selected", "not selected"),
    ("default/web", "node:edge", 22, "DENIED", "allow rule", "default deny"),
    ("default/web", "node:core", 22, "DENIED", "default deny", "not selected"),
    ("node:core", "default/web", 22, "ALLOWED", "not selected", "allow rule"),
    ("node:edge", "default/web", 22, "ALLOWED", "not selected", "local node"),
]


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "world.yaml"
    path.write_text(WORLD)
    return path


@pytest.mark.parametrize("judge", ["maps", "model"])
@pytest.mark.parametrize("row", ROWS)
def test_nodes(manifests: Path, row: Row, judge: str) -> None:
    """A node is an endpoint of its own view; to its pods it is the host."""
    world = load([manifests], node_labels=True)
    assert not world.warnings + world.errors
    engine = Engine(world, judge=judge, host_firewall=True)
    source, destination, port, *said = row
    flow = {"source": source, "destination": destination, "protocol": "TCP", "port": port}
    one = engine.eval(flow)
    assert [one.verdict, one.egress.reason, one.ingress.reason] == said


def test_options(manifests: Path) -> None:
    """The command takes the agent's options; without, rules are refused and nodes are open."""
    flow = json.dumps({"source": "default/db", "destination": "node:edge", "protocol": "TCP",
                       "port": 22})  # fmt: skip
    arguments = ["policy", "eval", "-f", str(manifests), "--flows", "-", "--judge", "all"]
    enabled = ["--enable-node-selector-labels", "--enable-host-firewall"]
    done = CliRunner().invoke(root, [*arguments, *enabled], input=flow)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["verdict"] == "ALLOWED"
    done = CliRunner().invoke(root, arguments, input=flow)
    assert "toNodes: needs enable-node-selector-labels" in done.stderr
    found = json.loads(done.stdout)
    assert found["egress"]["reason"] == "refused policy"
    assert found["ingress"]["reason"] == "not selected"


def test_many_is_one_by_one(manifests: Path) -> None:
    """Many flows together get what each gets alone."""
    engine = Engine(load([manifests], node_labels=True), host_firewall=True)
    flows = [
        {"source": row[0], "destination": row[1], "protocol": "TCP", "port": row[2]} for row in ROWS
    ]
    assert list(engine.eval_many(flows * 30)) == [engine.eval(flow) for flow in flows] * 30


def too_large(subject: str, peers: str, count: int) -> str:
    """A policy that takes 30 entries for each of `count` prefixes, and for each of `peers`."""
    nets = ", ".join(f"50.{number // 256}.{number % 256}.0/24" for number in range(count))
    direction, word = ("egress", "to") if peers else ("ingress", "from")
    ports = 'toPorts: [{ports: [{port: "1", endPort: 65534, protocol: TCP}]}]'
    rules = [f"{word}CIDR: [{nets}]", *([peers] if peers else [])]
    return f"""\
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {{name: too-large}}
spec:
  {subject}
  {direction}:
""" + "".join(f"  - {rule}\n    {ports}\n" for rule in rules)


def test_a_node_whose_own_policy_is_too_large(manifests: Path) -> None:
    """The warning names the node, which is judged as open; without host firewall there is none.

    No other node and no pod is concerned.
    """
    text = too_large("nodeSelector: {matchLabels: {role: core}}", "", 600)
    manifests.write_text(WORLD + text)
    world = load([manifests])
    problem = (
        "node core is judged as open: its policy needs 18000 entries, bpf-policy-map-max allows"
        " 16384; an agent would leave a policy out"
    )
    engine = Engine(world, host_firewall=True)
    assert engine.problems == [problem]
    assert engine.eval(
        {"source": "192.0.2.1", "destination": "node:core", "protocol": "TCP", "port": 1}
    ).allowed
    assert Engine(world).problems == []
    arguments = ["policy", "eval", "-f", str(manifests), "--flows", "-", "--enable-host-firewall"]
    done = CliRunner().invoke(root, arguments, input="")
    assert done.stderr.splitlines().count(f"warning: {problem}") == 1


def test_a_policy_that_is_too_large_on_one_node_only(manifests: Path) -> None:
    """Nodes of equal labels are one peer to pods elsewhere, and two to a pod that runs on one."""
    twin = WORLD.split("---\n")[2].replace("edge, labels", "twin, labels").replace("0.2}", "0.4}")
    pods_and_nodes = [*WORLD.split("---\n")[:4], twin]
    text = too_large(
        "endpointSelector: {matchLabels: {app: web}}", "toNodes: [{matchLabels: {role: edge}}]", 545
    )
    manifests.write_text("---\n".join(pods_and_nodes) + text)
    engine = Engine(load([manifests], node_labels=True))
    (problem,) = engine.problems
    assert " on node edge is judged as closed: its policy needs 16410 entries, " in problem
    flow = {"source": "default/web", "destination": "node:edge", "protocol": "TCP", "port": 1}
    assert not engine.eval(flow).allowed
    assert engine.eval(flow | {"destination": "node:twin"}).allowed
