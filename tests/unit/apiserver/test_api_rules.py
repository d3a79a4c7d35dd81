"""Selectors, defaults, tables, routes, options and protobuf."""

from __future__ import annotations

import ipaddress
from typing import Any

import pytest

from fimbria.apiserver import protobuf
from fimbria.apiserver.defaults import apply_defaults
from fimbria.apiserver.entry import Entry, encode, make_entry
from fimbria.apiserver.errors import ApiError
from fimbria.apiserver.kinds import SERVICE_NETWORK, assign_cluster_ip, immutable
from fimbria.apiserver.options import continue_token, delete_options, dry_run, list_options
from fimbria.apiserver.resources import BY_KEY, RESOURCES, Resource
from fimbria.apiserver.routes import parse
from fimbria.apiserver.selectors import matcher
from fimbria.apiserver.tables import age, table

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
