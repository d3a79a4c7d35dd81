"""What pods' identities are made of, as offline commands are told it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from fimbria.cli.main import root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from click.testing import Result

    from tests.unit.cli.conftest import RecordedAgent

WORLD = """
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web, tier: front}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db, tier: back}}
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: default}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress: [{fromEndpoints: [{matchLabels: {io.cilium.k8s.policy.cluster: east}}]}]
"""
PASSES = "path from app=web to app=db on TCP/80"
FLOW = '{"source": "default/web", "destination": "default/db", "protocol": "TCP", "port": 80}\n'


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "world.yaml"
    path.write_text(WORLD)
    return path


def policy(*words: str | Path, stdin: str = "", code: int | None = 0) -> str:
    """What `fimbria policy WORDS` prints."""
    done = CliRunner().invoke(root, ["policy", *map(str, words)], input=stdin)
    assert code is None or done.exit_code == code, done.output
    return done.output


@pytest.mark.parametrize(
    ("words", "stdin"),
    [
        (["prove", PASSES], ""),
        (["eval", "--flows", "-"], FLOW),
        (["explain", "web", "db", "80"], ""),
        (["matrix", "--pods-only", "--port", "80"], ""),
        (["trace", "--src-k8s-pod", "default:web", "--dst-k8s-pod", "default:db"], ""),
    ],
)
def test_a_cluster_of_another_name(words: list[str], stdin: str, manifests: Path) -> None:
    """A policy that names the cluster is judged as in the cluster of that name."""
    told = [
        policy(*words, "-f", manifests, "--cluster-name", name, stdin=stdin, code=None).replace(
            f"cluster={name}", "cluster=NAME"
        )
        for name in ("default", "west", "east")
    ]
    assert told[0] == told[1] != told[2]


def test_the_same_policy_in_two_clusters(manifests: Path, tmp_path: Path) -> None:
    """Versions of policies are compared as in the cluster of that name."""
    new = tmp_path / "new.yaml"
    new.write_text(WORLD.replace("east", "west"))
    assert "No verdict changes" in policy("diff", manifests, new)
    assert "TCP: DENIED -> ALLOWED" in policy(
        "diff", manifests, new, "--cluster-name", "west", code=1
    )


def test_lint_knows_the_cluster(manifests: Path) -> None:
    """A peer that names the cluster selects its pods."""
    assert "peer-selects-nothing" in policy("lint", manifests, code=1)
    assert "peer-selects-nothing" not in policy(
        "lint", manifests, "--cluster-name", "east", code=None
    )


def test_labels_that_make_no_identity(manifests: Path) -> None:
    """Pods lose the labels that the agent's option leaves out; what is no rule is told."""
    east = ["-f", manifests, "--cluster-name", "east"]
    policy("prove", PASSES, *east)
    assert "vacuous" in policy("prove", PASSES, *east, "--labels", "!app", code=None)
    assert "label rule '('" in policy("prove", PASSES, *east, "--labels", "(", code=2)


def test_a_change_is_read_as_the_node_reads(
    ask: Callable[..., Result], agent: RecordedAgent, tmp_path: Path
) -> None:
    """`whatif` takes the cluster's name from the node that it asks."""
    where = ["k8s:io.cilium.k8s.policy.cluster=east", "k8s:io.kubernetes.pod.namespace=default"]
    config: dict[str, object] = {
        "cluster-name": "east", "labels": "", "enable-policy": "default",
        "policy-cidr-match-mode": [], "enable-node-selector-labels": False,
        "enable-host-firewall": False,
    }  # fmt: skip
    agent.give("/v1/config", {key: {"effective": value} for key, value in config.items()})
    identities = {
        name: {"id": number, "labels": [f"k8s:app={name}", *where]}
        for number, name in ((1001, "web"), (1002, "db"))
    }
    agent.give("/v1/endpoint", [
        {"namespace": "default", "pod": name, "identity": identity,
         "networking": {"addressing": [{"ipv4": f"10.0.1.{last}"}]}}
        for last, (name, identity) in enumerate(identities.items(), 1)
    ])  # fmt: skip
    agent.give("/v1/policy", {"policies": [], "revision": 1})
    agent.give("/v1/cluster/nodes", [])
    change, flows = tmp_path / "change.yaml", tmp_path / "flows.jsonl"
    pods = "fromEndpoints: [{matchLabels: {io.cilium.k8s.policy.cluster: east}}]"
    change.write_text(WORLD.rpartition("---")[2].replace(pods, "fromEntities: [cluster]"))
    assert "fromEntities" in change.read_text()
    flows.write_text(FLOW)
    done = ask("policy", "whatif", "-f", str(change), "--flows", str(flows), "-o", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["groups"] == []
