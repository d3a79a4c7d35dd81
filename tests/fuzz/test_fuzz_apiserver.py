"""Patches and objects of any shape: laws that hold for all of them, and no crash for any.

Cases that were found stay in corpus/apiserver, one JSON file each (`kind`, `form`, `patch`), and
are run first.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from fimbria.apiserver import protobuf
from fimbria.apiserver.entry import encode
from fimbria.apiserver.errors import ApiError
from fimbria.apiserver.options import DeleteOptions
from fimbria.apiserver.patch import json_patch, merge_patch
from fimbria.apiserver.registry import Registry
from fimbria.apiserver.resources import RESOURCES, Resource
from fimbria.apiserver.store import Store
from fimbria.apiserver.strategic import MERGE_KEYS, PRIMITIVE_LISTS, strategic_merge
from fimbria.apiserver.tables import table

if TYPE_CHECKING:
    from collections.abc import Iterator

CORPUS = sorted((Path(__file__).parent / "corpus" / "apiserver").glob("*.json"))
FORMS = {"json": json_patch, "merge": merge_patch, "strategic": strategic_merge}

keys = st.one_of(
    st.sampled_from(["a", "b", "", "/", "~", "~1", "0", "-", "name"]), st.text(max_size=4)
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.integers(), st.floats(allow_nan=False),
    st.text(max_size=5),
)  # fmt: skip
documents = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)
objects = st.dictionaries(keys, documents, max_size=5)


def pointers(document: Any, prefix: str = "") -> Iterator[str]:
    yield prefix
    items: Any = ()
    if isinstance(document, dict):
        items = document.items()
    elif isinstance(document, list):
        items = enumerate(document)
    for key, value in items:
        yield from pointers(value, f"{prefix}/{str(key).replace('~', '~0').replace('/', '~1')}")


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return value


def difference(before: Any, after: Any) -> Any:
    """A merge patch from one document to another."""
    if not isinstance(before, dict) or not isinstance(after, dict):
        return after
    patch: dict[str, Any] = {key: None for key in before if key not in after}
    for key, value in after.items():
        if key not in before or before[key] != value or type(before[key]) is not type(value):
            patch[key] = difference(before.get(key), value)
    return patch


# Laws ------------------------------------------------------------------------


@given(objects, objects)
def test_a_merge_patch_leads_from_any_object_to_any_other(before: Any, after: Any) -> None:
    """RFC 7386: for every target without nulls there is a patch."""
    after = without_nulls(after)
    assert merge_patch(before, difference(before, after)) == after


@given(documents, documents)
def test_a_merge_patch_applied_twice_is_applied_once(document: Any, patch: Any) -> None:
    """Merge patches are idempotent, and change neither argument."""
    before = copy.deepcopy((document, patch))
    once = merge_patch(document, patch)
    assert merge_patch(once, patch) == once
    assert (document, patch) == before


@given(documents, st.data())
def test_what_a_json_patch_adds_it_can_remove(document: Any, data: st.DataObject) -> None:
    """RFC 6902: add at a new place, then remove there, is the identity; test sees the value."""
    places = [p for p in pointers(document) if isinstance(value_at(document, p), dict | list)]
    assume(places)
    place = data.draw(st.sampled_from(places))
    parent = value_at(document, place)
    if isinstance(parent, dict):
        name = data.draw(keys.filter(lambda key: key not in parent))
    else:
        name = str(data.draw(st.integers(0, len(parent))))
    path = f"{place}/{name.replace('~', '~0').replace('/', '~1')}"
    value = data.draw(documents)
    operations = [
        {"op": "add", "path": path, "value": value},
        {"op": "test", "path": path, "value": value},
        {"op": "remove", "path": path},
    ]
    assert json_patch(document, operations) == document


@given(documents, st.data())
def test_move_is_copy_and_remove(document: Any, data: st.DataObject) -> None:
    """RFC 6902, section 4.4: a move is a removal and an addition of what was there."""
    source = data.draw(st.sampled_from(list(pointers(document))))
    target = data.draw(st.sampled_from(list(pointers(document))))
    assume(source and not target.startswith(source))
    value = value_at(document, source)
    steps = [{"op": "remove", "path": source}, {"op": "add", "path": target, "value": value}]
    moved = outcome(json_patch, document, [{"op": "move", "from": source, "path": target}])
    stepped = outcome(json_patch, document, steps)
    if isinstance(moved, ApiError):
        assert isinstance(stepped, ApiError)
    else:
        assert moved == stepped


def value_at(document: Any, pointer: str) -> Any:
    for part in pointer.split("/")[1:]:
        part = part.replace("~1", "/").replace("~0", "~")
        document = document[int(part)] if isinstance(document, list) else document[part]
    return document


def outcome(function: Any, *arguments: Any, **options: Any) -> Any:
    """The result, or the ApiError that was raised."""
    try:
        return function(*arguments, **options)
    except ApiError as error:
        return error


def refusal(function: Any, *arguments: Any, **options: Any) -> int | None:
    """The code with which a call was refused, None if it was not."""
    found = outcome(function, *arguments, **options)
    return found.code if isinstance(found, ApiError) else None


@given(documents, st.one_of(documents, st.lists(st.dictionaries(
    st.sampled_from(["op", "path", "from", "value"]),
    st.one_of(st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "/a", "/0",
                               "/-", "", "/a/0", "/~1"]), documents)), max_size=4)))  # fmt: skip
def test_any_json_patch_works_or_is_refused(document: Any, patch: Any) -> None:
    """Whatever comes as a JSON patch, the answer is a document, 400 or 422."""
    before = copy.deepcopy(document)
    assert refusal(json_patch, document, patch) in (None, 400, 422)
    assert document == before


directives = st.sampled_from(
    ["$patch", "$retainKeys", "$setElementOrder/env", "$deleteFromPrimitiveList/finalizers",
     "env", "finalizers", "containers", "ports", "name"]
)  # fmt: skip
strategic_documents = st.recursive(
    st.one_of(scalars, st.sampled_from(["delete", "replace", "merge", "a", "b"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(directives, keys), inner, max_size=5),
        st.lists(
            st.fixed_dictionaries({"name": st.sampled_from("abc")}, optional={"x": inner}),
            max_size=3,
        ),
    ),
    max_leaves=15,
)  # fmt: skip


@given(strategic_documents, strategic_documents)
def test_any_strategic_patch_works_or_is_refused(document: Any, patch: Any) -> None:
    """Whatever comes as a strategic merge patch, the answer is an object or 400."""
    before = copy.deepcopy((document, patch))
    assert refusal(strategic_merge, document, patch) in (None, 400)
    assert (document, patch) == before


@given(objects, objects)
def test_without_keyed_lists_strategic_is_merge(document: Any, patch: Any) -> None:
    """Where no list has a key and nothing directs, a strategic merge is a merge patch."""
    special = {*(key.rpartition(".")[2] for key in MERGE_KEYS), *PRIMITIVE_LISTS}

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return not special & value.keys() and all(
                not key.startswith("$") and plain(child) for key, child in value.items()
            )
        return True

    assume(plain(patch))
    assert strategic_merge(document, patch) == merge_patch(document, patch)


# The whole way ---------------------------------------------------------------

_POD = {"containers": [{"name": "a", "image": "a", "ports": [{"containerPort": 80}],
                        "env": [{"name": "A", "value": "b"}], "resources": {"limits": {}},
                        "readinessProbe": {"httpGet": {"port": 80}}}], "nodeName": "n"}  # fmt: skip
_WORKLOAD = {
    "replicas": 1,
    "selector": {"matchLabels": {"a": "b"}},
    "template": {"metadata": {"labels": {"a": "b"}}, "spec": _POD},
}
_PEERS = [
    {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}},
    {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}},
]
SAMPLES: dict[str, dict[str, Any]] = {
    "Pod": {"spec": _POD},
    "Service": {"spec": {"ports": [{"port": 80}], "selector": {"a": "b"}}},
    "Deployment": {"spec": _WORKLOAD},
    "ReplicaSet": {"spec": _WORKLOAD},
    "DaemonSet": {"spec": _WORKLOAD},
    "StatefulSet": {"spec": _WORKLOAD},
    "Secret": {"data": {"a": "eA=="}, "stringData": {"b": "c"}},
    "ConfigMap": {"data": {"a": "b"}},
    "Endpoints": {"subsets": [{"addresses": [{"ip": "1.1.1.1"}], "ports": [{"port": 80}]}]},
    "Event": {"involvedObject": {"kind": "Pod", "name": "x"}, "reason": "r"},
    "NetworkPolicy": {"spec": {"podSelector": {}, "ingress": [{"from": _PEERS, "ports": [
        {"port": 80, "endPort": 90}]}]}},
    "EndpointSlice": {"addressType": "IPv4", "endpoints": [{"addresses": ["1.1.1.1"]}],
                      "ports": [{"port": 1}]},
    "CiliumIdentity": {"security-labels": {"a": "b"}},
    "CiliumNode": {"spec": {"addresses": [{"type": "InternalIP", "ip": "1.1.1.1"}]}},
    "CiliumNodeConfig": {"spec": {"defaults": {"a": "b"}, "nodeSelector": {}}},
    "CiliumCIDRGroup": {"spec": {"externalCIDRs": ["10.0.0.0/8"]}},
    "CiliumNetworkPolicy": {
        "spec": {
            "endpointSelector": {"matchLabels": {"a": "b"}},
            "ingress": [
                {
                    "fromCIDRSet": [{"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}],
                    "toPorts": [
                        {
                            "ports": [{"port": "80", "endPort": 90, "protocol": "TCP"}],
                            "rules": {"http": [{"path": "/"}]},
                        }
                    ],
                }
            ],
            "egressDeny": [{"icmps": [{"fields": [{"type": 8, "family": "IPv4"}]}]}],
        }
    },
    "ClusterNetworkPolicy": {
        "spec": {
            "tier": "Admin",
            "priority": 1,
            "subject": {"namespaces": {"matchLabels": {"a": "b"}}},
            "egress": [
                {
                    "action": "Deny",
                    "to": [{"networks": ["10.0.0.0/8"]}],
                    "protocols": [{"tcp": {"destinationPort": {"number": 80}}}],
                }
            ],
        }
    },
    "CiliumEndpoint": {"status": {"identity": {"id": 1}, "networking": {"addressing": [
        {"ipv4": "1.1.1.1"}]}}},
}  # fmt: skip
ROWS = [row for row in RESOURCES if row.kind != "CustomResourceDefinition"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry with an object of every kind; what it stages is never committed."""
    store = Store(tmp_path_factory.mktemp("fuzz") / "data.db", history=16)
    result = Registry(store, lambda: 1_700_000_000.0)
    result.seed()
    yield result
    store._database.close()


