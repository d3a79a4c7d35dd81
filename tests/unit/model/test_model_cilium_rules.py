"""Cilium rules beside labels and CIDRs: nodes, services, names of the DNS, host policies."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.datapath.abi import Direction
from fimbria.model.labels import LabelSet
from fimbria.model.peers import Fqdn, Services
from fimbria.model.policy_parse import parse_policy
from fimbria.model.selector import equals, selector
from fimbria.model.semantics import End, Question, Reason, verdict

if TYPE_CHECKING:
    from fimbria.model.policy import Policy

POD = End(300, LabelSet(("k8s:io.kubernetes.pod.namespace=red",)))
NODE = LabelSet(("node:role=edge", "reserved:remote-node"))


def cnp(section: str, rule: Any, **options: Any) -> Policy:
    document = {"kind": "CiliumNetworkPolicy", "metadata": {"name": "p", "namespace": "red"},
                "spec": {"endpointSelector": {}, section: [rule]}}  # fmt: skip
    return parse_policy(document, **options)


def clusterwide(spec: Any) -> Policy:
    return parse_policy(
        {"kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "p"}, "spec": spec}
    )


def refused_at(policy: Policy) -> str:
    assert policy.refusal is not None
    return policy.refusal[0]


def peers(policy: Policy) -> list[Any]:
    assert policy.refusal is None
    return [peer.whom for peer in policy.specs[0].rules[0].peers]


EGRESS = {
    "toEndpoints": [{}],
    "toCIDR": ["10.0.0.0/8"],
    "toCIDRSet": [{"cidr": "10.0.0.0/8"}],
    "toEntities": ["world"],
    "toNodes": [{}],
    "toServices": [{"k8sService": {"serviceName": "a"}}],
    "toFQDNs": [{"matchName": "a.b"}],
}


@pytest.mark.parametrize(("one", "two"), list(combinations(EGRESS, 2)))
def test_one_way_to_name_peers(one: str, two: str) -> None:
    """A rule names its peers in one way; the message names both."""
    policy = cnp("egress", {two: EGRESS[two], one: EGRESS[one]}, node_labels=True)
    names = f"T{one[1:]} and T{two[1:]}"
    assert policy.refusal == (
        f"spec.egress[0].{two}", f"Combining {names} is not supported yet",
    )  # fmt: skip


@pytest.mark.parametrize("name", EGRESS)
def test_ports_go_with_all_peers(name: str) -> None:
    """Also with services."""
    ports = [{"ports": [{"port": "443", "protocol": "TCP"}]}]
    policy = cnp("egress", {name: EGRESS[name], "toPorts": ports}, node_labels=True)
    assert policy.refusal is None
    (rule,) = policy.specs[0].rules
    assert [port.ports for port in rule.ports] == [(443, 443)]
    assert rule.peers


def test_requires_names_its_replacement() -> None:
    """What was removed from the language says what to write instead."""
    for section, end in (("ingress", "from"), ("egressDeny", "to")):
        refusal = cnp(section, {f"{end}Requires": [{}]}).refusal
        assert refusal is not None
        assert refusal[0] == f"spec.{section}[0].{end}Requires"
        assert f"{end}Endpoints" in refusal[1]


def reaches(policy: Policy, labels: LabelSet) -> bool:
    asked = Question(POD, End(6, labels), Direction.EGRESS, 6, 80)
    return verdict([policy], asked).reason is Reason.ALLOW_RULE


def test_nodes_by_labels() -> None:
    """Only with the option; keys are Kubernetes labels of Nodes; pods are never meant."""
    edge = {"matchLabels": {"role": "edge"}}
    assert refused_at(cnp("egress", {"toNodes": [edge]})) == "spec.egress[0].toNodes"
    for key in ("role", "k8s:role", "node:role", "any:role"):
        chosen = {"toNodes": [{"matchLabels": {key: "edge"}}]}
        assert reaches(cnp("egress", chosen, node_labels=True), NODE)
    every = cnp("egress", {"toNodes": [{}]}, node_labels=True)
    assert reaches(every, NODE)
    assert reaches(every, LabelSet(("reserved:host",)))
    assert not reaches(every, POD.labels)
    assert not reaches(every, LabelSet(("reserved:world",)))
    without = {"toNodes": [{"matchExpressions": [{"key": "role", "operator": "DoesNotExist"}]}]}
    assert not reaches(cnp("egress", without, node_labels=True), POD.labels)
    odd = {"toNodes": [{}, {"matchLabels": {"reserved:host": ""}}]}
    assert refused_at(cnp("egress", odd, node_labels=True)) == "spec.egress[0].toNodes[1]"


def test_services() -> None:
    """By name or by labels, of one namespace or of any."""
    assert peers(cnp("egress", {"toServices": [
        {"k8sService": {"serviceName": "a", "namespace": "blue"}},
        {"k8sService": {"serviceName": "a"}},
        {"k8sServiceSelector": {"selector": {"matchLabels": {"x": "y"}}, "namespace": "red"}},
    ]})) == [
        Services("a", "blue"), Services("a", ""),
        Services("", "red", selector([equals("any:x", "y")])),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({}, ""),
        ({"k8sService": {"serviceName": "a"}, "k8sServiceSelector": {"selector": {}}}, ""),
        ({"k8sService": {"namespace": "b"}}, ".k8sService.serviceName"),
        ({"k8sService": {"serviceName": "a", "port": 1}}, ".k8sService.port"),
        ({"k8sServiceSelector": {}}, ".k8sServiceSelector.selector"),
        ({"k8sService": "a"}, ".k8sService"),
    ],
)
def test_services_that_are_refused(item: Any, path: str) -> None:
    """One service, or a selector over services."""
    policy = cnp("egress", {"toServices": [item]})
    assert refused_at(policy) == f"spec.egress[0].toServices[0]{path}"


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ({"matchName": "Example.COM"}, Fqdn("example.com.")),
        ({"matchName": "a_b.example.com."}, Fqdn("a_b.example.com.")),
        ({"matchPattern": "*.example.com"}, Fqdn("", "*.example.com.")),
        ({"matchPattern": "**.example.com"}, Fqdn("", "**.example.com.")),
        ({"matchPattern": "*"}, Fqdn("", "*")),
    ],
)
def test_names(item: Any, found: Fqdn) -> None:
    """Names are kept in one form, and wait for a proxy."""
    policy = cnp("egress", {"toFQDNs": [item]})
    assert peers(policy) == [found]
    assert policy.pending == (
        ("spec.egress[0].toFQDNs[0]", "no proxy is running: its traffic is denied"),
    )
    assert not reaches(policy, LabelSet(("reserved:world",)))


@pytest.mark.parametrize(
    ("item", "path"),
    [
        ({}, ""),
        ({"matchName": "a", "matchPattern": "b"}, ""),
        ({"matchName": "*.a"}, ".matchName"),
        ({"matchName": "a..b"}, ".matchName"),
        ({"matchName": "."}, ".matchName"),
        ({"matchName": "a b"}, ".matchName"),
        ({"matchName": "\u212a.com"}, ".matchName"),
        ({"matchName": "a" * 256}, ".matchName"),
        ({"matchPattern": "a/*"}, ".matchPattern"),
        ({"matchPattern": 5}, ".matchPattern"),
    ],
)
def test_names_that_are_refused(item: Any, path: str) -> None:
    """What no DNS name can be."""
    policy = cnp("egress", {"toFQDNs": [item]})
    assert refused_at(policy) == f"spec.egress[0].toFQDNs[0]{path}"
    assert policy.pending == ()


def test_denials_have_no_names_and_authenticate_nobody() -> None:
    """What a denial cannot say is refused."""
    name = cnp("egressDeny", {"toFQDNs": [{"matchName": "a.b"}]})
    assert refused_at(name) == "spec.egressDeny[0].toFQDNs"
    mode = cnp("ingressDeny", {"authentication": {"mode": "disabled"}})
    assert refused_at(mode) == "spec.ingressDeny[0].authentication"


DNS = {"ports": [{"port": "53", "protocol": "ANY"}], "rules": {"dns": [{"matchPattern": "*"}]}}
HTTP = {"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{}]}}
SNI = {"ports": [{"port": "443", "protocol": "TCP"}], "serverNames": ["a.b"]}


def test_host_policies() -> None:
    """About nodes, by the labels that they have in Kubernetes."""
    edge = {"matchLabels": {"role": "edge"}}
    rules = {"ingress": [{"fromEntities": ["cluster"]}], "egress": [{"toPorts": [DNS]}]}
    policy = clusterwide({"nodeSelector": edge, **rules})
    assert policy.refusal is None
    (spec,) = policy.specs
    assert (spec.host, spec.ingress, spec.egress) == (True, True, True)
    assert spec.subject == selector([equals("node:role", "edge")])
    host = Question(End(1, NODE), End(2, LabelSet(("reserved:world",))), Direction.INGRESS, 6, 22,
                    host=True)  # fmt: skip
    assert verdict([policy], host).reason is Reason.DEFAULT_DENY
    pod = Question(POD, host.peer, Direction.INGRESS, 6, 22)
    assert verdict([policy], pod).reason is Reason.NO_POLICY


@pytest.mark.parametrize(
    ("section", "port", "path"),
    [
        ("ingress", HTTP, "rules.http"),
        ("ingress", SNI, "serverNames"),
        ("ingress", DNS, "rules.dns"),
        ("egress", HTTP, "rules.http"),
        ("egress", SNI, "serverNames"),
    ],
)
def test_host_policies_and_layer_7(section: str, port: Any, path: str) -> None:
    """Nothing on ingress; only DNS on egress."""
    policy = clusterwide({"nodeSelector": {}, section: [{"toPorts": [port]}]})
    assert refused_at(policy) == f"spec.{section}[0].toPorts[0].{path}"
