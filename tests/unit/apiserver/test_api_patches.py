"""Patches: the cases of the RFCs and of Kubernetes' strategic merge patch."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from fimbria.apiserver.errors import ApiError
from fimbria.apiserver.patch import MAX_OPERATIONS, json_patch, merge_patch
from fimbria.apiserver.strategic import strategic_merge


@pytest.mark.parametrize(
    ("document", "patch", "wanted"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a", "b"], ["c", "d"], ["c", "d"]),
        ({"a": "b"}, ["c"], ["c"]),
        ({"a": "foo"}, None, None),
        ({"a": "foo"}, "bar", "bar"),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ([1, 2], {"a": "b", "c": None}, {"a": "b"}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_as_in_the_rfc(document: Any, patch: Any, wanted: Any) -> None:
    """RFC 7386, appendix A."""
    assert merge_patch(document, patch) == wanted


@pytest.mark.parametrize(
    ("document", "operation", "wanted"),
    [
        ({"a": 1}, {"op": "add", "path": "/b", "value": 2}, {"a": 1, "b": 2}),
        ({"a": [1, 3]}, {"op": "add", "path": "/a/1", "value": 2}, {"a": [1, 2, 3]}),
        ({"a": [1]}, {"op": "add", "path": "/a/-", "value": [2]}, {"a": [1, [2]]}),
        ({"a": 1}, {"op": "add", "path": "", "value": [1]}, [1]),
        ({"a": 1}, {"op": "add", "path": "/a", "value": None}, {"a": None}),
        ({"a": [1, 2, 3]}, {"op": "remove", "path": "/a/1"}, {"a": [1, 3]}),
        ({"a": {"b": 1}}, {"op": "remove", "path": "/a/b"}, {"a": {}}),
        ({"a": [1, 2]}, {"op": "replace", "path": "/a/0", "value": 9}, {"a": [9, 2]}),
        ({"a": {"b": 1}, "c": {}}, {"op": "move", "from": "/a/b", "path": "/c/d"},
         {"a": {}, "c": {"d": 1}}),
        ({"a": [1, 2, 3]}, {"op": "move", "from": "/a/0", "path": "/a/2"}, {"a": [2, 3, 1]}),
        ({"a": {"b": 1}}, {"op": "copy", "from": "/a", "path": "/c"},
         {"a": {"b": 1}, "c": {"b": 1}}),
        ({"a/b": 1, "~": 2}, {"op": "remove", "path": "/a~1b"}, {"~": 2}),
        ({"~1": 1}, {"op": "remove", "path": "/~01"}, {}),
        ({"": 1}, {"op": "remove", "path": "/"}, {}),
        ({"a": [1, {"b": None}]}, {"op": "test", "path": "/a", "value": [1, {"b": None}]},
         {"a": [1, {"b": None}]}),
    ],
)  # fmt: skip
def test_json_patch_operations(document: Any, operation: Any, wanted: Any) -> None:
    """RFC 6902, section 4 and appendix A; the document itself is not changed."""
    before = copy.deepcopy(document)
    assert json_patch(document, [operation]) == wanted
    assert document == before


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        ({"op": "remove", "path": "/none"}, 422),
        ({"op": "replace", "path": "/none", "value": 1}, 422),
        ({"op": "add", "path": "/none/below", "value": 1}, 422),
        ({"op": "add", "path": "/text/below", "value": 1}, 422),
        ({"op": "add", "path": "/list/3", "value": 1}, 422),
        ({"op": "add", "path": "/list/01", "value": 1}, 422),
        ({"op": "add", "path": "/list/-1", "value": 1}, 422),
        ({"op": "add", "path": "/list/1e0", "value": 1}, 422),
        ({"op": "add", "path": "/list/²", "value": 1}, 422),
        ({"op": "remove", "path": "/list/-"}, 422),
        ({"op": "remove", "path": "/list/99999999999999999999"}, 422),
        ({"op": "test", "path": "/one", "value": True}, 422),
        ({"op": "move", "from": "/map", "path": "/map/child"}, 422),
        ({"op": "add", "path": "no-slash", "value": 1}, 400),
        ({"op": "add", "path": "/a"}, 400),
        ({"op": "copy", "path": "/a"}, 400),
        ({"op": "fly", "path": "/a"}, 400),
        ({"path": "/a"}, 400),
        ({"op": "add", "path": 7, "value": 1}, 400),
        ("add", 400),
    ],
)
def test_json_patch_refuses_with_the_operation(operation: Any, code: int) -> None:
    """What cannot be done is 422, what is no operation is 400; both say which one it was."""
    document = {"text": "t", "list": [1, 2], "map": {"child": 1}, "one": 1}
    with pytest.raises(ApiError) as caught:
        json_patch(document, [{"op": "test", "path": "/one", "value": 1}, operation])
    assert caught.value.code == code
    assert "operation 1" in caught.value.message


def test_json_patch_is_bounded() -> None:
    """A patch with too many operations is refused, not executed."""
    operation = {"op": "add", "path": "/a", "value": 1}
    with pytest.raises(ApiError, match="at most"):
        json_patch({}, [operation] * (MAX_OPERATIONS + 1))
    with pytest.raises(ApiError, match="list of operations"):
        json_patch({}, {"op": "add"})


def test_strategic_lists_merge_by_their_key() -> None:
    """Containers, env, ports and conditions merge by key; unknown lists are replaced."""
    document = {
        "spec": {
            "containers": [
                {"name": "a", "env": [{"name": "X", "value": "1"}], "args": ["1", "2"],
                 "ports": [{"containerPort": 80, "name": "http"}]},
                {"name": "b"},
            ]
        }
    }  # fmt: skip
    patch = {
        "spec": {
            "containers": [
                {"name": "a", "env": [{"name": "Y", "value": "2"}], "args": ["3"],
                 "ports": [{"containerPort": 80, "name": "web"}]},
                {"name": "c"},
            ]
        }
    }  # fmt: skip
    result = strategic_merge(document, patch)
    first, second, third = result["spec"]["containers"]
    assert first["env"] == [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]
    assert first["args"] == ["3"]
    assert first["ports"] == [{"containerPort": 80, "name": "web"}]
    assert (second["name"], third["name"]) == ("b", "c")


def test_strategic_directives() -> None:
    """$patch deletes and replaces, primitives are deleted by value, $retainKeys clears the rest."""
    containers = [{"name": "a", "image": "1"}, {"name": "b"}]
    document = {"spec": {"containers": containers}}
    gone = {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}
    assert strategic_merge(document, gone) == {"spec": {"containers": [{"name": "b"}]}}
    anew = {"spec": {"containers": [{"name": "z"}, {"$patch": "replace"}]}}
    assert strategic_merge(document, anew) == {"spec": {"containers": [{"name": "z"}]}}
    whole = {"spec": {"$patch": "replace", "nodeName": "n"}}
    assert strategic_merge(document, whole) == {"spec": {"nodeName": "n"}}
    assert strategic_merge(document, {"spec": {"$patch": "delete"}}) == {"spec": {}}
    meta = {"metadata": {"finalizers": ["a", "b"]}}
    fewer = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}
    assert strategic_merge(meta, fewer) == {"metadata": {"finalizers": ["b", "c"]}}
    rolling = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    retain = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(rolling, retain) == {"spec": {"strategy": {"type": "Recreate"}}}


def test_strategic_order_keeps_what_it_does_not_name() -> None:
    """$setElementOrder sorts the items it names and leaves others where they are."""
    document = {"containers": [{"name": n} for n in "axbc"]}
    patch = {"$setElementOrder/containers": [{"name": n} for n in "cba"], "containers": []}
    names = [c["name"] for c in strategic_merge(document, patch)["containers"]]
    assert names == ["c", "x", "b", "a"]


@pytest.mark.parametrize(
    "patch",
    [
        [],
        {"$patch": "explode"},
        {"containers": ["text"]},
        {"containers": [{"image": "no name"}]},
        {"$retainKeys": "type"},
        {"$retainKeys": [1]},
        {"$deleteFromPrimitiveList/finalizers": "a"},
    ],
)
def test_strategic_refuses_what_makes_no_sense(patch: Any) -> None:
    """A malformed strategic patch is 400."""
    with pytest.raises(ApiError) as caught:
        strategic_merge({"finalizers": ["a"]}, patch)
    assert caught.value.code == 400
