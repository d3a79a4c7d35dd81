"""Rules of single kinds that need more than their own object: addresses, immutability, CRDs."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Any, cast

from fimbria.apiserver import errors
from fimbria.apiserver.entry import Entry, Object, field_at
from fimbria.apiserver.resources import RESOURCES, Resource
from fimbria.apiserver.schema import SCHEMAS
from fimbria.apiserver.structural import structural

if TYPE_CHECKING:
    from collections.abc import Iterable

SERVICE_NETWORK = ipaddress.IPv4Network("10.96.0.0/12")
"""Where cluster addresses of Services come from (kubeadm's default)."""

_IMMUTABLE: dict[str, tuple[str, ...]] = {
    "DaemonSet": ("spec.selector",),
    "Deployment": ("spec.selector",),
    "EndpointSlice": ("addressType",),
    "ReplicaSet": ("spec.selector",),
    "Secret": ("type",),
    "Service": ("spec.clusterIP",),
    "StatefulSet": ("spec.selector", "spec.serviceName"),
}
_AGREED = "https://github.com/kubernetes-sigs/network-policy-api"
_POD_MUTABLE = ("tolerations", "activeDeadlineSeconds", "terminationGracePeriodSeconds")


def drop_nulls(value: Any) -> None:
    """Remove null members at every depth, in place: to this API null means absent."""
    if isinstance(value, dict):
        mapping = cast("dict[str, Any]", value)
        for name in [name for name, child in mapping.items() if child is None]:
            del mapping[name]
        for child in mapping.values():
            drop_nulls(child)
    elif isinstance(value, list):
        for child in cast("list[Any]", value):
            drop_nulls(child)


def assign_cluster_ip(service: Object, services: Iterable[Entry]) -> None:
    """Give a new Service its cluster address in place. Raises 422 if the wanted one is taken."""
    spec: dict[str, Any] = service["spec"]
    wanted = spec.get("clusterIP")
    if spec["type"] == "ExternalName":
        return
    used = {entry.fields.get("spec.clusterIP") for entry in services}
    if wanted and wanted != "None" and wanted in used:
        text = f'Invalid value: "{wanted}": provided IP is already allocated'
        causes = [errors.cause("FieldValueInvalid", "spec.clusterIPs", text)]
        raise errors.invalid("Service", "", service["metadata"]["name"], causes)
    if not wanted:
        # The first ten addresses stay free for well-known services, such as DNS at .10.
        hosts = (str(SERVICE_NETWORK[i]) for i in range(11, SERVICE_NETWORK.num_addresses - 1))
        wanted = next(address for address in hosts if address not in used)
    spec["clusterIP"] = wanted
    spec["clusterIPs"] = [wanted]


def carry_over(kind: str, current: Object, document: Object) -> None:
    """Keep what an update may leave out because the server had set it; in place."""
    spec, old = document.get("spec"), current.get("spec")
    if not isinstance(spec, dict) or not isinstance(old, dict):
        return
    names = {"Service": ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"),
             "Namespace": ("finalizers",)}.get(kind, ())  # fmt: skip
    for name in names:
        if not spec.get(name) and name in old:  # pyright: ignore[reportUnknownMemberType] - decoded JSON
            spec[name] = old[name]


def immutable(kind: str, current: Object, document: Object) -> list[dict[str, str]]:
    """Field errors for changes to what may not change."""
    causes = [
        errors.cause("FieldValueInvalid", path, "Invalid value: field is immutable")
        for path in _IMMUTABLE.get(kind, ())
        if field_at(current, path) != field_at(document, path)
    ]
    if kind == "Pod" and _fixed(current["spec"]) != _fixed(document["spec"], current["spec"]):
        text = "Forbidden: pod updates may not change fields other than images, tolerations, activeDeadlineSeconds and terminationGracePeriodSeconds"  # noqa: E501 - one message
        causes.append(errors.cause("FieldValueForbidden", "spec", text))
    return causes


def _fixed(spec: Object, current: Object | None = None) -> Object:
    """What of a pod's spec is fixed. A node may be set where there was none (a small scheduler's
    way; Kubernetes has pods/binding for it, which is served too)."""
    fixed = {name: value for name, value in spec.items() if name not in _POD_MUTABLE}
    for field in ("containers", "initContainers"):
        if field in fixed:
            fixed[field] = [
                {name: value for name, value in container.items() if name != "image"}
                for container in fixed[field]
            ]
    if current is not None and "nodeName" not in current:
        fixed.pop("nodeName", None)
    return fixed


def definitions() -> Iterable[Object]:
    """The CustomResourceDefinitions of the built-in custom kinds, for any API server."""
    for row in RESOURCES:
        if not row.strategic:
            yield _definition(row)


def _definition(row: Resource) -> Object:
    metadata: Object = {"name": row.key}
    if row.group.endswith(".k8s.io"):
        # The group is protected: a definition must name where it was agreed upon.
        metadata["annotations"] = {"api-approved.kubernetes.io": _AGREED}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": row.group,
            "scope": "Namespaced" if row.namespaced else "Cluster",
            "names": {
                "kind": row.kind,
                "plural": row.plural,
                "singular": row.singular,
                "shortNames": list(row.short),
                "categories": list(row.categories),
            },
            "versions": [_version(row, version) for version in (row.version, *row.older)],
        },
    }


def _version(row: Resource, version: str) -> Object:
    found: Object = {
        "name": version,
        "served": True,
        "storage": version == row.version,
        "schema": {"openAPIV3Schema": structural(SCHEMAS[row.kind])},
        "additionalPrinterColumns": [_column(*column) for column in row.columns],
    }
    if row.status:
        found["subresources"] = {"status": {}}
    return found


def _column(heading: str, kind: str, path: str) -> Object:
    """A printer column, its path as the JSONPath that CustomResourceDefinitions have."""
    json_path = re.sub(r"\[(\w+)=(\w+)\]", r'[?(@.\1=="\2")]', path)
    return {
        "name": heading,
        "type": kind.removeprefix("+"),
        "priority": int(kind.startswith("+")),
        "jsonPath": f".{json_path}",
    }


def require_built_in(definition: Object) -> None:
    """Refuse definitions of kinds that this server does not have (422)."""
    spec: dict[str, Any] = definition["spec"]
    key = f"{spec['names']['plural']}.{spec['group']}"
    if not any(row.key == key and not row.strategic for row in RESOURCES):
        text = "Forbidden: the embedded API server serves its built-in kinds only; use a kube-apiserver for others"  # noqa: E501 - one message
        causes = [errors.cause("FieldValueForbidden", "spec.names.plural", text)]
        group = "apiextensions.k8s.io"
        raise errors.invalid("CustomResourceDefinition", group, key, causes)
