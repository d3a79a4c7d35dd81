"""Subresources other than status: scale, and what is created on pods."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from fimbria.apiserver import errors
from fimbria.apiserver.entry import Entry, Object, encode, field_at
from fimbria.apiserver.options import delete_options

if TYPE_CHECKING:
    from fimbria.apiserver.registry import Registry
    from fimbria.apiserver.routes import Target

Change = Callable[[Object], Any]
_SUCCESS = encode({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"})


def serve(
    registry: Registry, target: Target, method: str, change: Change | None, dry_run: bool
) -> tuple[int, bytes]:
    """Answer a request for a subresource: HTTP code and JSON.

    `change` makes the wanted document out of the current one (PUT, POST and PATCH).
    """
    entry = registry.find(target.resource, target.namespace, target.name)
    kind, subresource = target.resource.kind, target.subresource
    if subresource == "scale" and target.resource.scale:
        if change is None:
            return 200, encode(_scale(entry))
        return 200, _rescale(registry, entry, change(_scale(entry)), dry_run)
    if kind == "Pod" and subresource in ("log", "exec", "attach", "portforward"):
        message = f"pods/{subresource} is not served here; in a lab, use `fimbria lab exec`"
        raise errors.ApiError(404, "NotFound", message)
    if kind == "Namespace" and subresource == "finalize" and change:
        return 200, registry.update(target.resource, "", target.name, change(entry.decode()))
    if kind == "Pod" and subresource in ("binding", "eviction") and method == "POST" and change:
        document = change({})
        if subresource == "binding":
            return 201, _bind(registry, entry, document, dry_run)
        wanted = document.get("deleteOptions", {})
        if not isinstance(wanted, dict):
            raise errors.bad_request("deleteOptions must be an object")
        options = delete_options({}, cast("Object", wanted))
        if not dry_run:
            registry.delete(target.resource, target.namespace, target.name, options)
        return 201, _SUCCESS
    raise errors.no_such_path(f"{target.resource.plural}/{subresource}")


def _scale(entry: Entry) -> Object:
    document = entry.decode()
    metadata = document["metadata"]
    labels: dict[str, str] = field_at(document, "spec.selector.matchLabels") or {}
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in kept},
        "spec": {"replicas": field_at(document, "spec.replicas") or 0},
        "status": {
            "replicas": field_at(document, "status.replicas") or 0,
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def _rescale(registry: Registry, entry: Entry, wanted: Any, dry_run: bool) -> bytes:
    replicas = field_at(wanted, "spec.replicas")
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
        text = f"Invalid value: {replicas}: must be a whole number"
        causes = [errors.cause("FieldValueInvalid", "spec.replicas", text)]
        raise errors.invalid("Scale", "autoscaling", entry.name, causes)
    document = entry.decode()
    document["spec"]["replicas"] = replicas
    version = field_at(wanted, "metadata.resourceVersion")
    if isinstance(version, str):
        document["metadata"]["resourceVersion"] = version
    registry.update(entry.resource, entry.namespace, entry.name, document, dry_run=dry_run)
    scale = _scale(registry.find(entry.resource, entry.namespace, entry.name))
    scale["spec"]["replicas"] = replicas
    return encode(scale)


def _bind(registry: Registry, entry: Entry, binding: Object, dry_run: bool) -> bytes:
    node = field_at(binding, "target.name")
    if not isinstance(node, str) or not node:
        text = "Required value"
        causes = [errors.cause("FieldValueRequired", "target.name", text)]
        raise errors.invalid("Binding", "", entry.name, causes)
    document = entry.decode()
    if bound := document["spec"].get("nodeName"):
        raise errors.conflict("pods/binding", entry.name, f"pod is already assigned to {bound}")
    if dry_run:
        return _SUCCESS
    document["spec"]["nodeName"] = node
    registry.update(entry.resource, entry.namespace, entry.name, document)
    bound_pod = registry.find(entry.resource, entry.namespace, entry.name).decode()
    conditions = cast("list[Any]", bound_pod["status"].setdefault("conditions", []))
    conditions.append(
        {
            "type": "PodScheduled",
            "status": "True",
            "lastTransitionTime": registry.timestamp(),
        }
    )
    registry.update(entry.resource, entry.namespace, entry.name, bound_pod, status=True)
    return _SUCCESS
