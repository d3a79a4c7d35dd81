"""Selectors, validation, defaults, tables, routes, options and protobuf."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from fimbria.apiserver import protobuf
from fimbria.apiserver.defaults import apply_defaults
from fimbria.apiserver.entry import Entry, encode, make_entry
from fimbria.apiserver.errors import ApiError
from fimbria.apiserver.kinds import SERVICE_NETWORK, assign_cluster_ip, drop_nulls, immutable
from fimbria.apiserver.options import continue_token, delete_options, dry_run, list_options
from fimbria.apiserver.resources import BY_KEY, RESOURCES, Resource
from fimbria.apiserver.routes import parse
from fimbria.apiserver.schema import SCHEMAS
from fimbria.apiserver.selectors import matcher
from fimbria.apiserver.structural import structural
from fimbria.apiserver.tables import age, table
from fimbria.apiserver.validation import check

PODS = BY_KEY["pods"]


def entry(resource: Resource, **document: Any) -> Entry:
    metadata = {"name": "x", "namespace": "default", "uid": "u", "resourceVersion": "1",
                **document.pop("metadata", {})}  # fmt: skip
    whole = {"apiVersion": resource.api_version, "kind": resource.kind, "metadata": metadata,
             **document}  # fmt: skip
    return make_entry(resource, whole, encode(whole))


def pod(**spec: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "a", "image": "a"}], **spec}
    return {"metadata": {"name": "p", "namespace": "default"}, "spec": spec}


def fields(resource: Resource, document: dict[str, Any]) -> list[str]:
    return [cause["field"] for cause in check(resource, document)]


# Selectors -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("a=1", True), ("a==1", True), ("a!=1", False), ("b!=1", True), ("a", True), ("!a", False),
        (" a = 1 , c.d/e = f ", True), ("a in (1,2)", True), ("a in (2)", False),
        ("a notin (2)", True), ("b notin (2)", True), ("n>4", True), ("n<4", False), ("b>1", False),
        ("in=x", False), ("e=", True), ("", True),
    ],
)  # fmt: skip
def test_label_selectors(selector: str, matches: bool) -> None:
    """The grammar of Kubernetes' label selectors."""
    one = entry(PODS, metadata={"labels": {"a": "1", "c.d/e": "f", "n": "5", "e": ""}})
    match = matcher(PODS, selector, "")
    assert (match is None or match(one)) is matches


@pytest.mark.parametrize(
    "selector", ["a in", "a in 1", "=1", "a=1=2", "a>x", "a b", "!", "a,,b", "-a"]
)
def test_malformed_label_selectors_are_refused(selector: str) -> None:
    """A selector that cannot be parsed is 400, never everything or nothing."""
    with pytest.raises(ApiError) as caught:
        matcher(PODS, selector, "")
    assert caught.value.code == 400


def test_field_selectors() -> None:
    """Field selectors look at the kind's selectable fields and refuse others by name."""
    one = entry(PODS, spec={"nodeName": "n1"}, status={"phase": "Running"})
    match = matcher(PODS, "", "spec.nodeName=n1,status.phase!=Failed,metadata.name=x")
    assert match
    assert match(one)
    with pytest.raises(ApiError, match=r"spec\.containers"):
        matcher(PODS, "", "spec.containers=x")


# Validation ------------------------------------------------------------------


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


# Defaults and kinds ----------------------------------------------------------


@pytest.mark.parametrize("row", RESOURCES, ids=lambda row: row.kind)
def test_defaulting_twice_changes_nothing(row: Resource) -> None:
    """Defaults are a fixed point."""
    template = {"metadata": {"labels": {"a": "b"}}, "spec": pod()["spec"]}
    specs: dict[str, Any] = {
        "Pod": pod()["spec"],
        "Service": {"ports": [{"port": 80}]},
        "CustomResourceDefinition": {"group": "g", "names": {"kind": "K", "plural": "ks"}},
    }
    default: dict[str, Any] = {"selector": {"matchLabels": {"a": "b"}}, "template": template}
    document = {
        "metadata": {"name": "x", "creationTimestamp": "2024-01-01T00:00:00Z"},
        "spec": specs.get(row.kind, default),
    }
    apply_defaults(row.kind, document)
    once = encode(document)
    apply_defaults(row.kind, document)
    assert encode(document) == once


