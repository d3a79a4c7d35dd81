"""`policy prove`: the language, proofs, counterexamples, exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner

from fimbria.analysis import Engine
from fimbria.analysis.assertions import AssertionSyntaxError, parse
from fimbria.analysis.prove import prove
from fimbria.cli.main import root
from tests.unit.analysis.test_diff import BASE, PODS, world

if TYPE_CHECKING:
    from pathlib import Path

DEV = """\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: dev, namespace: dev}
spec: {podSelector: {}, policyTypes: [Ingress, Egress]}
"""


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(world(PODS, BASE, DEV))


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("no path from ns=dev to app=db", "proven"),
        ("no path from app=web to app=db", "TCP 5432"),
        ("no path from app=web to app=db on TCP/1-5431, TCP/5433-65535, UDP", "proven"),
        ("no path from app=web to app=db on TCP/5000-6000", "TCP 5432"),
        ("no path from not (app=web or entity:host) to app=db", "proven"),
        ("no path from cidr:10.0.0.0/8 to app=db", "proven"),
        ("no path from cidr:10.0.0.0/8 to app=web", "TCP 1"),
        ("path from app=web to app=db on TCP/5432", "proven"),
        ("path from app=web to app=db", "proven"),
        ("path from app=web to app=db on port 5432", "UDP 5432"),
        ("path from app=db to app=tool", "TCP 1"),
        ("path from pod=shop/db to pod=shop/web on TCP/80", "proven"),
        ("only app=web can reach app=db", "proven"),
        ("only ns=dev can reach app=db", "TCP 5432"),
        ("ns=dev is isolated", "proven"),
        ("ns=shop is isolated", "TCP 1"),
        ("No path FROM ns=nowhere to any", "vacuous"),
    ],
)
def test_assertions(engine: Engine, text: str, word: str) -> None:
    """Proven, vacuous, or refuted by a packet that the rules themselves judge so too."""
    (proof,) = prove(engine, [text])
    if word in ("proven", "vacuous"):
        assert proof.holds, proof.example
        assert proof.vacuous == (word == "vacuous")
        return
    assert proof.example is not None
    assert f"{proof.example.protocol} {proof.example.port}" == word
    passes = engine.eval(proof.example, "model").allowed
    assert passes is not text.startswith("path")


API_SERVER = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kubernetes, namespace: default, labels: {kubernetes.io/service-name: kubernetes}}
addressType: IPv4
endpoints: [{addresses: [192.0.2.7]}]
---
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: dev, namespace: dev}
spec: {endpointSelector: {}, egress: [{toEntities: [kube-apiserver]}]}
"""


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("path from ns=dev to entity:kube-apiserver on TCP/6443", True),
        ("no path from ns=dev to entity:world", False),
        ("no path from ns=dev to cidr:192.0.2.0/24", False),
        ("no path from ns=dev to entity:world and not entity:kube-apiserver", True),
        ("no path from ns=dev to not entity:cluster", True),
    ],
)
def test_an_api_server_outside_the_cluster(text: str, holds: bool) -> None:
    """It is an end of its own: of the world, of its prefix, and of entity kube-apiserver."""
    engine = Engine(world(PODS, API_SERVER))
    (proof,) = prove(engine, [text])
    assert proof.holds is holds
    if not holds:
        assert proof.example is not None
        assert proof.example.destination == "192.0.2.7"
        assert engine.eval(proof.example, "model").allowed


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "found the end"),
        ("no path from ns=dev", "expected 'to', found the end"),
        ("no path from ns=dev to nonsense", "found 'nonsense'"),
        ("no path from (ns=a to any", "expected ')', found 'to'"),
        ("no path from entity:moon to any", "found 'entity:moon'"),
        ("no path from cidr:300.0.0.0/8 to any", "found 'cidr:300.0.0.0/8'"),
        ("no path from any to any on TCP/0", "expected ports from 1 to 65535"),
        ("no path from any to any on XYZ/1", "found 'XYZ/1'"),
        ("ns=a is isolated indeed", "expected the end, found 'indeed'"),
    ],
)
def test_what_cannot_be_read(text: str, wrong: str) -> None:
    """The error says what is expected, and where."""
    with pytest.raises(AssertionSyntaxError) as raised:
        parse(text)
    assert wrong in str(raised.value)


def test_command(tmp_path: Path) -> None:
    """Exit codes, a file of assertions, JSON."""
    (tmp_path / "all.yaml").write_text(f"{PODS}---\n{BASE}---\n{DEV}")
    listed = tmp_path / "assertions"
    listed.write_text(
        "# about databases\nonly app=web can reach app=db\n\nns=dev is isolated # so\n"
    )

    def run(*words: str) -> Any:
        return CliRunner().invoke(root, ["policy", "prove", "-f", str(tmp_path), *words])

    assert run("--assertions", str(listed)).exit_code == 0
    refuted = run("no path from any to app=db", "-o", "json")
    assert refuted.exit_code == 1
    (one,) = json.loads(refuted.stdout)
    assert one["result"] == "refuted"
    assert one["counterexample"]["destination"] == "shop/db"
    listed.write_text("ns=dev is isolated\nrubbish\n")
    wrong = run("--assertions", str(listed))
    assert wrong.exit_code == 2
    assert f"{listed}:2: 'rubbish'" in wrong.stderr
    assert "proven" in wrong.stdout
    assert run().exit_code == 2
