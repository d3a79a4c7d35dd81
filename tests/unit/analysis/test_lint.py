"""`fimbria policy lint`: one world for each finding, and one without any."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from fimbria.analysis.lint import CODES
from fimbria.cli.main import root

if TYPE_CHECKING:
    from pathlib import Path

WORLD = """\
apiVersion: v1
kind: Namespace
metadata: {name: default}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web, tier: front}}
spec: {containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db, tier: back}}
spec: {containers: [{name: c, ports: [{name: sql, containerPort: 5432}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: other}}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
spec: {podCIDR: 10.0.1.0/24, podCIDRs: [10.0.1.0/24]}
"""
HEAD = """\
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: p}
spec:
  endpointSelector: {matchLabels: {app: db}}
"""
LINE = len((WORLD + HEAD).splitlines())
"""The line of `endpointSelector`; what a test adds comes after it."""

CLEAN = """\
  ingress:
    - fromEndpoints: [{matchLabels: {app: web}}]
      toPorts: [{ports: [{port: sql, protocol: TCP}]}]
"""


def lint(tmp_path: Path, text: str, *options: str, head: str = WORLD + HEAD) -> Result:
    path = tmp_path / "policy.yaml"
    path.write_text(head + text)
    return CliRunner().invoke(root, ["policy", "lint", str(path), *options])


def findings(tmp_path: Path, text: str, *options: str, head: str = WORLD + HEAD) -> list[Any]:
    return json.loads(lint(tmp_path, text, "-o", "json", *options, head=head).stdout)


def codes(found: list[Any]) -> list[tuple[str, int]]:
    """Codes with their lines, counted from the policy's endpointSelector."""
    return [(one["code"], one["line"] - LINE) for one in found]


def test_nothing_is_found_in_a_clean_policy(tmp_path: Path) -> None:
    """Names that are there, ports that pods have: exit code 0."""
    result = lint(tmp_path, CLEAN)
    assert (result.exit_code, result.stdout) == (0, "nothing found\n")


RULE = "  ingress:\n    - fromEndpoints: [{matchLabels: {app: web}}]\n"
PORTS = "      toPorts: [{ports: [{port: '80', protocol: TCP}]}]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            RULE + PORTS + "  ingressDeny:\n    - fromEndpoints: [{matchLabels: {tier: front}}]\n",
            [("shadowed-rule", 3)],
        ),
        (RULE + PORTS + "  ingressDeny:\n    - fromEntities: [all]\n", [("shadowed-rule", 3)]),
        (RULE + PORTS + RULE.split("\n", 1)[1] + PORTS, [("duplicate-rule", 4)]),
        (RULE + PORTS + RULE.split("\n", 1)[1], [("redundant-rule", 2)]),
        (
            RULE + PORTS + "    - fromEndpoints: [{matchLabels: {tier: front}}]\n" + PORTS,
            [("redundant-rule", 5)],
        ),
        ("  ingress: [{fromEntities: [all]}]\n", [("open-to-all", 1)]),
        ("  egress: [{toCIDR: [0.0.0.0/0]}]\n", [("open-to-all", 1)]),
        ("  egress: [{toEntities: [world]}]\n", [("open-to-all", 1)]),
        ("  egress:\n    - toEntities: [world]\n" + PORTS, []),
        ("  ingress: [{fromEndpoints: [{}]}]\n", [("whole-namespace", 1)]),
        ("  ingress: [{fromEntities: [cluster]}]\n", [("whole-namespace", 1)]),
        (
            "  ingress:\n    - fromEndpoints: [{matchLabels: {app: wbe}}]\n" + PORTS,
            [("peer-selects-nothing", 2)],
        ),
        (
            "  egress:\n    - toCIDRSet: [{cidrGroupRef: nobody}]\n" + PORTS,
            [("peer-selects-nothing", 2)],
        ),
        (
            "  egress: [{toServices: [{k8sService: {serviceName: gone}}]}]\n",
            [("peer-selects-nothing", 1)],
        ),
        (
            "  ingress:\n"
            "    - fromEndpoints: [{matchLabels: {k8s:io.kubernetes.pod.namespace: defualt}}]\n"
            + PORTS,
            [("unknown-namespace", 2)],
        ),
        (
            RULE + "      toPorts: [{ports: [{port: http, protocol: TCP}]}]\n",
            [("unknown-port-name", 3)],
        ),
        ("  egress:\n    - toCIDR: [10.0.1.7/32]\n" + PORTS, [("cluster-cidr", 2)]),
        ("  egress:\n    - toCIDR: [10.0.0.0/8]\n" + PORTS, []),
        (
            "  egress:\n    - toCIDRSet: [{cidr: 1.0.0.0/8, except: [1.0.0.0/9, 1.128.0.0/9]}]\n",
            [("empty-cidr", 2)],
        ),
        (RULE + PORTS + "    - fromEndpoints: []\n", [("nobody", 4)]),
        ("  ingress: [{}]\n", []),
        ("  enableDefaultDeny: {ingress: false}\n  ingress: [{}]\n", [("no-effect", 0)]),
        ("  enableDefaultDeny: {ingress: false}\n" + RULE + PORTS, [("no-effect", 0)]),
        ("  ingress: [{fromRequires: [{}]}]\n", [("refused-policy", 1)]),
        (
            RULE + "      toPorts:\n        - ports: [{port: '80', protocol: TCP}]\n"
            "          rules: {http: [{}]}\n",
            [("needs-proxy", 5)],
        ),
    ],
)
def test_findings(tmp_path: Path, text: str, expected: list[tuple[str, int]]) -> None:
    """Each mistake is told once, with its code and the line of the field."""
    assert codes(findings(tmp_path, text)) == expected


