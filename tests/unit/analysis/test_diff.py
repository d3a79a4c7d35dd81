"""`policy diff`: what changes, nothing else, and what it prints."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import yaml
from click.testing import CliRunner

from fimbria.analysis import from_documents
from fimbria.analysis.diff import Difference, diff
from fimbria.cli.main import root

if TYPE_CHECKING:
    from pathlib import Path

PODS = """\
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
---
apiVersion: v1
kind: Pod
metadata: {name: tool, namespace: dev, labels: {app: tool}}
"""
BASE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
  - from: [{podSelector: {matchLabels: {app: web}}}]
    ports: [{port: 5432}]
"""
SAME = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: other-name, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
  - fromEndpoints: [{matchLabels: {app: web}}]
    toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
  - fromEndpoints: [{matchLabels: {app: web, k8s:io.kubernetes.pod.namespace: shop}}]
    toPorts: [{ports: [{port: "5432", endPort: 5432, protocol: TCP}]}]
"""


def world(*texts: str) -> Any:
    documents = [one for text in texts for one in yaml.safe_load_all(text)]
    found = from_documents(documents)
    assert not found.errors
    return found


def lines(found: Difference) -> list[str]:
    """Each change as `sources > destinations: ports before after`."""
    return [
        f"{' '.join(map(str, c.sources))} > {' '.join(map(str, c.destinations))}: "
        + ", ".join(f"{t.atom} {t.before[0]}{t.after[0]}" for t in c.turns)
        for c in found.changes
    ]


def test_other_words_change_nothing() -> None:
    """Another kind of object, another name, a rule twice: the verdicts are the same."""
    assert not diff(world(PODS, BASE), world(PODS, SAME))


def test_a_port() -> None:
    """What was open and is closed, and the other way round, in one change."""
    found = diff(world(PODS, BASE), world(PODS, BASE.replace("5432", "5433")))
    assert lines(found) == ["shop/web > shop/db: TCP 5432 AD, TCP 5433 DA"]
    (change,) = found.changes
    before, after = change.deciding
    assert before is not None
    assert after is not None
    assert (before.rule, after.reason) == ("spec.ingress[0].ports[0]", "default deny")


def test_a_range_splits_where_rules_do() -> None:
    """A range that is opened beside a port that was open already."""
    wider = BASE.replace("{port: 5432}", "{port: 5000, endPort: 6000}")
    found = diff(world(PODS, BASE), world(PODS, wider))
    assert lines(found) == ["shop/web > shop/db: TCP 5000-5431 DA, TCP 5433-6000 DA"]


def test_addresses() -> None:
    """A CIDR with an exception: the ranges that open, and not the exception."""
    peers = "{podSelector: {matchLabels: {app: web}}}"
    block = "{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}"
    found = diff(world(PODS, BASE), world(PODS, BASE.replace(peers, f"{peers}, {block}")))
    assert lines(found) == ["10.0.0.0/8 > shop/db: TCP 5432 DA"]
    narrower = diff(
        world(PODS, BASE.replace(peers, "{ipBlock: {cidr: 10.0.0.0/8}}")),
        world(PODS, BASE.replace(peers, block)),
    )
    assert lines(narrower) == ["10.1.0.0/16 > shop/db: TCP 5432 AD"]


def test_pods_of_one_version_are_told() -> None:
    """They are not compared, and the answer says so."""
    more = PODS + "---\n" + PODS.split("---")[2].replace("tool", "new")
    found = diff(world(PODS, BASE), world(more, BASE))
    assert (found.changes, found.only_new) == ((), ("dev/new",))


def test_pods_may_be_in_one_version_only() -> None:
    """A folder of policies against a folder with everything."""
    found = diff(world(BASE), world(PODS, BASE.replace("5432", "5433")))
    assert len(found.changes) == 1


def test_command(tmp_path: Path) -> None:
    """Exit codes, the table and JSON."""
    names = ("pods", "old", "same", "new", "bad")
    for name, text in (("pods", PODS), ("old", BASE), ("same", SAME),
                       ("new", BASE.replace("5432", "5433")), ("bad", "kind: [")):  # fmt: skip
        (tmp_path / f"{name}.yaml").write_text(text)

    def run(*words: str) -> Any:
        given = [str(tmp_path / f"{word}.yaml") if word in names else word for word in words]
        return CliRunner().invoke(root, ["policy", "diff", *given])

    same = run("old", "same", "-f", "pods")
    assert (same.exit_code, same.output) == (0, "No verdict changes.\n")
    other = run("old", "new", "-f", "pods")
    assert other.exit_code == 1
    assert "shop/web -> shop/db\n    TCP 5432: ALLOWED -> DENIED\n" in other.output
    assert "old.yaml:8)" in other.output
    document = json.loads(run("old", "new", "-f", "pods", "-o", "json").stdout)
    (change,) = document["changes"]
    assert change["ports"][0] == {
        "protocol": "TCP", "first": 5432, "last": 5432, "before": "ALLOWED", "after": "DENIED",
    }  # fmt: skip
    assert change["example"]["destination"] == "shop/db"
    bad = run("old", "bad", "-f", "pods")
    assert bad.exit_code == 2
    assert "bad.yaml" in bad.stderr
