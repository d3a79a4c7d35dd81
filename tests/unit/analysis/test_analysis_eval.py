"""`fimbria policy eval` and its engine: what each verdict, reason and error is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fimbria.analysis import Engine, Flow, FlowError, load
from fimbria.analysis.jsonlines import schema
from fimbria.cli.main import root

SCHEMA = Path(__file__).resolve().parents[3] / "docs/reference/policy-eval.schema.json"
WORLD = """\
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {nodeName: n1}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  template:
    metadata: {labels: {app: web}}
    spec: {nodeName: n1, containers: [{name: c, ports: [{name: http, containerPort: 8080}]}]}
---
apiVersion: v1
kind: Pod
metadata: {name: six, labels: {app: six}}
status: {podIP: "fd00::6"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  clusterIP: 10.96.0.10
  ports: [{port: 80, targetPort: http}, {name: s, port: 443}]
---
apiVersion: v1
kind: Service
metadata: {name: empty}
spec: {selector: {app: none}, ports: [{port: 80}]}
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 172.18.0.2}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
status: {addresses: [{type: InternalIP, address: 172.18.0.3}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: client}}}]
      ports: [{port: http}]
    - from:
        - ipBlock:
            cidr: 10.0.0.0/8
            except: [10.1.0.0/16]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: client}