def test_match_mode_makes_cluster_cidrs_match(tmp_path: Path) -> None:
    """With policy-cidr-match-mode a CIDR inside the cluster is no mistake; --pod-cidr adds some."""
    text = "  egress:\n    - toCIDR: [10.7.0.0/16]\n" + PORTS
    assert codes(findings(tmp_path, text)) == []
    assert codes(findings(tmp_path, text, "--pod-cidr", "10.0.0.0/8")) == [("cluster-cidr", 2)]
    mode = ("--policy-cidr-match-mode", "pods")
    assert codes(findings(tmp_path, text, "--pod-cidr", "10.0.0.0/8", *mode)) == []


def test_a_tier_that_comes_first_shadows(tmp_path: Path) -> None:
    """What an admin policy decides never reaches ordinary rules; the finding names its rule."""
    admin = (
        "---\napiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\n"
        "metadata: {name: admins}\nspec:\n  tier: Admin\n  priority: 1\n"
        "  subject: {namespaces: {}}\n"
        "  ingress: [{action: Deny, from: [{namespaces: {}}]}]\n"
    )
    found = findings(tmp_path, RULE + PORTS + admin)
    assert codes(found) == [("shadowed-rule", 3)]
    assert "ClusterNetworkPolicy admins spec.ingress[0]" in found[0]["message"]


def test_a_rule_half_shadowed_still_decides(tmp_path: Path) -> None:
    """A denial of some of a rule's ports leaves the others: no finding."""
    text = (
        RULE + "      toPorts: [{ports: [{port: '80', endPort: 90, protocol: TCP}]}]\n"
        "  ingressDeny:\n    - fromEntities: [all]\n"
        "      toPorts: [{ports: [{port: '80', endPort: 89, protocol: TCP}]}]\n"
    )
    assert codes(findings(tmp_path, text)) == []
    text = text.replace("endPort: 89", "endPort: 90")
    assert codes(findings(tmp_path, text)) == [("shadowed-rule", 3)]


def test_a_subject_that_selects_nothing(tmp_path: Path) -> None:
    """A policy about nobody; in a namespace that is not there, that is told instead."""
    head = (WORLD + HEAD).replace("app: db}}\n", "app: dd}}\n")
    assert codes(findings(tmp_path, CLEAN, head=head)) == [("subject-selects-nothing", 0)]
    head = (WORLD + HEAD).replace("{name: p}", "{name: p, namespace: gone}")
    assert codes(findings(tmp_path, CLEAN, head=head)) == [("unknown-namespace", 0)]


