"""`fimbria policy test`: what a test file says, what passes, what fails and how that is told."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from fimbria.cli.main import root

EXAMPLES = Path(__file__).resolve().parents[3] / "docs" / "examples"

WORLD = """\
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
---
apiVersion: v1
kind: Pod
metadata: {name: db, labels: {app: db}}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: db}, ports: [{port: 5432}]}
"""
POLICY = """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: db}
spec:
  endpointSelector: {matchLabels: {app: db}}
  ingress:
    - fromEndpoints: [{matchLabels: {app: web}}]
      toPorts: [{ports: [{port: "5432", protocol: TCP}]}]
    - fromEndpoints: [{matchLabels: {app: backup}}]
  ingressDeny:
    - fromEntities: [world]
"""
HEAD = "apiVersion: fimbria.io/v1\nkind: PolicyTest\nmetadata: {name: t}\nspec:\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "world.yaml").write_text(WORLD)
    (tmp_path / "policy.yaml").write_text(POLICY)
    return tmp_path


def run(folder: Path, spec: str, *options: str, inline: str = "") -> Result:
    """Write a test beside the manifests and run the folder."""
    body = "".join(f"  {line}\n" for line in spec.splitlines())
    (folder / "t.test.yaml").write_text(HEAD + body + inline)
    return CliRunner().invoke(root, ["policy", "test", str(folder), *options])


def document(folder: Path, spec: str, *options: str, inline: str = "") -> tuple[int, Any]:
    result = run(folder, spec, "-o", "json", *options, inline=inline)
    return result.exit_code, json.loads(result.stdout)


def test_what_is_as_expected_passes(folder: Path) -> None:
    """Every pair at every port counts; names without namespace are in the test's own."""
    code, found = document(
        folder,
        "cases:\n"
        "  - allow: {from: [web, default/web], to: ['svc:db', db], ports: [5432]}\n"
        "    rule: CiliumNetworkPolicy default/db spec.ingress[0]\n"
        "  - deny: {from: entity:world, to: db, ports: [5432, 53/UDP, 8/ICMP]}\n"
        "    rule: db spec.ingressDeny[0]\n"
        "  - deny: {from: web, to: db, ports: 80}\n"
        "    rule: db spec\n",
    )
    assert code == 0
    assert [case["flows"] for case in found["suites"][0]["cases"]] == [4, 3, 1]
    assert (found["passed"], found["failed"]) == (3, 0)


def test_a_failure_names_half_rule_line_and_what_is_needed(folder: Path) -> None:
    """The half that denies, the default deny with its place, and the rule that comes nearest."""
    result = run(folder, "cases: [{name: backups, allow: {from: web, to: db, ports: 5433}}]")
    assert result.exit_code == 1
    policy = folder / "policy.yaml"
    text = result.stdout
    assert f"FAIL  backups  ({folder}/t.test.yaml:5)" in text
    assert "default/web -> default/db 5433/TCP: expected ALLOWED, is DENIED" in text
    deny = f"DENIED (default deny) by CiliumNetworkPolicy default/db spec ({policy}:5)"
    assert f"ingress: {deny}" in text
    assert "ingress: a rule for default/db that allows 5433/TCP from default/web" in text
    near = "spec.ingress[0]"
    assert f"{near} ({policy}:7) names default/web, but not 5433/TCP" in text
    wider = '{"matchLabels": {"app": "backup"}}'
    assert f"spec.ingress[1] ({policy}:9) allows 5433/TCP for {wider}" in text
    assert f"To allow it, add to CiliumNetworkPolicy default/db, spec.ingress ({policy}:7):" in text
    assert "Tried: ALLOWED then; nothing else turns." in text
    assert "0 passed, 1 failed (1 flows, 1 file)" in text


def test_a_permission_too_many_is_told(folder: Path) -> None:
    """Denied was expected: what allows it is named, at both ends."""
    result = run(folder, "cases: [{deny: {from: web, to: db, ports: 5432}}]")
    assert result.exit_code == 1
    assert "egress: no policy is about default/web here: one with egress rules" in result.stdout
    allows = f"spec.ingress[0].toPorts[0].ports[0] ({folder}/policy.yaml:8)"
    assert f"ingress: narrow CiliumNetworkPolicy default/db {allows}" in result.stdout


