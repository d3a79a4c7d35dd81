"""`fimbria policy validate`: without a cluster, field and line of what cannot be enforced."""

from __future__ import annotations

import json
from pathlib import Path

DEMO = Path(__file__).resolve().parents[3] / "demo"
FQDN = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata:
  name: names
spec:
  endpointSelector: {}
  egress:
    - toFQDNs:
        - matchName: example.org
"""

KINDS = """\
apiVersion: policy.networking.k8s.io/v1alpha2
kind: ClusterNetworkPolicy
metadata: {name: a}
spec:
  tier: Admin
  priority: 1
  subject: {namespaces: {}}
  ingress: [{action: Deny, from: [{namespaces: {}}]}]
---
apiVersion: cilium.io/v2
kind: CiliumCIDRGroup
metadata: {name: a}
spec: {externalCIDRs: [10.0.0.0/8, nothing]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: a}
spec: {endpointSelector: {}, ingress: [{fromNodes: [{matchLabels: {a: b}}]}]}
"""


def test_valid(run) -> None:
    """The demo's policy is valid; what is no policy is passed over."""
    result = run("policy", "validate", str(DEMO))
    assert result.exit_code == 0
    assert [line.split()[-1] for line in result.output.splitlines()] == ["RESULT", "valid"]


def test_pending(run, tmp_path) -> None:
    """What is valid but not enforced yet is told of; exit code 0."""
    path = tmp_path / "names.yaml"
    path.write_text(FQDN)
    result = run("policy", "validate", "-f", str(path), "-o", "json")
    assert result.exit_code == 0
    (finding,) = json.loads(result.output)
    assert finding["reason"] == ""
    assert [text.partition(": ")[0] for text in finding["pending"]] == ["spec.egress[0].toFQDNs[0]"]
    assert (
        "not enforced yet: spec.egress"
        in run("policy", "validate", str(path), "-o", "table").output
    )


def test_every_kind(run, tmp_path) -> None:
    """Policies of all kinds and CIDR groups are read; nodes by label only where that is on."""
    path = tmp_path / "all.yaml"
    path.write_text(KINDS)
    result = run("policy", "validate", str(path), "-o", "json")
    assert result.exit_code == 1
    found = {one["kind"]: (one["field"], one["reason"]) for one in json.loads(result.output)}
    assert found["ClusterNetworkPolicy"] == ("", "")
    assert found["CiliumCIDRGroup"][0] == "spec.externalCIDRs[1]"
    assert found["CiliumClusterwideNetworkPolicy"][0] == "spec.ingress[0].fromNodes"
    result = run("policy", "validate", "--enable-node-selector-labels", str(path), "-o", "json")
    found = {one["kind"]: one["reason"] for one in json.loads(result.output)}
    assert found["CiliumClusterwideNetworkPolicy"] == ""


def test_no_file(run) -> None:
    """Without a file it is a usage error."""
    assert run("policy", "validate").exit_code == 2


def test_refused(run, tmp_path) -> None:
    """A field that cannot be enforced is named with its line; exit code 1."""
    path = tmp_path / "names.yaml"
    path.write_text(FQDN.replace("toFQDNs:", "toFQDN:"))
    result = run("policy", "validate", str(path), "-o", "json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.output)
    assert finding["field"] == "spec.egress[0].toFQDN"
    assert finding["line"] in (8, 9)  # the key, or the value below it
    assert finding["reason"]


def test_no_policy(run, tmp_path) -> None:
    """A file without policies, or that is not there, is an error."""
    path = tmp_path / "none.yaml"
    path.write_text("")
    assert run("policy", "validate", str(path)).exit_code == 1
    result = run("policy", "validate", str(tmp_path / "missing.yaml"))
    assert result.exit_code == 1
    assert "missing.yaml" in result.output


def test_other_groups(run, tmp_path) -> None:
    """A kind of somebody else's group is left alone; one that no policy group has is a slip."""
    path = tmp_path / "others.yaml"
    theirs = "apiVersion: projectcalico.org/v3\nkind: NetworkPolicy\nmetadata: {name: x}\n"
    path.write_text(theirs + "---\n" + theirs.replace("NetworkPolicy", "CiliumCIDRGroup"))
    assert "no policy in" in run("policy", "validate", str(path)).output
    path.write_text(theirs + "---\n" + FQDN.replace("NetworkPolicy", "NetworkPolciy"))
    result = run("policy", "validate", str(path), "-o", "json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.output)
    assert (finding["field"], finding["line"]) == ("kind", 6)
    assert finding["reason"] == (
        "there is no CiliumNetworkPolciy in cilium.io; did you mean CiliumNetworkPolicy?"
    )
    old = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\n"
    path.write_text(f"{old}metadata: {{name: x}}\n")
    result = run("policy", "validate", str(path))
    assert result.exit_code == 1
    assert "ClusterNetworkPolicy has replaced it" in result.output


def test_one_that_cannot_be_read(run, tmp_path) -> None:
    """It does not hide what is wrong with others; names come with their namespace."""
    (tmp_path / "a.yaml").write_text("kind: [\n")
    (tmp_path / "b.yaml").write_text(FQDN.replace("names", "names\n  namespace: red"))
    result = run("policy", "validate", str(tmp_path))
    assert result.exit_code == 1
    assert "a.yaml:2" in result.output
    assert "not YAML" in result.output
    assert "red/names" in result.output


def test_the_same_name_twice(run, tmp_path) -> None:
    """One of two objects of a kind and name would replace the other; kinds and namespaces count."""
    path = tmp_path / "twice.yaml"
    group = "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: names}\n"
    group += "spec: {externalCIDRs: [10.0.0.0/8]}\n"
    elsewhere = FQDN.replace("name: names", "name: names\n  namespace: elsewhere")
    spelt_out = FQDN.replace("name: names", "name: names\n  namespace: default")
    path.write_text("---\n".join([FQDN, group, elsewhere, spelt_out]))
    result = run("policy", "validate", str(path), "-o", "json")
    assert result.exit_code == 1
    *first, last = json.loads(result.output)
    assert [one["reason"] for one in first] == ["", "", ""]
    assert (last["field"], last["line"]) == ("metadata.name", 30)
    assert last["reason"] == f"CiliumNetworkPolicy names was there already: {path}:4"


def test_a_version_that_there_is_not(run, tmp_path) -> None:
    """An API server would not take it, so it is not valid."""
    path = tmp_path / "old.yaml"
    path.write_text(FQDN.replace("cilium.io/v2", "cilium.io/v1"))
    result = run("policy", "validate", str(path), "-o", "json")
    assert result.exit_code == 1
    (finding,) = json.loads(result.output)
    assert (finding["field"], finding["line"]) == ("apiVersion", 1)
    assert finding["reason"] == "CiliumNetworkPolicy is of cilium.io/v2, not cilium.io/v1"
    path.write_text(KINDS.partition("---\n")[2].replace("v2", "v2alpha1").replace(", nothing", ""))
    found = json.loads(run("policy", "validate", str(path), "-o", "json").output)
    assert [(one["kind"], one["field"]) for one in found] == [
        ("CiliumCIDRGroup", ""), ("CiliumClusterwideNetworkPolicy", "apiVersion"),
    ]  # fmt: skip
