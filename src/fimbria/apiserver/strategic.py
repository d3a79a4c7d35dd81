"""Strategic merge patch: merge patch that knows which lists merge by which key.

Kubernetes API conventions and sig-api-machinery's "strategic-merge-patch" document: lists of
objects merge by a key that belongs to the field; `$patch: replace|delete|merge`,
`$deleteFromPrimitiveList/F`, `$setElementOrder/F` and `$retainKeys` direct it. A pure function of
decoded JSON of any shape; what does not fit raises a 400 `ApiError`. Arguments are not changed.
"""

from __future__ import annotations

from typing import Any, cast

from fimbria.apiserver.errors import bad_request

MERGE_KEYS: dict[str, str] = {
    "containers": "name",
    "initContainers": "name",
    "ephemeralContainers": "name",
    "volumes": "name",
    "env": "name",
    "imagePullSecrets": "name",
    "resourceClaims": "name",
    "secrets": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "conditions": "type",
    "status.addresses": "type",
    "podIPs": "ip",
    "ownerReferences": "uid",
    "containers.ports": "containerPort",
    "initContainers.ports": "containerPort",
    "ephemeralContainers.ports": "containerPort",
    "spec.ports": "port",
}
"""Field, or parent field and field → the key its list merges by (the Go types' patchMergeKey)."""

PRIMITIVE_LISTS = frozenset({"finalizers", "podCIDRs"})
"""Lists of plain values that merge as sets; all lists not named here are replaced whole."""

_DIRECTIVE = "$patch"
_RETAIN = "$retainKeys"
_ORDER = "$setElementOrder/"
_DELETE_PRIMITIVES = "$deleteFromPrimitiveList/"
_Map = dict[str, Any]


def strategic_merge(document: Any, patch: Any) -> Any:
    """The document with the patch applied."""
    if not isinstance(patch, dict):
        raise bad_request("a strategic merge patch is an object")
    return _merge_map(_mapping(document), cast("_Map", patch), "")


def merge_key(parent: str, field: str) -> str | None:
    """The key by which the list at parent.field merges, or None if it is replaced."""
    return MERGE_KEYS.get(f"{parent}.{field}") or MERGE_KEYS.get(field)


def _merge_map(current: _Map, patch: _Map, parent: str) -> _Map:
    directive = patch.get(_DIRECTIVE, "merge")
    if directive == "delete":
        return {}
    if directive == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if directive != "merge":
        raise bad_request(f"unknown $patch directive {directive!r}")
    result = dict(current)
    retained = patch.get(_RETAIN)
    if retained is not None:
        names = _texts(retained, _RETAIN)
        result = {key: value for key, value in result.items() if key in names}
    for key, value in patch.items():
        if key in (_DIRECTIVE, _RETAIN) or key.startswith(_ORDER):
            continue
        if key.startswith(_DELETE_PRIMITIVES):
            field = key.removeprefix(_DELETE_PRIMITIVES)
            gone = _items(value, key)
            if field in result:
                result[field] = [x for x in _items(result[field], field) if x not in gone]
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = _merge_value(result.get(key), value, parent, key)
    for key, value in patch.items():
        if key.startswith(_ORDER):
            field = key.removeprefix(_ORDER)
            if isinstance(result.get(field), list):
                result[field] = _ordered(result[field], _items(value, key), parent, field)
    return result


def _merge_value(current: Any, value: Any, parent: str, field: str) -> Any:
    if isinstance(value, dict):
        patch = cast("_Map", value)
        return _merge_map(_mapping(current), patch, field)
    if not isinstance(value, list):
        return value
    items = cast("list[Any]", value)
    before = cast("list[Any]", current) if isinstance(current, list) else []
    if field in PRIMITIVE_LISTS:
        return before + [item for item in items if item not in before]
    if key := merge_key(parent, field):
        return _merge_list(before, items, key, field)
    return items


def _merge_list(before: list[Any], patch: list[Any], key: str, field: str) -> list[Any]:
    """Items with a known key merge in place, others are added; `$patch` deletes or replaces."""
    changes: list[_Map] = []
    for item in patch:
        if not isinstance(item, dict):
            raise bad_request(f"{field}: items of this list are objects")
        changes.append(cast("_Map", item))
    if any(change == {_DIRECTIVE: "replace"} for change in changes):
        return [change for change in changes if _DIRECTIVE not in change]
    result = list(before)
    for change in changes:
        if key not in change:
            raise bad_request(f"{field}: an item has no {key}, the key of this list")
        name = change[key]
        places = [i for i, item in enumerate(result) if _key_of(item, key) == name]
        if change.get(_DIRECTIVE) == "delete":
            result = [item for item in result if _key_of(item, key) != name]
        elif places:
            result[places[0]] = _merge_map(_mapping(result[places[0]]), change, field)
        else:
            result.append(_merge_map({}, change, field))
    return result


def _ordered(items: list[Any], order: list[Any], parent: str, field: str) -> list[Any]:
    """Items named in `order` in that order; those not named keep their places, so
    that two clients' items can live in one list."""
    key = merge_key(parent, field)
    wanted = [_key_of(item, key) for item in order]
    named = [item for item in items if _key_of(item, key) in wanted]
    queue = iter(sorted(named, key=lambda item: wanted.index(_key_of(item, key))))
    return [next(queue) if _key_of(item, key) in wanted else item for item in items]


def _key_of(item: Any, key: str | None) -> Any:
    if key is None or not isinstance(item, dict):
        return item
    return cast("_Map", item).get(key)


def _mapping(value: Any) -> _Map:
    return cast("_Map", value) if isinstance(value, dict) else {}


def _items(value: Any, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise bad_request(f"{field}: must be a list")
    return cast("list[Any]", value)


def _texts(value: Any, field: str) -> list[str]:
    items = _items(value, field)
    if not all(isinstance(item, str) for item in items):
        raise bad_request(f"{field}: must be a list of field names")
    return items