def test_a_denial_by_a_rule_says_that_it_beats_all(folder: Path) -> None:
    """Where a rule denies, no rule that allows would help, and the advice says so."""
    result = run(folder, "cases: [{allow: {from: 203.0.113.7, to: db, ports: 5432}}]")
    assert "this denial beats every rule that allows: narrow CiliumNetworkPolicy" in result.stdout


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("other", "not by other: by CiliumNetworkPolicy default/db spec.ingress[0].toPorts"),
        ("db spec.ingress[1]", "not by db spec.ingress[1]: by "),
        ("NetworkPolicy db", "not by NetworkPolicy db: by "),
        ("kube-system/db", "not by kube-system/db: by "),
    ],
)
def test_the_rule_that_is_wanted_must_decide(folder: Path, rule: str, said: str) -> None:
    """The right verdict from the wrong rule is a failure."""
    spec = f"cases: [{{allow: {{from: web, to: db, ports: 5432}}, rule: '{rule}'}}]"
    result = run(folder, spec)
    assert result.exit_code == 1
    assert said in result.stdout


def test_a_table_has_a_case_for_each_cell(folder: Path) -> None:
    """Rows are sources, columns destinations; `-` and nothing are not asked."""
    code, found = document(
        folder,
        "tables:\n"
        "  - name: sql\n"
        "    ports: [5432]\n"
        "    to: [db, web]\n"
        "    from:\n"
        "      web: [allow, '-']\n"
        "      db: [null, deny]\n"
        "      10.0.0.9: [deny, allow]\n",
    )
    assert code == 1
    cases = [(case["name"], case["line"]) for case in found["suites"][0]["cases"]]
    assert cases == [
        ("sql: allow web to db at 5432", 10),
        ("sql: deny db to web at 5432", 11),
        ("sql: deny 10.0.0.9 to db at 5432", 10),  # a key with dots: the table's line
        ("sql: allow 10.0.0.9 to web at 5432", 10),
    ]
    failed = [case["name"] for case in found["suites"][0]["cases"] if case["failures"]]
    assert failed == ["sql: deny db to web at 5432"]


def test_documents_beside_the_test_are_in_its_world(folder: Path) -> None:
    """Pods and policies of the test's own file count, with its resources or alone."""
    pod = "---\napiVersion: v1\nkind: Pod\nmetadata: {name: backup, labels: {app: backup}}\n"
    spec = "cases: [{allow: {from: backup, to: db, ports: 1}}]"
    assert document(folder, spec, inline=pod)[0] == 0
    spec = "resources: []\ncases: [{allow: {from: backup, to: 10.0.0.1, ports: 1}}]"
    assert document(folder, spec, inline=pod)[0] == 0


def test_options_are_the_agents(folder: Path) -> None:
    """enable-policy and policy-cidr-match-mode change what is judged."""
    spec = "cases: [{deny: {from: db, to: web, ports: 80}}]\n"
    assert document(folder, spec)[0] == 1
    assert document(folder, spec + "options: {enable-policy: always}")[0] == 0


NODE = """\
---
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {role: edge}}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
---
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: edge}
spec:
  nodeSelector: {matchLabels: {role: edge}}
  ingress:
    - fromCIDR: [192.0.2.0/24]
"""


def test_nodes_have_policies_with_the_host_firewall(folder: Path) -> None:
    """A node's own policy counts with enable-host-firewall only; it is covered like others."""
    spec = (
        "cases:\n"
        "  - {deny: {from: 198.51.100.1, to: 'node:n1', ports: 22}, rule: edge spec}\n"
        "  - {allow: {from: 192.0.2.1, to: 'node:n1', ports: 22}}\n"
    )
    code, found = document(folder, "resources: []\n" + spec, "--coverage", inline=NODE)
    assert (code, found["failed"], found["coverage"]["total"]) == (1, 1, 0)
    spec += "resources: []\noptions: {enable-host-firewall: true}\n"
    code, found = document(folder, spec, "--coverage", inline=NODE)
    assert (code, found["failed"], found["coverage"]["percent"]) == (0, 0, 100)
    assert found["coverage"]["total"] == 2
    result = run(folder, spec.replace("deny:", "allow:"), inline=NODE)
    assert "allows 22/TCP for 192.0.2.0/24" in result.stdout


