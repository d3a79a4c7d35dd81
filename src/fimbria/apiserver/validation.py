"""Refusing objects that break the rules, with the path of every field at fault.

`check` returns field errors instead of raising, so that a client sees all of them at once. The
rules are those of Kubernetes' API conventions (names: RFC 1123 and RFC 1035 as in
"Object Names and IDs") and of `schema`; those for labels stand in `labels`, those for
NetworkPolicies in `network_rules`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

from fimbria.apiserver.entry import field_at
from fimbria.apiserver.errors import cause
from fimbria.apiserver.labels import LABEL, SUBDOMAIN, Causes, invalid, labels, qualified, show
from fimbria.apiserver.network_rules import network_policy
from fimbria.apiserver.notation import ANY, INT_OR_STRING, TYPE_NAMES, Enum, Int, Schema, Text
from fimbria.apiserver.schema import METADATA, SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.apiserver.entry import Object
    from fimbria.apiserver.resources import Resource

_DNS_1035 = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
MAX_ANNOTATIONS = 256 * 1024
"""Bytes of all annotations of an object together."""


def check(resource: Resource, document: Object) -> Causes:
    """All field errors of a complete object; empty if it is valid."""
    causes: Causes = []
    _shape(document.get("metadata"), METADATA, "metadata", causes)
    _shape(document, SCHEMAS[resource.kind], "", causes)
    if causes:
        return causes
    _metadata(resource, document["metadata"], causes)
    if function := _RULES.get(resource.kind):
        function(document, causes)
    return causes


# Shapes ----------------------------------------------------------------------


def _shape(value: Any, schema: Schema, path: str, causes: Causes) -> None:
    if isinstance(schema, dict):
        _object(value, cast("dict[str, Schema]", schema), path, causes)
    elif isinstance(schema, list):
        if not isinstance(value, list):
            return _wrong(path, value, "array", causes)
        for index, item in enumerate(cast("list[Any]", value)):
            _shape(item, schema[0], f"{path}[{index}]", causes)
    elif isinstance(schema, Enum):
        if value not in schema.values:
            known = ", ".join(f'"{item}"' for item in schema.values)
            text = f"Unsupported value: {show(value)}: supported values: {known}"
            causes.append(cause("FieldValueNotSupported", path, text))
    elif isinstance(schema, Int):
        if not isinstance(value, int) or isinstance(value, bool):
            return _wrong(path, value, "integer", causes)
        if not schema.low <= value <= schema.high:
            invalid(path, value, f"must be between {schema.low} and {schema.high}", causes)
    elif isinstance(schema, Text):
        _text(value, schema, path, causes)
    elif schema is INT_OR_STRING:
        if isinstance(value, bool) or not isinstance(value, int | str):
            _wrong(path, value, "integer or string", causes)
    elif schema is not ANY and (
        not isinstance(value, schema) or (schema is int and isinstance(value, bool))
    ):
        _wrong(path, value, TYPE_NAMES[schema], causes)
    return None


def _object(value: Any, schema: dict[str, Schema], path: str, causes: Causes) -> None:
    if not isinstance(value, dict):
        return _wrong(path, value, "object", causes)
    fields = cast("dict[str, Any]", value)
    if "*" in schema:
        for name, item in fields.items():
            _shape(item, schema["*"], f"{path}[{name}]", causes)
        return None
    for key, child in schema.items():
        name = key.removesuffix("!")
        where = f"{path}.{name}" if path else name
        if name in fields:
            _shape(fields[name], child, where, causes)
        elif key.endswith("!"):
            causes.append(cause("FieldValueRequired", where, "Required value"))
    return None


def _text(value: Any, schema: Text, path: str, causes: Causes) -> None:
    if not isinstance(value, str):
        return _wrong(path, value, "string", causes)
    if len(value) > schema.most:
        text = f"Too long: may not be more than {schema.most} bytes"
        causes.append(cause("FieldValueTooLong", path, text))
    if not schema.fits(value):
        rule = f"{path} in body should match '{schema.anchored}'"
        invalid(path, value, rule, causes)
    return None


def _wrong(path: str, value: Any, wanted: str, causes: Causes) -> None:
    text = f"Invalid value: {show(value)}: must be of type {wanted}"
    causes.append(cause("FieldValueTypeInvalid", path, text))


# Rules -----------------------------------------------------------------------


def _metadata(resource: Resource, metadata: dict[str, Any], causes: Causes) -> None:
    name: str = metadata["name"]
    if resource.kind == "Service" and not (_DNS_1035.fullmatch(name) and len(name) <= 63):
        invalid("metadata.name", name, "a DNS-1035 label must consist of at most 63 lower case "
                 "alphanumeric characters or '-' and start with a letter", causes)  # fmt: skip
    elif resource.kind == "Namespace" and not (LABEL.fullmatch(name) and len(name) <= 63):
        invalid("metadata.name", name, "a lowercase RFC 1123 label must consist of at most 63 "
                 "lower case alphanumeric characters or '-'", causes)  # fmt: skip
    elif not (SUBDOMAIN.fullmatch(name) and len(name) <= 253):
        invalid("metadata.name", name, "a lowercase RFC 1123 subdomain must consist of lower case "
                 "alphanumeric characters, '-' or '.', and must start and end with an "
                 "alphanumeric character", causes)  # fmt: skip
    labels(metadata.get("labels") or {}, "metadata.labels", causes)
    annotations: dict[str, str] = metadata.get("annotations") or {}
    for key in annotations:
        qualified(key, "metadata.annotations", causes)
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > MAX_ANNOTATIONS:
        text = f"Too long: must have at most {MAX_ANNOTATIONS} bytes"
        causes.append(cause("FieldValueTooLong", "metadata.annotations", text))


def _containers(spec: dict[str, Any], path: str, causes: Causes) -> None:
    if not spec["containers"]:
        causes.append(cause("FieldValueRequired", f"{path}.containers", "Required value"))
    seen: set[str] = set()
    for field in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(field) or []):
            where, name = f"{path}.{field}[{index}]", container["name"]
            if name in seen:
                text = f'Duplicate value: "{name}"'
                causes.append(cause("FieldValueDuplicate", f"{where}.name", text))
            seen.add(name)
            if not (LABEL.fullmatch(name) and len(name) <= 63):
                invalid(f"{where}.name", name, "a lowercase RFC 1123 label is needed", causes)
            if not container.get("image"):
                causes.append(cause("FieldValueRequired", f"{where}.image", "Required value"))


def _pod(document: Object, causes: Causes) -> None:
    _containers(document["spec"], "spec", causes)


def _workload(document: Object, causes: Causes) -> None:
    spec = document["spec"]
    template = spec["template"]
    pod_labels: dict[str, str] = field_at(template, "metadata.labels") or {}
    labels(pod_labels, "spec.template.metadata.labels", causes)
    wanted: dict[str, str] = spec["selector"].get("matchLabels") or {}
    if not wanted and not spec["selector"].get("matchExpressions"):
        invalid("spec.selector", spec["selector"], "empty selector is invalid", causes)
    elif not wanted.items() <= pod_labels.items():
        invalid("spec.template.metadata.labels", pod_labels,
                 "`selector` does not match template `labels`", causes)  # fmt: skip
    _containers(template["spec"], "spec.template.spec", causes)


def _service(document: Object, causes: Causes) -> None:
    spec = document["spec"]
    ports: list[dict[str, Any]] = spec.get("ports") or []
    headless = spec.get("clusterIP") == "None"
    if not ports and not headless and spec.get("type") != "ExternalName":
        causes.append(cause("FieldValueRequired", "spec.ports", "Required value"))
    for index, port in enumerate(ports):
        if len(ports) > 1 and not port.get("name"):
            path = f"spec.ports[{index}].name"
            causes.append(cause("FieldValueRequired", path, "Required value"))


def _crd(document: Object, causes: Causes) -> None:
    spec = document["spec"]
    name = f"{spec['names']['plural']}.{spec['group']}"
    if document["metadata"]["name"] != name:
        invalid("metadata.name", document["metadata"]["name"], f"must be {name}", causes)


_RULES: dict[str, Callable[[Any, Causes], None]] = {
    "CustomResourceDefinition": _crd,
    "DaemonSet": _workload,
    "Deployment": _workload,
    "NetworkPolicy": network_policy,
    "Pod": _pod,
    "ReplicaSet": _workload,
    "Service": _service,
    "StatefulSet": _workload,
}
