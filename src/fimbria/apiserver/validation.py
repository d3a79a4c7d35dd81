"""Refusing objects that break the rules, with the path of every field at fault.

`check` returns field errors instead of raising, so that a client sees all of them at once. The
rules are those of Kubernetes' API conventions (names: RFC 1123 and RFC 1035 as in
"Object Names and IDs"; labels and annotations: "Labels and Selectors") and of `schema.py`.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, cast

from fimbria.apiserver.entry import field_at
from fimbria.apiserver.errors import cause
from fimbria.apiserver.notation import ANY, INT_OR_STRING, TYPE_NAMES, Enum, Int, Schema
from fimbria.apiserver.schema import METADATA, SCHEMAS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.apiserver.entry import Object
    from fimbria.apiserver.resources import Resource

Causes = list[dict[str, str]]

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(?:\.{_LABEL.pattern})*")
_DNS_1035 = re.compile(r"[a-z](?:[-a-z0-9]*[a-z0-9])?")
_WORD = re.compile(r"[A-Za-z0-9](?:[-A-Za-z0-9_.]*[A-Za-z0-9])?")
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
            text = f"Unsupported value: {_show(value)}: supported values: {known}"
            causes.append(cause("FieldValueNotSupported", path, text))
    elif isinstance(schema, Int):
        if not isinstance(value, int) or isinstance(value, bool):
            return _wrong(path, value, "integer", causes)
        if not schema.low <= value <= schema.high:
            _invalid(path, value, f"must be between {schema.low} and {schema.high}", causes)
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


def _wrong(path: str, value: Any, wanted: str, causes: Causes) -> None:
    text = f"Invalid value: {_show(value)}: must be of type {wanted}"
    causes.append(cause("FieldValueTypeInvalid", path, text))


def _invalid(path: str, value: Any, rule: str, causes: Causes) -> None:
    causes.append(cause("FieldValueInvalid", path, f"Invalid value: {_show(value)}: {rule}"))


def _show(value: Any) -> str:
    if isinstance(value, dict | list):
        return "object" if isinstance(value, dict) else "array"
    return f'"{value}"' if isinstance(value, str) else str(value)


# Rules -----------------------------------------------------------------------


def _metadata(resource: Resource, metadata: dict[str, Any], causes: Causes) -> None:
    name: str = metadata["name"]
    if resource.kind == "Service" and not (_DNS_1035.fullmatch(name) and len(name) <= 63):
        _invalid("metadata.name", name, "a DNS-1035 label must consist of at most 63 lower case "
                 "alphanumeric characters or '-' and start with a letter", causes)  # fmt: skip
    elif resource.kind == "Namespace" and not (_LABEL.fullmatch(name) and len(name) <= 63):
        _invalid("metadata.name", name, "a lowercase RFC 1123 label must consist of at most 63 "
                 "lower case alphanumeric characters or '-'", causes)  # fmt: skip
    elif not (_SUBDOMAIN.fullmatch(name) and len(name) <= 253):
        _invalid("metadata.name", name, "a lowercase RFC 1123 subdomain must consist of lower case "
                 "alphanumeric characters, '-' or '.', and must start and end with an "
                 "alphanumeric character", causes)  # fmt: skip
    labels(metadata.get("labels") or {}, "metadata.labels", causes)
    annotations: dict[str, str] = metadata.get("annotations") or {}
    for key in annotations:
        _qualified(key, "metadata.annotations", causes)
    if sum(len(k.encode()) + len(v.encode()) for k, v in annotations.items()) > MAX_ANNOTATIONS:
        text = f"Too long: must have at most {MAX_ANNOTATIONS} bytes"
        causes.append(cause("FieldValueTooLong", "metadata.annotations", text))


def labels(values: dict[str, str], path: str, causes: Causes) -> None:
    """Check a map of labels."""
    for key, value in values.items():
        _qualified(key, path, causes)
        if value and not (_WORD.fullmatch(value) and len(value) <= 63):
            rule = "a valid label value is empty or at most 63 alphanumeric characters, '-', '_' "
            _invalid(path, value, rule + "or '.', starting and ending alphanumeric", causes)


def _qualified(key: str, path: str, causes: Causes) -> None:
    prefix, slash, name = key.rpartition("/")
    if slash and not (_SUBDOMAIN.fullmatch(prefix.lower()) and len(prefix) <= 253):
        _invalid(path, key, "the prefix must be a DNS subdomain", causes)
    elif not (_WORD.fullmatch(name) and len(name) <= 63):
        rule = "name part must consist of at most 63 alphanumeric characters, '-', '_' or '.', "
        _invalid(path, key, rule + "and must start and end with an alphanumeric character", causes)


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
            if not (_LABEL.fullmatch(name) and len(name) <= 63):
                _invalid(f"{where}.name", name, "a lowercase RFC 1123 label is needed", causes)
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
        _invalid("spec.selector", spec["selector"], "empty selector is invalid", causes)
    elif not wanted.items() <= pod_labels.items():
        _invalid("spec.template.metadata.labels", pod_labels,
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


def _network_policy(document: Object, causes: Causes) -> None:
    spec: dict[str, Any] = document.get("spec") or {}
    for direction, field in (("ingress", "from"), ("egress", "to")):
        for i, rule in enumerate(spec.get(direction) or []):
            for j, peer in enumerate(rule.get(field) or []):
                path = f"spec.{direction}[{i}].{field}[{j}]"
                if not peer:
                    causes.append(cause("FieldValueRequired", path, "must specify a peer"))
                if block := peer.get("ipBlock"):
                    _blocks(block, f"{path}.ipBlock", causes)
            for j, port in enumerate(rule.get("ports") or []):
                end, start = port.get("endPort"), port.get("port")
                if end is not None and not (isinstance(start, int) and start <= end):
                    path = f"spec.{direction}[{i}].ports[{j}].endPort"
                    _invalid(path, end, "must be at least a numeric `port`", causes)


def _blocks(block: dict[str, Any], path: str, causes: Causes) -> None:
    for where, cidr in [("cidr", block["cidr"]), *(("except", c) for c in block.get("except", []))]:
        try:
            ipaddress.ip_network(cidr)
        except ValueError:
            _invalid(f"{path}.{where}", cidr, "must be a valid CIDR value", causes)


def _crd(document: Object, causes: Causes) -> None:
    spec = document["spec"]
    name = f"{spec['names']['plural']}.{spec['group']}"
    if document["metadata"]["name"] != name:
        _invalid("metadata.name", document["metadata"]["name"], f"must be {name}", causes)


_RULES: dict[str, Callable[[Any, Causes], None]] = {
    "CustomResourceDefinition": _crd,
    "DaemonSet": _workload,
    "Deployment": _workload,
    "NetworkPolicy": _network_policy,
    "Pod": _pod,
    "ReplicaSet": _workload,
    "Service": _service,
    "StatefulSet": _workload,
}
