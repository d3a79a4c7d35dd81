"""Explaining a verdict: the seed's story, told rule by rule down to the map entry."""

from __future__ import annotations

import pytest

from fimbria.analysis.explain import explain_rule, policy_text, ports_text
from fimbria.analysis.trace import Trace, TraceEnd, trace
from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from fimbria.compile.state import ClusterState, LocalEndpoint
from fimbria.datapath.abi import PolicyKey
from fimbria.model.labels import LabelSet
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import End

PODS = {
    300: ("k8s:class=deathstar", "k8s:io.kubernetes.pod.namespace=default", "k8s:org=empire"),
    301: ("k8s:class=tiefighter", "k8s:io.kubernetes.pod.namespace=default", "k8s:org=empire"),
    302: ("k8s:class=xwing", "k8s:io.kubernetes.pod.namespace=default", "k8s:org=alliance"),
}
RULE = {
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "rule1"},
    "spec": {
        "endpointSelector": {"matchLabels": {"org": "empire", "class": "deathstar"}},
        "ingress": [
            {
                "fromEndpoints": [{"matchLabels": {"org": "empire"}}],
                "toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}],
            }
        ],
    },
}


@pytest.fixture
def compiler() -> Compiler:
    state = ClusterState("one")
    for number, labels in PODS.items():
        state.identities.put(number, labels)
        ip = bytes([10, 0, 1, number - 290])
        endpoint = LocalEndpoint(number - 299, 0, bytes(6), bytes(6), ip, None, number)
        state.local.put(endpoint.id, endpoint)
    policy = parse_policy(RULE)
    state.policies.put(policy.key, policy)
    found = Compiler(state, Ids())
    found.update()
    return found


def end(identity: int) -> TraceEnd:
    return TraceEnd(End(identity, LabelSet(PODS[identity])), identity - 299)


def ask(compiler: Compiler, source: int, port: int = 80) -> Trace:
    return trace(compiler, end(source), end(300), port)


def test_denied(compiler: Compiler) -> None:
    """Who is not named by any rule: the rule that selected, why it did not match, no entry."""
    answer = ask(compiler, 302)
    assert answer.outcome == "denied"
    lines = answer.text.splitlines()
    assert lines[1].startswith("Tracing From: [k8s:class=xwing, ")
    assert lines[1].endswith("Ports: [80/ANY]")
    assert "1/1 rules selected" in lines
    assert "Found no allow rule" in lines
    assert "Ingress verdict: denied, no rule allows it" in lines
    assert lines[-1] == "Final verdict: DENIED"
    document = answer.document()
    assert document["verdict"] == "denied"
    assert document["entry"] == "no entry matches"


def test_allowed(compiler: Compiler) -> None:
    """The deciding rule, its text and its map entry are quoted."""
    answer = ask(compiler, 301)
    assert answer.outcome == "allowed"
    assert answer.protocol == 6
    path = "spec.ingress[0].toPorts[0].ports[0]"
    assert f"Decided by CiliumNetworkPolicy default/rule1, {path}" in answer.text
    assert "Map entry: ingress identity 301 TCP 80 -> allow, rule " in answer.text
    assert answer.text.endswith("Final verdict: ALLOWED\n")
    (rule,) = answer.document()["steps"][1]["rules"]
    assert (rule["name"], rule["path"]) == ("rule1", path)


def test_wrong_port(compiler: Compiler) -> None:
    """The peer matches and the port does not: both are said."""
    answer = ask(compiler, 301, 81)
    assert answer.outcome == "denied"
    assert "Port 81/TCP does not match" in answer.text


def test_rule_ids_are_explained(compiler: Compiler) -> None:
    """A rule id leads to the object, the path and the YAML there; built-in ones to a sentence."""
    hit = ask(compiler, 301).steps[1].hit
    assert hit is not None
    found = explain_rule(hit.rule_id, compiler.ids, compiler.state)
    assert found is not None
    assert (found.kind, found.namespace, found.name) == ("CiliumNetworkPolicy", "default", "rule1")
    assert found.text == "port: '80'\nprotocol: TCP\n"
    localhost = explain_rule(1, compiler.ids, compiler.state)
    assert localhost is not None
    assert localhost.text == "the node may reach its pods"
    assert explain_rule(60000, compiler.ids, compiler.state) is None