spec:
  endpointSelector: {matchLabels: {app: client}}
  enableDefaultDeny: {egress: false}
  egress:
    - toEndpoints: [{}]
      toPorts: [{ports: [{port: "9090", protocol: TCP}], rules: {http: [{method: GET}]}}]
  egressDeny:
    - toCIDR: [8.8.8.0/24]
    - toEntities: [all]
      icmps: [{fields: [{family: IPv6, type: 128}]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: closed}
spec:
  endpointSelector: {matchLabels: {app: six}}
  ingress: [{fromRequires: [{}]}]
"""
Row = tuple[str, str, str, int, str, str, str]
ROWS: list[Row] = [
    ("default/client", "default/web", "TCP", 8080, "ALLOWED", "no default deny", "allow rule"),
    ("default/client", "default/web", "tcp", 80, "DENIED", "no default deny", "default deny"),
    ("default/client", "default/web", "TCP", 9090, "DENIED", "L7 redirect", "default deny"),
    ("default/client", "svc:default/web", "TCP", 80, "ALLOWED", "no default deny", "allow rule"),
    ("default/client", "svc:default/web", "TCP", 443, "DENIED", "no default deny", "default deny"),
    ("default/client", "10.96.0.10", "TCP", 80, "ALLOWED", "no default deny", "allow rule"),
    ("default/client", "8.8.8.8", "UDP", 53, "DENIED", "deny rule", "not selected"),
    ("default/client", "9.9.9.9", "UDP", 53, "ALLOWED", "no default deny", "not selected"),
    ("10.2.3.4", "default/web", "TCP", 1, "ALLOWED", "not selected", "allow rule"),
    ("10.1.3.4", "default/web", "TCP", 1, "DENIED", "not selected", "default deny"),
    ("172.18.0.2", "default/web", "TCP", 1, "ALLOWED", "not selected", "local node"),
    ("172.18.0.3", "default/web", "TCP", 1, "DENIED", "not selected", "default deny"),
    ("node:n1", "default/web", "TCP", 1, "ALLOWED", "not selected", "local node"),
    ("entity:host", "default/web", "TCP", 1, "ALLOWED", "not selected", "local node"),
    ("entity:world", "default/web", "TCP", 1, "DENIED", "not selected", "default deny"),
    ("default/client", "fd00::6", "ICMP", 128, "DENIED", "deny rule", "refused policy"),
    ("default/client", "9.9.9.9", "ICMP", 8, "ALLOWED", "no default deny", "not selected"),
    ("default/web", "default/client", "TCP", 9090, "ALLOWED", "not selected", "not selected"),
]


@pytest.fixture
def manifests(tmp_path: Path) -> Path:
    path = tmp_path / "world.yaml"
    path.write_text(WORLD)
    return path


@pytest.mark.parametrize("judge", ["maps", "model", pytest.param("kernel", marks=pytest.mark.root)])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]} {row[3]}")
def test_verdicts(manifests: Path, row: Row, judge: str) -> None:
    """Verdict and both reasons, whoever judges."""
    source, destination, protocol, port, verdict, egress, ingress = row
    result = Engine(load([manifests])).eval(Flow(source, destination, protocol, port), judge)
    assert (result.verdict, result.egress.reason, result.ingress.reason) == (
        verdict, egress, ingress,
    )  # fmt: skip
    assert result.allowed == (verdict != "DENIED")


def test_redirect(manifests: Path) -> None:
    """A layer 7 rule alone makes a flow REDIRECTED."""
    result = Engine(load([manifests])).eval(Flow("default/client", "default/client", "TCP", 9090))
    assert (result.verdict, result.egress.verdict) == ("REDIRECTED", "REDIRECTED")


def test_rule_and_line(manifests: Path) -> None:
    """A half names policy, field, map entry, file and line; a default deny who denies."""
    engine = Engine(load([manifests]))
    half = engine.eval(Flow("default/client", "default/web", "TCP", 8080)).ingress
    lines = WORLD.splitlines()
    assert half.policy is not None
    assert (half.policy.kind, half.policy.namespace, half.policy.name) == (
        "NetworkPolicy", "default", "web",
    )  # fmt: skip
    assert half.rule == "spec.ingress[0].ports[0]"
    assert half.line is not None
    assert "ports: [{port: http}]" in lines[half.line - 1]
    assert half.file == str(manifests)
    assert half.entry is not None
    assert "TCP 8080 -> allow" in half.entry
    half = engine.eval(Flow("entity:world", "default/web", "TCP", 8080)).ingress
    assert (half.rule, half.entry) == ("spec", "no entry matches")
    assert half.policy is not None
    assert half.policy.name == "web"
    half = engine.eval(Flow("entity:world-ipv6", "default/six", "TCP", 8080)).ingress
    assert half.rule == "spec.ingress[0].fromRequires"


def test_backend(manifests: Path) -> None:
    """A Service's answer names the pod that decided."""
    result = Engine(load([manifests])).eval(Flow("default/client", "svc:default/web", "TCP", 80))
    assert result.backend == "default/web"


def test_reply(manifests: Path) -> None:
    """A reply passes if its connection could be opened, whatever the rules say of its direction."""
    engine = Engine(load([manifests]))
    result = engine.eval(Flow("default/web", "10.2.3.4", "TCP", 1, reply=True))
    assert (result.verdict, result.egress.reason, result.ingress.reason) == (
        "ALLOWED", "reply", "reply",
    )  # fmt: skip
    result = engine.eval(Flow("default/web", "10.1.3.4", "TCP", 1, reply=True))
    assert (result.verdict, result.egress.reason) == ("DENIED", "default deny")


@pytest.mark.parametrize(
    ("mode", "expected"),
    [("default", "not selected"), ("always", "default deny"), ("never", "no policy")],
)
def test_enable_policy(manifests: Path, mode: str, expected: str) -> None:
    """enable-policy decides about pods that no policy selects."""
    result = Engine(load([manifests]), mode).eval(Flow("default/web", "1.2.3.4", "TCP", 1))
    assert result.egress.reason == expected


def test_cidr_match(manifests: Path) -> None:
    """With policy-cidr-match-mode a rule by CIDR matches a node's address."""
    manifests.write_text(WORLD.replace("cidr: 10.0.0.0/8", "cidr: 172.18.0.0/16").replace(
        "except: [10.1.0.0/16]", "except: []"))  # fmt: skip
    flow = Flow("172.18.0.3", "default/web", "TCP", 1)
    assert not Engine(load([manifests])).eval(flow, "all").allowed
    assert Engine(load([manifests]), cidr_match=["nodes"]).eval(flow, "all").allowed


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (("default/x", "default/web", "TCP", 1), "default/x: there is no such pod"),
        (("default/web", "svc:default/x", "TCP", 1), "svc:default/x: there is no such service"),
        (("default/web", "svc:default/web", "TCP", 1), "service default/web has no port 1/TCP"),
        (("default/web", "svc:default/empty", "TCP", 80), "service default/empty has nothing"),
        (("svc:default/web", "default/web", "TCP", 80), "a service is a destination"),
        (("default/web", "entity:all", "TCP", 80), "entity:all: the entities of a flow are host,"),
        (("default/web", "identity:9999", "TCP", 80), "identity:9999: there is no such identity"),
        (("default/web", "node:n9", "TCP", 80), "node:n9: there is no such node"),
        (("default/web", "1.2.3.4", "TPC", 80), "protocol 'TPC' is none of ICMP, TCP,"),
        (("default/web", "1.2.3.4", "TCP", 0), "port 0 is not from 1 to 65535"),
        (("default/web", "1.2.3.4", "UDP", 65536), "port 65536 is not from 1 to 65535"),
        (("default/web", "1.2.3.4", "ICMP", 256), "ICMP type 256 is not from 0 to 255"),
        (("default/six", "1.2.3.4", "TCP", 1), "have no address family in common"),
    ],
)
def test_flows_that_cannot_be(
    manifests: Path, flow: tuple[str, str, str, int], expected: str
) -> None:
    """Unknown names and impossible ports are errors that name them."""
    with pytest.raises(FlowError) as found:
        Engine(load([manifests])).eval(Flow(*flow))
    assert expected in str(found.value)


