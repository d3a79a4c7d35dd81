"""OpenAPI as far as kubectl needs it: schemas for `explain` and validation, and two parameters.

kubectl looks for the dryRun and fieldValidation parameters of a kind's patch operation before it
uses them, in OpenAPI v3 (since 1.25) or in v2 as protobuf (older, or as a fallback). The v2
document is therefore also encoded by hand here, with the field numbers of gnostic's
`OpenAPIv2.proto` (message names stand beside them).
"""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from fimbria.apiserver.entry import Object, encode
from fimbria.apiserver.notation import ANY, INT_OR_STRING, TYPE_NAMES, Enum, Int, Schema, Text
from fimbria.apiserver.resources import SERVED, Resource
from fimbria.apiserver.schema import METADATA, SCHEMAS

# Asked for with an @ before v1.0, which clients refuse as malformed in an answer.
PROTOBUF = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation", "force")


def v3_index() -> Object:
    """/openapi/v3: where the documents of the groups are."""
    paths = {f"api{'s' if row.group else ''}/{row.api_version}" for row in SERVED}
    return {"paths": {path: {"serverRelativeURL": f"/openapi/v3/{path}"} for path in sorted(paths)}}


@cache
def v3(path: str) -> bytes | None:
    """/openapi/v3/PATH (api/v1, apis/apps/v1, …): the group's document, or None."""
    rows = [row for row in SERVED if path == f"api{'s' if row.group else ''}/{row.api_version}"]
    if not rows:
        return None
    document = {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.32.0"},
        "paths": {url: {"patch": _operation(row, "v3")} for row in rows for url in _urls(row)},
        "components": {"schemas": {_model(row): _definition(row) for row in rows}},
    }
    return encode(document)


@cache
def v2_json() -> bytes:
    """/openapi/v2 as JSON."""
    return encode(
        {
            "swagger": "2.0",
            "info": {"title": "Kubernetes", "version": "v1.32.0"},
            "paths": {
                url: {"patch": _operation(row, "v2")} for row in SERVED for url in _urls(row)
            },
            "definitions": {_model(row): _definition(row) for row in SERVED},
        }
    )


@cache
def v2_protobuf() -> bytes:
    """/openapi/v2 as protobuf: the operations; definitions are left to JSON and to v3."""
    info = _text(1, "Kubernetes") + _text(2, "v1.32.0")  # Info: title, version
    paths = b"".join(
        _field(2, _text(1, url) + _field(2, _field(8, _patch_operation(row))))
        for row in SERVED  # Paths.path: NamedPathItem: name, value: PathItem.patch
        for url in _urls(row)
    )
    # Document: swagger, info, paths
    return _text(1, "2.0") + _field(2, info) + _field(8, paths)


def _patch_operation(row: Resource) -> bytes:
    result = b""
    for name in _PARAMETERS:
        query = _text(2, "query") + _text(4, name) + _text(6, "string")
        # Operation.parameters: ParametersItem.parameter: Parameter.non_body_parameter:
        # NonBodyParameter.query_parameter_sub_schema: in, name, type
        result += _field(8, _field(1, _field(2, _field(3, query))))
    kind = f"group: {row.group!r}\nversion: {row.version}\nkind: {row.kind}\n"
    # Operation.vendor_extension: NamedAny: name, value: Any.yaml
    name = "x-kubernetes-group-version-kind"
    return result + _field(13, _text(1, name) + _field(2, _text(2, kind)))


def _field(number: int, content: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _text(number: int, text: str) -> bytes:
    return _field(number, text.encode())


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 0x7F:
        result.append(value & 0x7F | 0x80)
        value >>= 7
    result.append(value)
    return bytes(result)


def _urls(row: Resource) -> list[str]:
    prefix = f"/api{'s' if row.group else ''}/{row.api_version}"
    space = "/namespaces/{namespace}" if row.namespaced else ""
    return [f"{prefix}{space}/{row.plural}/{{name}}"]


def _kind(row: Resource) -> Object:
    return {"group": row.group, "version": row.version, "kind": row.kind}


def _operation(row: Resource, version: str) -> Object:
    shape: Object = {"type": "string"}
    typed: Object = {"schema": shape} if version == "v3" else shape
    return {
        "parameters": [{"in": "query", "name": name, **typed} for name in _PARAMETERS],
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": _kind(row),
    }


def _model(row: Resource) -> str:
    group = ".".join(reversed(row.group.split("."))) if row.group else "io.k8s.api.core"
    return f"{group}.{row.version}.{row.kind}"


def _definition(row: Resource) -> Object:
    result = _schema(SCHEMAS[row.kind])
    text: Object = {"type": "string"}
    result["properties"] = {
        "apiVersion": text,
        "kind": text,
        "metadata": _schema(METADATA),
        **result["properties"],
    }
    result["x-kubernetes-group-version-kind"] = [_kind(row)]
    return result


def _schema(schema: Schema) -> Object:
    """A schema of `schema.py` as JSON schema."""
    if isinstance(schema, dict):
        fields = cast("dict[str, Any]", schema)
        if "*" in fields:
            return {"type": "object", "additionalProperties": _schema(fields["*"])}
        result: Object = {
            "type": "object",
            "properties": {name.removesuffix("!"): _schema(x) for name, x in fields.items()},
        }
        if required := [name[:-1] for name in fields if name.endswith("!")]:
            result["required"] = required
        return result
    if isinstance(schema, list):
        return {"type": "array", "items": _schema(schema[0])}
    if isinstance(schema, Enum):
        return {"type": "string", "enum": list(schema.values)}
    if isinstance(schema, Int):
        return {"type": "integer", "minimum": schema.low, "maximum": schema.high}
    if isinstance(schema, Text):
        return {"type": "string", "maxLength": schema.most, "pattern": schema.anchored}
    if schema is INT_OR_STRING:
        return {"type": "string", "format": "int-or-string"}
    if schema is ANY:
        return {}
    name = TYPE_NAMES[schema]
    return {"type": name, "items": {}} if name == "array" else {"type": name}