@pytest.mark.parametrize(
    ("spec", "line", "said"),
    [
        ("cases:\n  - {}\n", 6, "spec.cases[0]: takes exactly one of allow, deny, redirect"),
        ("cases:\n  - allow: {from: a, to: b}\n", 6, "spec.cases[0].allow: "),
        ("cases:\n  - alow: {from: a, to: b, ports: 1}\n", 6, "spec.cases[0]: "),
        ("cases:\n  - allow: {from: a, to: b, ports: x}\n", 6, "'x' is no port"),
        ("cases:\n  - allow: {from: [], to: b, ports: 1}\n", 6, "allow.from: is empty"),
        ("cases:\n  - allow: {from: a, to: b, ports: 1}\n    rule: a/b/c\n", 7, "is not [KIND ]"),
        ("options: {enable-policy: sometimes}\n", 5, "'sometimes' is none of default"),
        ("options: {policy-cidr-match-mode: [all]}\n", 5, "'all' is none of nodes, pods"),
        ("options: {labels: '['}\n", 5, "label rule '['"),
        ("tables: [{to: [a, b], ports: 1, from: {c: [allow]}}]\n", 5, "1 cells under 2 columns"),
        ("tables: [{to: [a], ports: 1, from: {c: [maybe]}}]\n", 5, "'maybe' is none of allow"),
        ("resources: [gone.yaml]\ncases: []\n", 1, "gone.yaml:1: No such file"),
    ],
)
def test_what_cannot_be_read_has_file_and_line(
    folder: Path, spec: str, line: int, said: str
) -> None:
    """A mistake in a test is exit code 2 and one line with its place."""
    result = run(folder, spec)
    assert result.exit_code == 2
    assert re.search(rf"\.yaml:{line}: .*{re.escape(said.split(': ')[-1])}", result.stderr)
    assert said in result.stderr


def test_a_flow_without_an_answer_is_an_error(folder: Path) -> None:
    """A pod that is not there is exit code 2: the test itself is wrong."""
    result = run(folder, "cases: [{allow: {from: nobody, to: db, ports: 1}}]")
    assert result.exit_code == 2
    assert "ERROR allow nobody to db at 1" in result.stdout
    assert "default/nobody: there is no such pod" in result.stdout


def test_coverage_names_what_nothing_exercised(folder: Path) -> None:
    """Rules and default denies that no case was decided by, with file and line, and a threshold."""
    spec = "cases: [{allow: {from: web, to: db, ports: 5432}}]"
    code, found = document(folder, spec, "--coverage")
    assert code == 0
    rows = [(row["line"], row["path"], row["default"]) for row in found["coverage"]["uncovered"]]
    assert rows == [
        (5, "spec", "ingress"),
        (9, "spec.ingress[1]", ""),
        (11, "spec.ingressDeny[0]", ""),
    ]
    assert (found["coverage"]["percent"], found["coverage"]["total"]) == (25.0, 4)
    result = run(folder, spec, "--fail-under", "50")
    assert result.exit_code == 1
    assert "1 of 4 parts of policies exercised: 25.0 %" in result.stdout
    assert "covered 25.0 %, wanted 50 %" in result.stderr
    assert run(folder, spec, "--fail-under", "25").exit_code == 0


def test_junit_and_tap_have_every_case(folder: Path) -> None:
    """What CI systems read: counts, names, and the words of a failure."""
    spec = (
        "cases:\n"
        "  - {name: fine, allow: {from: web, to: db, ports: 5432}}\n"
        "  - {name: 'wrong #1', allow: {from: web, to: db, ports: 1}}\n"
        "  - {name: broken, allow: {from: nobody, to: db, ports: 1}}\n"
    )
    xml = folder / "junit.xml"
    result = run(folder, spec, "-o", "tap", "--junit", str(xml))
    lines = result.stdout.splitlines()
    assert lines[:3] == ["TAP version 14", "1..3", "ok 1 - t: fine"]
    assert "not ok 2 - t: wrong \\#1" in lines
    assert any("expected ALLOWED, is DENIED" in line for line in lines)
    suites = ElementTree.parse(xml).getroot()
    assert (suites.get("tests"), suites.get("failures"), suites.get("errors")) == ("3", "1", "1")
    cases = {case.get("name"): case for case in suites.iter("testcase")}
    failure = cases["wrong #1"].find("failure")
    assert failure is not None
    assert failure.text is not None
    assert "needed:" in failure.text
    assert cases["broken"].find("error") is not None
    assert list(cases["fine"]) == []


def test_a_folder_without_tests_is_a_mistake(folder: Path) -> None:
    """Nothing tested must not look like everything passed."""
    result = CliRunner().invoke(root, ["policy", "test", str(folder)])
    assert result.exit_code == 2
    assert "no *.test.yaml in" in result.stderr
    result = CliRunner().invoke(root, ["policy", "test", str(folder / "policy.yaml")])
    assert result.exit_code == 2
    assert "no PolicyTest in this file" in result.stderr


@pytest.mark.parametrize(
    "example", sorted(one for one in EXAMPLES.iterdir() if one.is_dir()), ids=lambda one: one.name
)
def test_example_policies_do_what_their_tests_say(example: Path) -> None:
    """Every example has a test beside it, and it passes and covers what can be covered."""
    options = ["--fail-under", "85", "-o", "json"]
    result = CliRunner().invoke(root, ["policy", "test", str(example), *options])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["passed"] > 0
