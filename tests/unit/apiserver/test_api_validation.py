"""What the API server refuses, field by field; for Kubernetes' kinds with its own messages."""

from __future__ import annotations

from typing import Any

import pytest

from fimbria.apiserver.kinds import drop_nulls
from fimbria.apiserver.resources import BY_KEY, RESOURCES, Resource
from fimbria.apiserver.schema import SCHEMAS
from fimbria.apiserver.structural import structural
from fimbria.apiserver.validation import check
from tests.unit.apiserver.test_api_rules import pod

PODS = BY_KEY["pods"]


def fields(resource: Resource, document: dict[str, Any]) -> list[str]:
    return [cause["field"] for cause in check(resource, document)]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"containers": []}, "spec.containers"),
        ({"containers": "a"}, "spec.containers"),
        ({"containers": [{"name": "a"}]}, "spec.containers[0].image"),
        ({"containers": [{"name": "A_b", "image": "a"}]}, "spec.containers[0].name"),
        ({"containers": [{"name": "a", "image": "a"}] * 2}, "spec.containers[1].name"),
        ({"containers": [{"image": "a"}]}, "spec.containers[0].name"),
        ({"containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 70000}]}]},
         "spec.containers[0].ports[0].containerPort"),
        ({"containers": [{"name": "a", "image": "a", "ports": [{"containerPort": True}]}]},
         "spec.containers[0].ports[0].containerPort"),
        ({"containers": [{"name": "a", "image": "a", "ports": [
            {"containerPort": 1, "protocol": "TPC"}]}]},
         "spec.containers[0].ports[0].protocol"),
        ({"containers": [{"name": "a", "image": "a", "command": "sleep"}]},
         "spec.containers[0].command"),
        ({"containers": [{"name": "a", "image": "a", "env": [{"name": "A", "value": 1}]}]},
         "spec.containers[0].env[0].value"),
        ({"restartPolicy": "Sometimes"}, "spec.restartPolicy"),
        ({"nodeSelector": {"a": 1}}, "spec.nodeSelector[a]"),
        ({"terminationGracePeriodSeconds": -1}, "spec.terminationGracePeriodSeconds"),
    ],
)  # fmt: skip
def test_pods_are_checked_field_by_field(change: dict[str, Any], field: str) -> None:
    """Wrong types, ranges, enumerations and absences are named by their path."""
    assert field in fields(PODS, pod(**change))


@pytest.mark.parametrize(
    ("metadata", "field"),
    [
        ({"name": "Upper"}, "metadata.name"), ({"name": "a" * 254}, "metadata.name"),
        ({"name": "a..b"}, "metadata.name"), ({"name": "-a"}, "metadata.name"),
        ({"name": "a\n"}, "metadata.name"), ({"name": 5}, "metadata.name"),
        ({"name": "a", "labels": {"a b": "c"}}, "metadata.labels"),
        ({"name": "a", "labels": {"a": "b c"}}, "metadata.labels"),
        ({"name": "a", "labels": {"a": "b" * 64}}, "metadata.labels"),
        ({"name": "a", "labels": {"a": 1}}, "metadata.labels[a]"),
        ({"name": "a", "labels": []}, "metadata.labels"),
        ({"name": "a", "annotations": {"/x": ""}}, "metadata.annotations"),
        ({"name": "a", "annotations": {"x": "y" * 300_000}}, "metadata.annotations"),
        ({"name": "a", "ownerReferences": [{"uid": "u"}]}, "metadata.ownerReferences[0].kind"),
        ({"name": "a", "finalizers": "x"}, "metadata.finalizers"),
    ],
)  # fmt: skip
def test_metadata_is_checked(metadata: dict[str, Any], field: str) -> None:
    """Names, labels, annotations, owners and finalizers follow the API's rules."""
    assert field in fields(BY_KEY["configmaps"], {"metadata": metadata})


