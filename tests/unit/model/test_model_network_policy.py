"""NetworkPolicy: what its fields mean, absent and empty ones too, and what is refused where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fimbria.datapath.abi import Direction
from fimbria.model.labels import LabelSet
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import End, Question, Reason, verdict

if TYPE_CHECKING:
    from fimbria.model.policy import Policy

WEB = End(300, LabelSet(("k8s:app=web", "k8s:io.kubernetes.pod.namespace=red")),
          frozenset({("http", 6, 80), ("http", 6, 8080), ("http", 17, 81)}))  # fmt: skip
DB = LabelSet(("k8s:app=db", "k8s:io.kubernetes.pod.namespace=blue",
               "k8s:io.cilium.k8s.namespace.labels.env=test"))  # fmt: skip
WORLD = LabelSet(("reserved:world",))


def network(spec: Any) -> Policy:
    meta = {"name": "p", "namespace": "red"}
    return parse_policy({"kind": "NetworkPolicy", "metadata": meta,
                         "spec": {"podSelector": {}, **spec}})  # fmt: skip


def judge(policy: Policy, direction: Direction = Direction.INGRESS, peer: LabelSet = DB,
          protocol: int = 6, port: int = 80) -> Reason:  # fmt: skip
    asked = Question(WEB, End(301, peer), direction, protocol, port)
    return verdict([policy], asked).reason


def test_directions() -> None:
    """policyTypes decide; without them ingress, and egress if there are egress rules."""
    assert judge(network({})) is Reason.DEFAULT_DENY
    assert judge(network({}), direction=Direction.EGRESS) is Reason.NO_POLICY
    assert judge(network({"egress": [{}]}), direction=Direction.EGRESS) is Reason.ALLOW_RULE
    only = network({"policyTypes": ["Egress"], "ingress": [{}]})
    assert judge(only) is Reason.NO_POLICY
    assert judge(only, direction=Direction.EGRESS) is Reason.DEFAULT_DENY


def test_peers() -> None:
    """An empty rule allows all; podSelector alone is of the own namespace; both must match."""
    assert judge(network({"ingress": [{}]})) is Reason.ALLOW_RULE
    assert judge(network({"ingress": [{"from": []}]})) is Reason.ALLOW_RULE
    own = {"from": [{"podSelector": {}}]}
    assert judge(network({"ingress": [own]})) is Reason.DEFAULT_DENY
    every = {"from": [{"namespaceSelector": {}}]}
    assert judge(network({"ingress": [every]})) is Reason.ALLOW_RULE
    both = {"from": [{"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "x"}}}]}
    assert judge(network({"ingress": [both]})) is Reason.DEFAULT_DENY
    assert network({"ingress": [{"from": [{}]}]}).refusal


@pytest.mark.parametrize(
    ("spec", "ingress", "egress"),
    [
        ({}, True, None),
        ({"egress": []}, True, None),
        ({"egress": None, "policyTypes": None}, True, None),
        ({"egress": [{}]}, True, True),
        ({"egress": [{}], "policyTypes": []}, True, True),
        ({"egress": [{}], "policyTypes": ["Ingress"]}, True, None),
        ({"ingress": [{}], "policyTypes": ["Egress"]}, None, True),
        ({"policyTypes": ["Ingress", "Egress"]}, True, True),
    ],
)
def test_policy_types(spec: Any, ingress: bool | None, egress: bool | None) -> None:
    """As the API's defaults have it; rules of a direction that is not named do not count."""
    (found,) = network(spec).specs
    assert (found.ingress, found.egress) == (ingress, egress)
    assert {rule.direction for rule in found.rules} <= {
        way for way, said in ((Direction.INGRESS, ingress), (Direction.EGRESS, egress)) if said
    }