def test_secrets_encode_string_data() -> None:
    """stringData is write-only: it ends up in data, as base64."""
    secret: dict[str, Any] = {"metadata": {}, "data": {"a": "eA=="}, "stringData": {"b": "y"}}
    apply_defaults("Secret", secret)
    assert secret["data"] == {"a": "eA==", "b": "eQ=="}
    assert "stringData" not in secret


def test_cluster_addresses_are_not_given_twice() -> None:
    """Each Service gets a free address; a wanted one that is taken is refused."""
    services = BY_KEY["services"]
    taken: list[Entry] = []
    for _ in range(3):
        document: dict[str, Any] = {"metadata": {"name": "s"}, "spec": {"type": "ClusterIP"}}
        assign_cluster_ip(document, taken)
        taken.append(entry(services, spec=document["spec"]))
    addresses = {e.fields["spec.clusterIP"] for e in taken}
    assert len(addresses) == 3
    assert all(ipaddress.ip_address(address) in SERVICE_NETWORK for address in addresses)
    again = {"metadata": {"name": "s"}, "spec": {"type": "ClusterIP", "clusterIP": min(addresses)}}
    with pytest.raises(ApiError) as caught:
        assign_cluster_ip(again, taken)
    assert caught.value.code == 422


def test_a_pods_spec_is_fixed_but_for_its_images() -> None:
    """Only images, tolerations and times of a pod may change; a node may be set once."""
    before = pod()
    image = pod(containers=[{"name": "a", "image": "b"}])
    command = pod(containers=[{"name": "a", "image": "a", "command": ["x"]}])
    assert immutable("Pod", before, image) == []
    assert immutable("Pod", before, pod(nodeName="n")) == []
    assert immutable("Pod", pod(nodeName="n"), pod(nodeName="m"))
    assert immutable("Pod", before, command)


# Tables ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (119, "119s"), (120, "2m"), (185, "3m5s"), (700, "11m"), (3 * 3600, "3h"),
     (3 * 3600 + 60, "3h1m"), (30 * 3600, "30h"), (49 * 3600, "2d1h"), (9 * 86400, "9d"),
     (-5, "0s")],
)  # fmt: skip
def test_ages(seconds: int, text: str) -> None:
    """Ages are as short as kubectl shows them."""
    assert age("2024-01-01T00:00:00Z", 1704067200 + seconds) == text


def test_every_column_can_be_read_from_an_empty_object() -> None:
    """Columns show something for objects that have nothing but metadata."""
    for row in RESOURCES:
        about = {"involvedObject": {}} if row.kind == "Event" else {}
        result = table(row, [entry(row, **about)], {}, "Object", 0.0)
        (shown,) = result["rows"]
        assert len(shown["cells"]) == len(result["columnDefinitions"]), row.kind
        assert None not in shown["cells"], row.kind


def test_pod_cells_tell_what_matters() -> None:
    """A pod's row shows readiness, the telling reason and restarts."""
    statuses = [{"ready": True, "restartCount": 2},
                {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]  # fmt: skip
    status = {"phase": "Running", "containerStatuses": statuses}
    spec = {"containers": [{"name": "a"}, {"name": "b"}]}
    cells = table(PODS, [entry(PODS, spec=spec, status=status)], {}, "None", 0.0)["rows"][0][
        "cells"
    ]
    assert cells[1:4] == ["1/2", "CrashLoopBackOff", "2"]


def test_paths_with_escaped_dots_and_filters() -> None:
    """Columns reach into keys with dots and pick list items."""
    identity = BY_KEY["ciliumidentities.cilium.io"]
    one = entry(identity, metadata={"labels": {"io.kubernetes.pod.namespace": "web"}})
    assert table(identity, [one], {}, "None", 0.0)["rows"][0]["cells"][1] == "web"
    node = BY_KEY["ciliumnodes.cilium.io"]
    addresses = [{"type": "InternalIP", "ip": "1.1.1.1"}, {"type": "CiliumInternalIP", "ip": "2.2"}]
    cells = table(node, [entry(node, spec={"addresses": addresses})], {}, "None", 0.0)
    assert cells["rows"][0]["cells"][1:3] == ["2.2", "1.1.1.1"]


# Routes and options ----------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("/api/v1/namespaces", ("namespaces", "", "", "")),
        ("/api/v1/namespaces/a", ("namespaces", "", "a", "")),
        ("/api/v1/namespaces/a/status", ("namespaces", "", "a", "status")),
        ("/api/v1/namespaces/a/pods", ("pods", "a", "", "")),
        ("/api/v1/namespaces/a/pods/b/log", ("pods", "a", "b", "log")),
        ("/apis/cilium.io/v2/ciliumnodes/n", ("ciliumnodes", "", "n", "")),
        ("/api/v1/pods", ("pods", "", "", "")),
    ],
)
def test_paths(path: str, wanted: tuple[str, ...]) -> None:
    """Resource URIs name kind, namespace, object and subresource."""
    found = parse(path)
    assert (found.resource.plural, found.namespace, found.name, found.subresource) == wanted