def test_no_kernel(manifests: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the kernel cannot judge, asking for it alone is an error, and "all" goes without."""
    monkeypatch.setenv("FIMBRIA_BPF_DIR", str(tmp_path))
    flow = line("1.2.3.4", "default/web")
    code, answers, errors = run("-f", str(manifests), "--flows", "-", "--judge", "all", flows=flow)
    assert (code, len(answers)) == (0, 1)
    assert any(one.startswith("note: the kernel cannot judge: ") for one in errors)
    code, answers, errors = run(
        "-f", str(manifests), "--flows", "-", "--judge", "kernel", flows=flow
    )
    assert (code, answers) == (1, [])
    assert errors[-1].startswith("Error: the kernel cannot judge: ")


def run(*arguments: str, flows: str = "") -> tuple[int, list[Any], list[str]]:
    """Exit code, answers and the lines on standard error of `policy eval`."""
    result = CliRunner().invoke(root, ["policy", "eval", *arguments], input=flows)
    answers = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    return result.exit_code, answers, result.stderr.splitlines()


def line(source: str, destination: str, port: Any = 80) -> str:
    flow = {"source": source, "destination": destination, "protocol": "TCP", "port": port}
    return json.dumps(flow) + "\n"


def test_lines_in_order(manifests: Path) -> None:
    """One answer a line, in order; bad lines are named and the others still judged; exit code 2."""
    text = (
        line("default/client", "default/web", 8080) + "\n" + line("default/who", "default/web")
        + "{]\n" + line("default/client", "default/web", "http") + line("1.2.3.4", "default/web")
    )  # fmt: skip
    code, answers, errors = run("-f", str(manifests), "--flows", "-", flows=text)
    assert code == 2
    assert [one.get("verdict") for one in answers] == ["ALLOWED", None, None, None, "DENIED"]
    assert [one["line"] for one in answers if "line" in one] == [3, 4, 5]
    assert len(errors) == 4
    number = len(WORLD.splitlines())
    assert errors[0].startswith(f"warning: {manifests}:{number}: spec.ingress[0].fromRequires: ")
    assert errors[1] == "error: <stdin>:3: default/who: there is no such pod, and it is no address"
    assert errors[2].startswith("error: <stdin>:4: ")
    assert "Expected `int`, got `str` - at `$.port`" in errors[3]


def test_many_lines_are_the_same(manifests: Path) -> None:
    """Thousands of lines, looked up together, get what each gets alone, bad ones included."""
    one = [line(row[0], row[1], row[3]) for row in ROWS] + [line("default/who", "x"), "{]\n"]
    _, alone, _ = run("-f", str(manifests), "--flows", "-", flows="".join(one))
    code, answers, errors = run("-f", str(manifests), "--flows", "-", flows="".join(one * 40))
    assert code == 2
    assert len(answers) == 40 * len(one)
    for index, answer in enumerate(answers):
        expected = alone[index % len(one)]
        assert answer | {"line": 0} == expected | {"line": 0}
        if "error" in answer:
            assert answer["line"] == index + 1
    assert sum("who" in text for text in errors) == 40


def test_good_input(manifests: Path) -> None:
    """Exit code 0 when all could be judged; warnings alone change nothing."""
    code, answers, errors = run(
        "-f", str(manifests), "--flows", "-", flows=line("1.2.3.4", "default/web")
    )
    assert (code, len(answers), len(errors)) == (0, 1, 1)


def test_bad_manifests(manifests: Path) -> None:
    """A bad document is one line on standard error, flows are judged without it; exit code 2."""
    manifests.write_text(WORLD + "---\napiVersion: v1\nkind: Pod\nmetadata: {}\n")
    code, answers, errors = run(
        "-f", str(manifests), "--flows", "-", flows=line("1.2.3.4", "default/web")
    )
    assert (code, len(answers)) == (2, 1)
    number = len(WORLD.splitlines()) + 4
    assert errors[0] == f"error: {manifests}:{number}: metadata.name: is missing"


def test_table(manifests: Path) -> None:
    """The table has the reason and the rule of each direction."""
    result = CliRunner().invoke(
        root, ["policy", "eval", "-f", str(manifests), "--flows", "-", "-o", "table"],
        input=line("default/client", "svc:default/web"),
    )  # fmt: skip
    head, row = result.stdout.splitlines()
    assert head.split() == ["SOURCE", "DESTINATION", "PORT", "VERDICT", "EGRESS", "INGRESS"]
    assert "svc:default/web (default/web)" in row
    assert row.endswith("allow rule: NetworkPolicy default/web spec.ingress[0].ports[0]")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--flows", "-"],
        ["-f", "-", "--flows", "-"],
        ["-f", "x", "--flows", "/no/such/file"],
        ["-f", "x", "--flows", "-", "--policy-cidr-match-mode", "services"],
        ["-f", "x", "--flows", "-", "--enable-policy", "sometimes"],
    ],
)
def test_bad_arguments(arguments: list[str]) -> None:
    """Arguments that cannot be are usage errors."""
    code, answers, errors = run(*arguments)
    assert (code, answers) == (2, [])
    assert errors[-1].startswith("Error: ")


def conforms(value: Any, part: dict[str, Any], whole: dict[str, Any]) -> bool:
    """Whether a value is what a schema says, of the words that ours uses."""
    if "$ref" in part:
        return conforms(value, whole["$defs"][part["$ref"].rpartition("/")[2]], whole)
    if "anyOf" in part:
        return any(conforms(value, one, whole) for one in part["anyOf"])
    if "enum" in part:
        return value in part["enum"]
    if part["type"] != "object":
        kinds = {"string": str, "integer": int, "boolean": bool, "null": type(None)}
        return isinstance(value, kinds[part["type"]])
    known = part["properties"]
    assert part["additionalProperties"] is False
    return (
        isinstance(value, dict)
        and set(part["required"]) <= set(value) <= set(known)
        and all(conforms(one, known[name], whole) for name, one in value.items())
    )


def test_schema(manifests: Path) -> None:
    """The page is what the code says, and every answer keeps to it."""
    whole = json.loads(SCHEMA.read_text())
    assert whole == schema()
    text = "".join(line(row[0], row[1], row[3]) for row in ROWS) + "{]\n"
    _, answers, _ = run("-f", str(manifests), "--flows", "-", flows=text)
    assert len(answers) == len(ROWS) + 1
    assert all(conforms(one, whole, whole) for one in answers)
    assert not conforms(answers[0] | {"verdict": "MAYBE"}, whole, whole)


def test_imports() -> None:
    """The engine loads neither numpy nor anything that needs a kernel, a network or root."""
    code = (
        "import sys, fimbria.analysis.engine, fimbria.analysis.collect, fimbria.analysis.jsonlines;"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in ('numpy', 'aiohttp')"
        " or name.startswith('fimbria.kernel') or name.startswith('fimbria.agent')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