def fresh(registry: Registry, row: Resource) -> None:
    namespace = "default" if row.namespaced else ""
    if left := registry.store.get(row, namespace, "x"):
        registry.store.remove(row, left.decode())
    document = copy.deepcopy({"metadata": {"name": "x"}, **SAMPLES.get(row.kind, {})})
    registry.create(row, namespace, document)


def try_patch(registry: Registry, row: Resource, form: str, patch: Any, *, status: bool) -> None:
    """Patch, then show the object in every form; only refusals may come out."""
    try:
        patch = msgspec.json.decode(json.dumps(patch))
    except msgspec.DecodeError:
        return
    registry.store._staged.clear()  # whatever a case before this one left when it failed
    fresh(registry, row)
    namespace = "default" if row.namespaced else ""
    document = outcome(FORMS[form], registry.find(row, namespace, "x").decode(), patch)
    if isinstance(document, dict):
        code = refusal(registry.update, row, namespace, "x", document, status=status and row.status)
        assert (code or 0) < 500
    if entry := registry.store.get(row, namespace, "x"):
        encode(table(row, [entry], {}, "Object", 1_700_000_000.0))
        assert entry.decode()["metadata"]["name"] == "x"
        assert (refusal(registry.delete, row, namespace, "x", DeleteOptions(grace=0)) or 0) < 500
    registry.store._staged.clear()


