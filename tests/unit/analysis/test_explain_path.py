"""`policy explain` and offline `policy trace`: the lines of the file, and cures that work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click import UsageError
from click.testing import CliRunner

from fimbria.analysis import Engine, Flow, load
from fimbria.analysis.additions import NoAddition, smallest
from fimbria.analysis.explain_path import explain, lines
from fimbria.cli.main import root
from fimbria.cli.policy_explain import end_of

if TYPE_CHECKING:
    from pathlib import Path

    from fimbria.analysis.additions import Edit

PODS = """\
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web, tier: front}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-canary, namespace: shop, labels: {app: web, tier: front, canary: "yes"}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
---
apiVersion: v1
kind: Pod
metadata: {name: probe, namespace: watch, labels: {app: probe}}
---
"""
OWN = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  endpointSelector:
    matchLabels: {app: db}
  ingress:
    - fromEndpoints:
        - matchLabels: {app: none}
"""
EVERYONE = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: closed, namespace: shop}
spec:
  podSelector: {}
  policyTypes: [Ingress]
"""
DENY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: not-web, namespace: shop}
spec:
  endpointSelector: {matchLabels: {app: db}}
  enableDefaultDeny: {ingress: false}
  ingressDeny:
    - fromEndpoints:
        - matchLabels: {app: web}
        - matchLabels: {app: gone}
      toPorts: [{ports: [{port: "80"}, {port: "81"}]}]
"""
ADMIN = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: watchers}
spec:
  tier: Admin
  priority: PRIORITY
  subject: {namespaces: {}}
  ingress:
    - action: Accept
      from: [{pods: {podSelector: {matchLabels: {app: probe}}}}]