@pytest.mark.parametrize(
    ("key", "document", "field"),
    [
        ("services", {"spec": {}}, "spec.ports"),
        ("services", {"spec": {"ports": [{"port": 1}, {"port": 2}]}}, "spec.ports[0].name"),
        ("services", {"spec": {"ports": [{}]}}, "spec.ports[0].port"),
        ("services", {"metadata": {"name": "1a"}, "spec": {"ports": [{"port": 1}]}},
         "metadata.name"),
        ("namespaces", {"metadata": {"name": "a.b"}}, "metadata.name"),
        ("networkpolicies.networking.k8s.io",
         {"spec": {"ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/33"}}]}]}},
         "spec.ingress[0].from[0].ipBlock.cidr"),
        ("networkpolicies.networking.k8s.io", {"spec": {"egress": [{"to": [{}]}]}},
         "spec.egress[0].to[0]"),
        ("networkpolicies.networking.k8s.io",
         {"spec": {"egress": [{"ports": [{"port": 9, "endPort": 8}]}]}},
         "spec.egress[0].ports[0].endPort"),
        ("deployments.apps",
         {"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": pod()}},
         "spec.template.metadata.labels"),
        ("deployments.apps", {"spec": {"selector": {}, "template": pod()}}, "spec.selector"),
        ("ciliumidentities.cilium.io", {}, "security-labels"),
        ("ciliumcidrgroups.cilium.io", {"spec": {"externalCIDRs": "10.0.0.0/8"}},
         "spec.externalCIDRs"),
    ],
)  # fmt: skip
def test_kinds_have_rules_of_their_own(key: str, document: dict[str, Any], field: str) -> None:
    """Each kind's own rules are named by path too."""
    assert field in fields(BY_KEY[key], {"metadata": {"name": "x"}, **document})


NETWORK_POLICIES = BY_KEY["networkpolicies.networking.k8s.io"]
NO_LABEL = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or "
    "'12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)


@pytest.mark.parametrize(
    ("rule", "field", "message"),
    [
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}, "from[0]",
         "Forbidden: may not specify both ipBlock and another peer"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "namespaceSelector": {}}]}, "from[0]",
         "Forbidden: may not specify both ipBlock and another peer"),
        ({"from": [{}]}, "from[0]", "Required value: must specify a peer"),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", "10.0.0.0/8"]}}]},
         "from[0].ipBlock.except[1]",
         'Invalid value: "10.0.0.0/8": must be a strict subset of `cidr`'),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]},
         "from[0].ipBlock.except[0]",
         'Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`'),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["fd00::/16"]}}]},
         "from[0].ipBlock.except[0]",
         'Invalid value: "fd00::/16": must be a strict subset of `cidr`'),
        ({"from": [{"ipBlock": {"cidr": "10.0.0.1"}}]}, "from[0].ipBlock.cidr",
         'Invalid value: "10.0.0.1": must be a valid CIDR value, (e.g. 10.9.8.0/24 or '
         "2001:db8::/64)"),
        ({"from": [{"podSelector": {"matchLabels": {"app": "a b"}}}]},
         "from[0].podSelector.matchLabels", f'Invalid value: "a b": {NO_LABEL}'),
        ({"from": [{"podSelector": {"matchExpressions": [
            {"key": "app", "operator": "In", "values": ["a", "-"]}]}}]},
         "from[0].podSelector.matchExpressions[0].values[1]", f'Invalid value: "-": {NO_LABEL}'),
        ({"from": [{"namespaceSelector": {"matchExpressions": [
            {"key": "app", "operator": "NotIn"}]}}]},
         "from[0].namespaceSelector.matchExpressions[0].values",
         "Required value: must be specified when `operator` is 'In' or 'NotIn'"),
        ({"from": [{"podSelector": {"matchExpressions": [
            {"key": "app", "operator": "Exists", "values": ["a"]}]}}]},
         "from[0].podSelector.matchExpressions[0].values",
         "Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
        ({"ports": [{"port": "80"}]}, "ports[0].port",
         'Invalid value: "80": must contain at least one letter (a-z)'),
        ({"ports": [{"port": "Web"}]}, "ports[0].port",
         'Invalid value: "Web": must contain only alpha-numeric characters (a-z, 0-9), and '
         "hyphens (-)"),
        ({"ports": [{"port": "a--b"}]}, "ports[0].port",
         'Invalid value: "a--b": must not contain consecutive hyphens'),
        ({"ports": [{"port": "-a"}]}, "ports[0].port",
         'Invalid value: "-a": must not begin or end with a hyphen'),
        ({"ports": [{"port": "a-name-that-is-long"}]}, "ports[0].port",
         'Invalid value: "a-name-that-is-long": must be no more than 15 characters'),
        ({"ports": [{"port": 0}]}, "ports[0].port",
         "Invalid value: 0: must be between 1 and 65535, inclusive"),
        ({"ports": [{"port": 9, "endPort": 8}]}, "ports[0].endPort",
         "Invalid value: 8: must be greater than or equal to `port`"),
        ({"ports": [{"port": "web", "endPort": 8}]}, "ports[0].endPort",
         "Invalid value: 8: may not be specified when `port` is non-numeric"),
        ({"ports": [{"endPort": 8}]}, "ports[0].endPort",
         "Invalid value: 8: may not be specified when `port` is not specified"),
    ],
)  # fmt: skip
def test_network_policies_that_kubernetes_refuses(
    rule: dict[str, Any], field: str, message: str
) -> None:
    """With its own messages, in both directions; nothing else is said about them."""
    turned = {"to" if name == "from" else name: value for name, value in rule.items()}
    for spec, path in (
        ({"ingress": [rule]}, f"spec.ingress[0].{field}"),
        ({"egress": [turned]}, f"spec.egress[0].{field.replace('from', 'to', 1)}"),
    ):
        (cause,) = check(NETWORK_POLICIES, {"metadata": {"name": "x"}, "spec": spec})
        assert (cause["field"], cause["message"]) == (path, message)