def test_text_of_what_is_not_there(compiler: Compiler) -> None:
    """A path that an edit has removed has no text."""
    (policy,) = compiler.state.policies.values()
    assert policy_text(policy, "spec.ingress[7].toPorts") == ""


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (PolicyKey(0, 0, 0, 0), "ANY"),
        (PolicyKey(0, 0, 6, 1), "TCP"),
        (PolicyKey(0, 80, 6, 17), "TCP 80"),
        (PolicyKey(0, 80, 17, 0x80 | 14), "UDP 80-87"),
        (PolicyKey(0, 8, 1, 17), "ICMP type 8"),
    ],
)
def test_ports_as_text(key: PolicyKey, text: str) -> None:
    """Shapes read as people write them."""
    assert ports_text(key) == text


def policies(compiler: Compiler, *documents: dict[str, object]) -> None:
    """Put more policies in force."""
    for document in documents:
        policy = parse_policy(document)
        assert policy.refusal is None
        compiler.state.policies.put(policy.key, policy)
    compiler.update()


def test_tiers_are_told_in_their_order(compiler: Compiler) -> None:
    """An admin rule comes first, with tier and priority; what it decides is final."""
    spec = {"tier": "Admin", "priority": 3, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]}  # fmt: skip
    policies(compiler, {"kind": "ClusterNetworkPolicy", "metadata": {"name": "no"}, "spec": spec})
    answer = ask(compiler, 301)
    assert answer.outcome == "denied"
    assert "(ClusterNetworkPolicy no, spec; tier Admin, priority 3)" in answer.text
    assert answer.text.index("ClusterNetworkPolicy no, spec;") < answer.text.index("rule1, spec)")
    assert "Decided by ClusterNetworkPolicy no, spec.ingress[0]" in answer.text


def test_a_redirect_says_that_no_proxy_runs(compiler: Compiler) -> None:
    """What goes to a proxy is redirected, and dropped while there is none."""
    ports = [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{"path": "/"}]}}]
    spec = {"endpointSelector": {}, "ingress": [{"toPorts": ports}]}
    policies(compiler, {"kind": "CiliumNetworkPolicy", "metadata": {"name": "seven"}, "spec": spec})
    answer = ask(compiler, 302)
    assert answer.document()["verdict"] == "redirected"
    assert "redirects to the http proxy" in answer.text
    assert "dropped, because no proxy is running" in answer.text
    assert answer.text.endswith("Final verdict: REDIRECTED\n")


def test_rules_by_cidr_see_the_address(compiler: Compiler) -> None:
    """An end outside the cluster is matched by its address, which the reasoning shows."""
    block = {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}
    spec = {"endpointSelector": {}, "egress": [{"toCIDRSet": [block]}]}
    policies(compiler, {"kind": "CiliumNetworkPolicy", "metadata": {"name": "out"}, "spec": spec})
    for last, outcome, found in ((1, "allowed", "found"), (129, "denied", "not found")):
        world = TraceEnd(compiler.state.places().end(bytes([192, 0, 2, last])), policed=False)
        answer = trace(compiler, end(300), world, 80)
        assert answer.outcome == outcome
        assert f"Labels [reserved:world] address 192.0.2.{last}/32 {found}" in answer.text
        assert "Allows to cidr 192.0.2.0/24 except 192.0.2.128/25" in answer.text


def test_audit_mode_is_told(compiler: Compiler) -> None:
    """A policy in audit mode is listed, and decides nothing."""
    audited = {**RULE, "metadata": {"name": "rule1", "annotations": {
        "fimbria.io/policy-audit-mode": "true"}}}  # fmt: skip
    policies(compiler, audited)
    answer = ask(compiler, 302)
    assert answer.outcome == "allowed"
    assert "In audit mode: reported, not enforced" in answer.text