@pytest.mark.parametrize(
    "peer",
    [
        {"namespaceSelector": {}},
        {"namespaceSelector": {}, "podSelector": None},
        {"namespaceSelector": {"matchExpressions": [{"key": "env", "operator": "DoesNotExist"}]}},
        {"namespaceSelector": {"matchExpressions": [
            {"key": "env", "operator": "NotIn", "values": ["x"]}]}},
        {"podSelector": {"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}},
    ],
)  # fmt: skip
def test_selectors_mean_pods(peer: Any) -> None:
    """However little they demand, neither the world nor nodes are meant."""
    policy = network({"ingress": [{"from": [peer]}]})
    assert judge(policy, peer=WORLD) is Reason.DEFAULT_DENY
    assert judge(policy, peer=LabelSet(("reserved:remote-node",))) is Reason.DEFAULT_DENY


@pytest.mark.parametrize(
    ("ports", "allowed"),
    [
        (None, {(6, 80), (6, 8080), (17, 81), (132, 1), (1, 8)}),
        ([], {(6, 80), (6, 8080), (17, 81), (132, 1), (1, 8)}),
        ([{}], {(6, 80), (6, 8080)}),
        ([{"protocol": "SCTP"}], {(132, 1)}),
        ([{"port": "http"}], {(6, 80), (6, 8080)}),
        ([{"port": "http", "protocol": "UDP"}], {(17, 81)}),
        ([{"port": "other"}], set[tuple[int, int]]()),
        ([{"port": 80, "endPort": 8079}, {"port": 1, "protocol": "SCTP"}], {(6, 80), (132, 1)}),
    ],
)
def test_ports(ports: Any, allowed: set[tuple[int, int]]) -> None:
    """None are all, ICMP included; without a number all of the protocol, TCP if none is named."""
    policy = network({"ingress": [{"ports": ports}]})
    found = {
        (protocol, port)
        for protocol, port in ((6, 80), (6, 8080), (17, 81), (132, 1), (1, 8))
        if judge(policy, protocol=protocol, port=port) is Reason.ALLOW_RULE
    }
    assert found == allowed


@pytest.mark.parametrize(
    ("rule", "path", "reason"),
    [
        ({"ports": [{"port": "80"}]}, "ports[0].port",
         "'80' is a name here: a number has no quotes"),
        ({"ports": [{"port": "http", "endPort": 90}]}, "ports[0].endPort",
         "takes a port number beside it, not a name"),
        ({"ports": [{"protocol": "TCP", "endPort": 90}]}, "ports[0].endPort",
         "takes a port beside it"),
        ({"ports": [{"port": 80, "endPort": 79}]}, "ports[0].endPort",
         "79 is not from 80 to 65535"),
        ({"ports": [{"port": 0}]}, "ports[0].port", "expected a name or a number from 1 to 65535"),
        ({"ports": [{"port": 80, "protocol": "tcp"}]}, "ports[0].protocol",
         "'tcp' is none of TCP, UDP, SCTP"),
        ({"from": [{}]}, "from[0]", "has none of podSelector, namespaceSelector, ipBlock"),
        ({"from": [{"podSelector": {"matchLabels": {"app": 1}}}]},
         "from[0].podSelector.matchLabels.app",
         "expected a string, not a number; quotes make one"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}}]},
         "from[0].ipBlock.except[0]", "leaves nothing of 10.0.0.0/8"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["0.0.0.0/0"]}}]},
         "from[0].ipBlock.except[0]", "0.0.0.0/0 is not a part of 10.0.0.0/8"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}, "from[0].ipBlock.cidr",
         "'10.0.0.1' is not a CIDR"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}, "from[0].ipBlock",
         "takes no selector beside it"),
    ],
)  # fmt: skip
def test_refused_with_its_field(rule: Any, path: str, reason: str) -> None:
    """What Kubernetes' API would not take, with words that say what to write instead."""
    refusal = network({"ingress": [rule]}).refusal
    assert refusal == (f"spec.ingress[0].{path}", reason)