_FULL = {"metadata": {"name": "x", "labels": {}, "annotations": {}, "ownerReferences": [],
                      "finalizers": []}, "spec": {}, "status": {"conditions": [], "addresses": [],
                      "containerStatuses": [{"state": {}, "ready": True}], "phase": "",
                      "loadBalancer": {"ingress": [{}]}}}  # fmt: skip


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(row=st.sampled_from(ROWS), status=st.booleans(), value=documents, data=st.data())
def test_no_value_anywhere_crashes_the_server(
    registry: Registry, row: Resource, status: bool, value: Any, data: st.DataObject
) -> None:
    """Any JSON at any place of any object is taken or refused, and what was taken can be shown."""
    sample = {**_FULL, **SAMPLES.get(row.kind, {})}
    place = data.draw(st.sampled_from([p for p in pointers(sample) if p]))
    # What is above the place must be there for it to be reached; the object's name must stay.
    parts = place.split("/")
    above = "/".join(parts[: 3 if parts[1] == "metadata" else 2])
    patch = [{"op": "replace", "path": place, "value": value}]
    if above != place:
        patch.insert(0, {"op": "add", "path": above, "value": value_at(sample, above)})
    try_patch(registry, row, "json", patch, status=status)
    merge: Any = value
    for part in reversed(place.split("/")[1:]):
        merge = {part: merge}
    try_patch(registry, row, "merge", merge, status=status)
    if row.strategic:
        try_patch(registry, row, "strategic", merge, status=status)


@pytest.mark.parametrize("case", CORPUS, ids=lambda path: path.stem)
def test_found_cases(registry: Registry, case: Path) -> None:
    """What once crashed does not crash again."""
    found = json.loads(case.read_text())
    (row,) = [row for row in RESOURCES if row.kind == found["kind"]]
    try_patch(registry, row, found["form"], found["patch"], status=found.get("status", False))


@given(st.binary(max_size=200))
def test_any_bytes_as_protobuf_are_refused_or_read(body: bytes) -> None:
    """Garbage as protobuf is 400 or 415."""
    envelope = b"\x0a\x0f\x0a\x02v1\x12\x09Namespace\x12"
    for whole in (body, b"k8s\0" + body, b"k8s\0" + envelope + bytes([len(body)]) + body):
        assert refusal(protobuf.decode, whole) in (None, 400, 415)