@pytest.mark.parametrize(
    "path",
    ["/api/v1/pods/x", "/api/v1/namespaces/a/nodes", "/apis/apps/v1/namespaces/a/pods",
     "/api/v1/namespaces/a/pods/b/c/d", "/api/v1/namespaces//pods", "/apis/x/v1/y"],
)  # fmt: skip
def test_paths_that_are_not_there(path: str) -> None:
    """Everything else is 404."""
    with pytest.raises(ApiError) as caught:
        parse(path)
    assert caught.value.code == 404


def test_options_refuse_nonsense_by_name() -> None:
    """Query parameters that cannot be understood are named."""
    for query in ({"limit": "x"}, {"resourceVersion": "-1"}, {"continue": "AAAA"},
                  {"timeoutSeconds": "9" * 30}, {"continue": "é"}):  # fmt: skip
        with pytest.raises(ApiError, match=next(iter(query))):
            list_options(query)
    with pytest.raises(ApiError, match="dryRun"):
        dry_run({"dryRun": "Some"})
    with pytest.raises(ApiError, match="gracePeriodSeconds"):
        delete_options({}, {"gracePeriodSeconds": -1})


def test_continue_tokens_carry_version_and_place() -> None:
    """A page's token leads to the next entry at the same version."""
    options = list_options({"continue": continue_token(7, entry(PODS))})
    assert (options.version, options.start, options.exact) == (7, ("default", "x"), True)


# Protobuf --------------------------------------------------------------------


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return bytes([number << 3, content])
    return bytes([number << 3 | 2, len(content)]) + content


def wrapped(kind: bytes, raw: bytes) -> bytes:
    return b"k8s\0" + field(1, field(1, b"v1") + field(2, kind)) + field(2, raw)


def test_protobuf_objects() -> None:
    """A namespace as typed clients send it, with all the empty fields that Go writes."""
    metadata = field(1, b"web") + field(2, b"") + field(7, 0) + field(8, b"") + field(
        11, field(1, b"a") + field(2, b"b"))  # fmt: skip
    raw = field(1, metadata) + field(2, b"") + field(3, field(1, b""))
    assert protobuf.decode(wrapped(b"Namespace", raw)) == {
        "apiVersion": "v1", "kind": "Namespace",
        "metadata": {"name": "web", "labels": {"a": "b"}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{}", 400), (b"k8s\0\xff", 400), (wrapped(b"Pod", b""), 415),
        (wrapped(b"Namespace", field(9, b"x")), 415), (wrapped(b"Namespace", b"\x0a\x7f"), 400),
        (wrapped(b"Namespace", field(1, 5)), 400),
        (wrapped(b"Namespace", field(1, field(1, 5))), 400),
        (wrapped(b"Namespace", field(1, field(8, field(1, b"x")))), 400),
    ],
)  # fmt: skip
def test_protobuf_is_refused_rather_than_misread(body: bytes, code: int) -> None:
    """Unknown kinds and fields are 415, garbage is 400."""
    with pytest.raises(ApiError) as caught:
        protobuf.decode(body)
    assert caught.value.code == code