def test_whom_a_network_policy_is_about() -> None:
    """Its own selector is checked too, and it has two directions at most."""
    spec = {"podSelector": {"matchLabels": {"a": "b c"}}, "policyTypes": ["Ingress"] * 3}
    assert fields(NETWORK_POLICIES, {"metadata": {"name": "x"}, "spec": spec}) == [
        "spec.podSelector.matchLabels", "spec.policyTypes",
    ]  # fmt: skip


def test_a_network_policy_that_kubernetes_takes() -> None:
    """Host bits, names of ports, ranges and every operator are fine."""
    expressions = [{"key": "a.b/c", "operator": "In", "values": ["x", ""]},
                   {"key": "d", "operator": "DoesNotExist"}]  # fmt: skip
    spec: dict[str, Any] = {
        "podSelector": {"matchExpressions": expressions},
        "ingress": [{
            "from": [{"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.2.3.4/16"]}},
                     {"podSelector": {}, "namespaceSelector": {}}],
            "ports": [{"port": "web-1"}, {"port": 80, "endPort": 80}, {}],
        }],
    }  # fmt: skip
    assert fields(NETWORK_POLICIES, {"metadata": {"name": "x"}, "spec": spec}) == []


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"endpointSelector": {"matchLabels": {"a": "b c"}}},
         "spec.endpointSelector.matchLabels[a]"),
        ({"endpointSelector": {"matchLabels": {"k8s:a": "-b"}}},
         "spec.endpointSelector.matchLabels[k8s:a]"),
        ({"endpointSelector": {}, "ingress": [{"fromEndpoints": [{"matchLabels": {"a": "b\n"}}]}]},
         "spec.ingress[0].fromEndpoints[0].matchLabels[a]"),
        ({"endpointSelector": {}, "egressDeny": [{"toEndpoints": [{"matchLabels": {"a": "b_"}}]}]},
         "spec.egressDeny[0].toEndpoints[0].matchLabels[a]"),
    ],
)  # fmt: skip
def test_label_values_of_cilium_policies(spec: dict[str, Any], field: str) -> None:
    """As the schema of Cilium's resources has it."""
    document = {"metadata": {"name": "x"}, "spec": spec}
    for key in ("ciliumnetworkpolicies.cilium.io", "ciliumclusterwidenetworkpolicies.cilium.io"):
        (cause,) = check(BY_KEY[key], document)
        assert cause["field"] == field
        assert cause["message"].endswith(
            f"{field} in body should match '^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$'"
        )


def test_a_label_value_that_is_too_long() -> None:
    """63 characters are the most; the schema that a real API server gets says so as well."""
    policies = BY_KEY["ciliumnetworkpolicies.cilium.io"]
    for length, said in ((63, []), (64, ["Too long: may not be more than 63 bytes"])):
        spec = {"endpointSelector": {"matchLabels": {"a": "b" * length}}}
        causes = check(policies, {"metadata": {"name": "x"}, "spec": spec})
        assert [cause["message"] for cause in causes] == said
    shape = structural(SCHEMAS["CiliumNetworkPolicy"])["properties"]["spec"]["properties"]
    value = shape["endpointSelector"]["properties"]["matchLabels"]["additionalProperties"]
    assert value["maxLength"] == 63
    assert value["pattern"].startswith("^")


def test_every_kind_has_a_schema() -> None:
    """The table of kinds and the schemas belong together."""
    assert {row.kind for row in RESOURCES} == set(SCHEMAS)


def test_unknown_fields_are_kept() -> None:
    """A manifest for a fuller Kubernetes is taken; what it says more is kept."""
    assert fields(PODS, pod(futureField={"x": 1})) == []


def test_nulls_mean_absent() -> None:
    """Null members disappear at every depth."""
    document = {"a": None, "b": [{"c": None, "d": 1}], "e": {"f": {"g": None}}}
    drop_nulls(document)
    assert document == {"b": [{"d": 1}], "e": {"f": {}}}