"""


def written(folder: Path, *texts: str) -> Engine:
    path = folder / "all.yaml"
    path.write_text(PODS + "---\n".join(texts))
    world = load([path])
    assert not world.errors
    return Engine(world)


def edits(engine: Engine, source: str, target: str, port: int = 80) -> tuple[Edit, ...]:
    flow = Flow(source, target, "TCP", port)
    found = smallest(engine, flow)
    assert found.result.allowed is not engine.eval(flow).allowed
    return found.edits


def test_a_rule_where_the_object_is_about_these_pods_only(tmp_path: Path) -> None:
    """The allow rule goes into the object that closes; its selector names the peer and no other."""
    (edit,) = edits(written(tmp_path, OWN), "shop/web", "shop/db")
    assert (edit.verb, edit.policy.name, edit.path) == ("add", "db", "spec.ingress[1]")
    (peer,) = edit.text["fromEndpoints"]
    assert peer["matchLabels"] == {"app": "web"}
    assert peer["matchExpressions"] == [{"key": "canary", "operator": "DoesNotExist"}]
    assert edit.text["toPorts"] == [{"ports": [{"port": "80", "protocol": "TCP"}]}]


def test_another_namespace_is_named(tmp_path: Path) -> None:
    """A peer of another namespace comes with it."""
    (edit,) = edits(written(tmp_path, OWN), "watch/probe", "shop/db")
    labels = edit.text["fromEndpoints"][0]["matchLabels"]
    assert labels == {"k8s:io.kubernetes.pod.namespace": "watch", "app": "probe"}


def test_a_policy_of_its_own_where_the_object_is_about_more(tmp_path: Path) -> None:
    """A default deny for everyone stays as it is; the new policy closes nothing."""
    (edit,) = edits(written(tmp_path, EVERYONE), "shop/web", "shop/db")
    assert (edit.verb, edit.path, edit.policy.name) == ("create", "", "allow-web-to-db")
    assert edit.text["spec"]["enableDefaultDeny"] == {"ingress": False}


def test_a_denial_loses_only_what_matches(tmp_path: Path) -> None:
    """Of two peers and two ports one goes, the one that turns least: here the port."""
    (edit,) = edits(written(tmp_path, DENY), "shop/web", "shop/db")
    assert edit.verb == "remove"
    assert edit.path == "spec.ingressDeny[0].toPorts[0].ports[0]"
    assert edit.document is not None
    assert len(edit.document["spec"]["ingressDeny"][0]["fromEndpoints"]) == 2


def test_denied_twice_takes_two_edits(tmp_path: Path) -> None:
    """A denial and a default deny are both seen to."""
    found = edits(written(tmp_path, DENY, EVERYONE), "shop/web", "shop/db")
    assert [edit.verb for edit in found] == ["remove", "create"]


def test_a_denial_for_what_passes(tmp_path: Path) -> None:
    """What passes is denied at its destination; what leaves the cluster, at its source."""
    (edit,) = edits(written(tmp_path, EVERYONE), "shop/db", "watch/probe")
    assert "ingressDeny" in edit.text["spec"]
    (edit,) = edits(written(tmp_path, EVERYONE), "shop/db", "192.0.2.1", 443)
    assert edit.text["spec"]["egressDeny"][0]["toCIDR"] == ["192.0.2.1/32"]


def test_a_denial_before_the_admin_tier(tmp_path: Path) -> None:
    """What the admin tier accepts is denied there, one priority before; at 0 by its name."""
    for priority, name in (("7", "deny-probe-to-db"), ("0", "0")):
        engine = written(tmp_path, ADMIN.replace("PRIORITY", priority))
        (edit,) = edits(engine, "watch/probe", "shop/db")
        assert (edit.policy.kind, edit.policy.name) == ("ClusterNetworkPolicy", name)
        assert edit.text["spec"]["priority"] == max(int(priority) - 1, 0)


def test_none_where_no_policy_can_say_it(tmp_path: Path) -> None:
    """Between two addresses outside, and where policies are switched off."""
    engine = written(tmp_path, OWN)
    with pytest.raises(NoAddition, match="no policy can be about"):
        smallest(engine, Flow("192.0.2.1", "192.0.2.2", "TCP", 80))
    with pytest.raises(NoAddition, match="never"):
        smallest(Engine(engine.world, "never"), Flow("shop/web", "shop/db", "TCP", 80))


def test_text_quotes_the_file(tmp_path: Path) -> None:
    """The lines that decide stand there with their numbers, the one of the rule marked."""
    engine = written(tmp_path, DENY)
    text = "\n".join(lines(engine.world, explain(engine, Flow("shop/web", "shop/db", "TCP", 80))))
    file = (tmp_path / "all.yaml").read_text().splitlines()
    number = next(at for at, line in enumerate(file, 1) if 'port: "81"' in line)
    assert f"written in  {tmp_path}/all.yaml:{number}" in text
    assert f">{number:>7} | {file[number - 1]}" in text
    assert f" {number - 3:>7} | {file[number - 4]}" in text
    assert "map entry   ingress identity" in text
    assert "-> deny" in text
    turned = text.partition("all that turns:\n")[2].splitlines()
    assert turned == [
        "    shop/web and 1 more => shop/db: TCP 80 ALLOWED, UDP 80 ALLOWED, SCTP 80 ALLOWED"
    ]


def test_text_of_a_default_deny(tmp_path: Path) -> None:
    """A default deny quotes the spec, with all that it allows."""
    engine = written(tmp_path, OWN)
    text = "\n".join(lines(engine.world, explain(engine, Flow("shop/web", "shop/db", "TCP", 80))))
    assert "| spec:\n" in text
    assert "|         - matchLabels: {app: none}" in text
    assert "To allow it, add to CiliumNetworkPolicy shop/db, spec.ingress" in text


def run(*words: str) -> Any:
    return CliRunner().invoke(root, ["policy", *words])


def test_command(tmp_path: Path) -> None:
    """`policy explain` offline: text, JSON, and what it says to a wrong question."""
    written(tmp_path, OWN)
    files = ("-f", str(tmp_path))
    done = run("explain", "shop/web", "shop/db", "80", *files)
    assert done.exit_code == 0
    assert done.stdout.startswith("shop/web => shop/db, TCP 80: DENIED")
    found = json.loads(run("explain", "shop/web", "shop/db", "80/TCP", *files, "-o", "json").stdout)
    assert found["addition"]["edits"][0]["path"] == "spec.ingress[1]"
    assert found["ingress"]["quote"]["lines"]
    assert run("explain", "shop/nobody", "shop/db", "80", *files).exit_code == 1
    assert run("explain", "shop/web", "shop/db", "80:TCP", *files).exit_code == 2


def test_ends_of_a_live_question() -> None:
    """Without manifests a node is asked, in its own words."""
    assert end_of("web") == {"pod": "default/web"}
    assert end_of("shop/web") == {"pod": "shop/web"}
    assert end_of("fd00::1") == {"ip": "fd00::1"}
    assert end_of("identity:9") == {"identity": 9}
    with pytest.raises(UsageError, match="with -f only"):
        end_of("entity:world")


def test_trace_from_manifests(tmp_path: Path) -> None:
    """`policy trace -f` needs no node; labels mean the pods that have them."""
    written(tmp_path, OWN)
    files = ("-f", str(tmp_path))
    done = run("trace", "--src-k8s-pod", "watch:probe", "-d", "any:app=db", "--dport", "80", *files)
    assert done.exit_code == 0
    assert "Final verdict: DENIED" in done.stdout
    assert "Map entry: no entry matches" in done.stdout
    done = run("trace", "-s", "any:app=web", "--dst-k8s-pod", "shop:db", *files)
    assert done.exit_code == 1
    assert "shop/web, shop/web-canary" in done.stderr