def test_a_policy_about_no_node(tmp_path: Path) -> None:
    """A nodeSelector is compared with the nodes that there are."""
    head = WORLD + HEAD.replace("NetworkPolicy", "ClusterwideNetworkPolicy")
    text = "  ingress: [{fromEntities: [remote-node]}]\n"
    host = head.replace("endpointSelector: {matchLabels: {app: db}}", "nodeSelector: {}")
    assert codes(findings(tmp_path, text, head=host)) == []
    host = host.replace("nodeSelector: {}", "nodeSelector: {matchLabels: {role: edge}}")
    assert codes(findings(tmp_path, text, head=host)) == [("subject-selects-nothing", 0)]


def test_without_pods_selectors_are_not_compared(tmp_path: Path) -> None:
    """Policies alone are checked for what they say, not for whom they select."""
    text = "  ingress: [{fromEntities: [all]}]\n"
    found = findings(tmp_path, text, head=HEAD)
    assert [one["code"] for one in found] == ["open-to-all"]


def test_what_is_ignored_is_not_told(tmp_path: Path) -> None:
    """A comment on the line or above it, an annotation on the object, an option."""
    text = "  ingress:\n    - fromEntities: [all]{}\n"
    assert codes(findings(tmp_path, text.format(""))) == [("open-to-all", 2)]
    comment = "  # fimbria:ignore open-to-all, nobody"
    assert findings(tmp_path, text.format(comment)) == []
    above = text.format("").replace("    -", "    # fimbria:ignore open-to-all\n    -")
    assert findings(tmp_path, above) == []
    assert len(findings(tmp_path, text.format("  # fimbria:ignore nobody"))) == 1
    annotated = "{name: p, annotations: {fimbria.io/lint-ignore: 'nobody, open-to-all'}}"
    head = (WORLD + HEAD).replace("{name: p}", annotated)
    assert findings(tmp_path, text.format(""), head=head) == []
    assert findings(tmp_path, text.format(""), "--ignore", "open-to-all") == []


@pytest.mark.parametrize(
    ("text", "level", "code"),
    [
        ("  ingress: [{fromEntities: [all]}]\n", "warning", 1),
        ("  ingress: [{fromEntities: [all]}]\n", "error", 0),
        ("  ingress: [{fromEndpoints: [{}]}]\n", "warning", 0),
        ("  ingress: [{fromEndpoints: [{}]}]\n", "info", 1),
        ("  ingress: [{fromRequires: [{}]}]\n", "error", 1),
        ("  ingress: [{fromRequires: [{}]}]\n", "never", 0),
        (" bad", "never", 2),
    ],
)
def test_exit_code_by_severity(tmp_path: Path, text: str, level: str, code: int) -> None:
    """--fail-on decides from which severity on CI fails; what cannot be read always does."""
    assert lint(tmp_path, text, "--fail-on", level).exit_code == code


def test_sarif_has_rules_and_places(tmp_path: Path) -> None:
    """What code scanners take: every code as a rule, each finding with file and line."""
    result = lint(tmp_path, "  ingress: [{fromEntities: [all]}]\n", "-o", "sarif")
    log = json.loads(result.stdout)
    (run,) = log["runs"]
    assert [rule["id"] for rule in run["tool"]["driver"]["rules"]] == list(CODES)
    (one,) = run["results"]
    place = one["locations"][0]["physicalLocation"]
    assert (one["ruleId"], one["level"]) == ("open-to-all", "warning")
    assert run["tool"]["driver"]["rules"][one["ruleIndex"]]["id"] == "open-to-all"
    assert place["artifactLocation"]["uri"].endswith("policy.yaml")
    assert place["region"]["startLine"] == LINE + 1


def test_an_unknown_code_is_named(tmp_path: Path) -> None:
    """A slip in --ignore would otherwise silence nothing, silently."""
    result = lint(tmp_path, CLEAN, "--ignore", "shadowed")
    assert result.exit_code == 2
    assert "--ignore shadowed: the codes are unreadable, " in result.stderr
