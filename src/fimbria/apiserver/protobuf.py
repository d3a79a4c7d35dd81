"""Objects that arrive as protobuf, turned into JSON documents.

Since 1.32 the typed clients behind `kubectl create namespace`, `kubectl auth can-i` or
`kubectl drain` send protobuf without asking. This decodes the kinds and fields that they send; a
field with content that is not in the table below is refused by name, never dropped. Layout: four
bytes `k8s\\0`, then `runtime.Unknown` with the object in its second field; field numbers are those
of Kubernetes' `generated.proto` files.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from fimbria.apiserver.errors import bad_request, unsupported_media

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\0"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 20


class _Bytes:
    """A bytes value, base64 in JSON."""


class _Time:
    """meta/v1 Time: seconds and nanoseconds."""


class _IntOrString:
    """util/intstr: type, number, text."""


class _Pointer:
    """A number or boolean whose zero value is meant (a pointer in Go)."""


# number: (name, type). Types: str, int, bool, the classes above,
# a table for a message, [type] for a repeated field, {"*": type} for a map.
_Table = dict[Any, Any]
_STRINGS: _Table = {"*": str}
_LABEL_SELECTOR: _Table = {
    1: ("matchLabels", _STRINGS),
    2: ("matchExpressions", [{1: ("key", str), 2: ("operator", str), 3: ("values", [str])}]),
}
_METADATA: _Table = {
    1: ("name", str),
    2: ("generateName", str),
    3: ("namespace", str),
    5: ("uid", str),
    6: ("resourceVersion", str),
    7: ("generation", int),
    8: ("creationTimestamp", _Time),
    11: ("labels", _STRINGS),
    12: ("annotations", _STRINGS),
    14: ("finalizers", [str]),
}
_CONTAINER: _Table = {
    1: ("name", str),
    2: ("image", str),
    3: ("command", [str]),
    4: ("args", [str]),
    5: ("workingDir", str),
    6: ("ports", [{1: ("name", str), 2: ("hostPort", int), 3: ("containerPort", int),
                   4: ("protocol", str), 5: ("hostIP", str)}]),
    7: ("env", [{1: ("name", str), 2: ("value", str)}]),
    13: ("terminationMessagePath", str),
    14: ("imagePullPolicy", str),
    20: ("terminationMessagePolicy", str),
}  # fmt: skip
_POD_SPEC: _Table = {
    2: ("containers", [_CONTAINER]),
    3: ("restartPolicy", str),
    4: ("terminationGracePeriodSeconds", _Pointer),
    6: ("dnsPolicy", str),
    7: ("nodeSelector", _STRINGS),
    8: ("serviceAccountName", str),
    10: ("nodeName", str),
    11: ("hostNetwork", bool),
    20: ("initContainers", [_CONTAINER]),
}
_SERVICE_PORT: _Table = {
    1: ("name", str),
    2: ("protocol", str),
    3: ("port", int),
    4: ("targetPort", _IntOrString),
    5: ("nodePort", int),
}
_DEPLOYMENT: _Table = {
    1: ("replicas", _Pointer),
    2: ("selector", _LABEL_SELECTOR),
    3: ("template", {1: ("metadata", _METADATA), 2: ("spec", _POD_SPEC)}),
    6: ("revisionHistoryLimit", _Pointer),
}
_SERVICE: _Table = {
    1: ("ports", [_SERVICE_PORT]),
    2: ("selector", _STRINGS),
    3: ("clusterIP", str),
    4: ("type", str),
    7: ("sessionAffinity", str),
    10: ("externalName", str),
}
_DELETE_OPTIONS: _Table = {
    1: ("gracePeriodSeconds", _Pointer),
    2: ("preconditions", {1: ("uid", str), 2: ("resourceVersion", str)}),
    3: ("orphanDependents", bool),
    4: ("propagationPolicy", str),
    5: ("dryRun", [str]),
}
_LEASE: _Table = {
    1: ("holderIdentity", str),
    2: ("leaseDurationSeconds", int),
    3: ("acquireTime", _Time),
    4: ("renewTime", _Time),
    5: ("leaseTransitions", int),
}
_ACCESS: _Table = {
    1: ("resourceAttributes", {1: ("namespace", str), 2: ("verb", str), 3: ("group", str),
                               4: ("version", str), 5: ("resource", str), 6: ("subresource", str),
                               7: ("name", str)}),
    2: ("nonResourceAttributes", {1: ("path", str), 2: ("verb", str)}),
}  # fmt: skip
_KINDS: dict[str, _Table] = {
    "ConfigMap": {2: ("data", _STRINGS), 3: ("binaryData", {"*": _Bytes})},
    "DeleteOptions": _DELETE_OPTIONS,
    "Deployment": {2: ("spec", _DEPLOYMENT)},
    "Eviction": {2: ("deleteOptions", _DELETE_OPTIONS)},
    "Lease": {2: ("spec", _LEASE)},
    "Namespace": {2: ("spec", {1: ("finalizers", [str])})},
    "Secret": {2: ("data", {"*": _Bytes}), 3: ("type", str), 4: ("stringData", _STRINGS)},
    "SelfSubjectAccessReview": {2: ("spec", _ACCESS)},
    "SelfSubjectReview": {},
    "SelfSubjectRulesReview": {2: ("spec", {1: ("namespace", str)})},
    "Service": {2: ("spec", _SERVICE)},
    "ServiceAccount": {},
}


def decode(body: bytes) -> dict[str, Any]:
    """The object in an API request body. Raises ApiError 400 or 415."""
    if not body.startswith(_MAGIC):
        raise bad_request("the body is not Kubernetes protobuf")
    try:
        envelope = dict(_fields(body[len(_MAGIC) :]))
        types = dict(_fields(envelope.get(1, b"")))
        api_version, kind = types.get(1, b"").decode(), types.get(2, b"").decode()
        raw = envelope.get(2, b"")
    except (ValueError, IndexError, AttributeError, TypeError):
        raise bad_request("the protobuf envelope is malformed") from None
    if kind not in _KINDS:
        raise unsupported_media(f"{kind} as protobuf is not supported; send application/json")
    table = (
        _KINDS[kind] if kind == "DeleteOptions" else {1: ("metadata", _METADATA), **_KINDS[kind]}
    )
    try:
        document = _message(raw, table, kind, 0)
    except (ValueError, IndexError, TypeError, AttributeError, OverflowError, OSError):
        raise bad_request(f"the protobuf of {kind} is malformed") from None
    return {"apiVersion": api_version, "kind": kind, **document}


def _fields(data: bytes) -> list[tuple[int, Any]]:
    """The fields of a message: numbers with an int or bytes. Raises ValueError, IndexError."""
    result: list[tuple[int, Any]] = []
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        if tag & 7 == _VARINT:
            value, position = _varint(data, position)
            result.append((tag >> 3, value))
            continue
        if tag & 7 == _BYTES:
            length, position = _varint(data, position)
        elif tag & 7 in (_FIXED64, _FIXED32):
            length = 8 if tag & 7 == _FIXED64 else 4
        else:
            raise ValueError("unknown wire type")
        if position + length > len(data):
            raise ValueError("truncated")
        result.append((tag >> 3, data[position : position + length]))
        position += length
    return result


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, position
    raise ValueError("a number is too long")


def _message(data: bytes, table: _Table, path: str, depth: int) -> dict[str, Any]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    result: dict[str, Any] = {}
    for number, content in _fields(data):
        if number not in table:
            # Go always sends fields that are not pointers; empty ones mean nothing.
            if _weight(content):
                raise unsupported_media(
                    f"{path}: field {number} as protobuf is not supported; send application/json"
                )
            continue
        name, kind = table[number]
        where = f"{path}.{name}"
        if isinstance(kind, list):
            result.setdefault(name, []).append(_value(content, kind[0], where, depth))
        elif isinstance(kind, dict) and "*" in kind:
            pair = dict(_fields(content))
            key = _value(pair.get(1, b""), str, where, depth)
            result.setdefault(name, {})[key] = _value(pair.get(2, b""), kind["*"], where, depth)
        else:
            value = _value(content, kind, where, depth)
            if kind is _Pointer or value:
                result[name] = value
    return result


def _value(content: Any, kind: Any, path: str, depth: int) -> Any:
    if isinstance(kind, dict):
        return _message(content, cast("_Table", kind), path, depth + 1)
    return _SCALARS[kind](content)


def _number(content: int) -> int:
    return content - (1 << 64) if content >> 63 else content


def _time(content: bytes) -> str | None:
    seconds = dict(_fields(content)).get(1)
    if not seconds or seconds >> 63:
        return None
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _int_or_string(content: bytes) -> int | str | None:
    fields = dict(_fields(content))
    if fields.get(1):
        return fields.get(3, b"").decode()
    return fields.get(2) or None


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    str: lambda content: content.decode(),
    int: _number,
    bool: bool,
    _Pointer: _number,
    _Bytes: lambda content: base64.b64encode(content).decode(),
    _Time: _time,
    _IntOrString: _int_or_string,
}


def _weight(content: Any) -> bool:
    """Whether an unknown field says anything: messages full of zeros and empty texts do not."""
    if not isinstance(content, bytes):
        return bool(content)
    try:
        return any(_weight(value) for _, value in _fields(content))
    except (ValueError, IndexError):
        return True
