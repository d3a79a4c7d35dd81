"""Cells that need more than a path: what `kubectl get` shows of a kind at a glance.

Each function takes a decoded object and gives the text of one cell; the texts follow Kubernetes
1.32's printers, because scripts and eyes are used to them. Objects come from the store, so their
shape has been validated where `schema.py` names it; elsewhere absent and empty look the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fimbria.apiserver.entry import Object, field_at

if TYPE_CHECKING:
    from collections.abc import Callable

NONE = "<none>"


def _list(document: Any, path: str) -> list[Any]:
    value = field_at(document, path)
    return cast("list[Any]", value) if isinstance(value, list) else []


def _condition(document: Object, name: str) -> str:
    for condition in _list(document, "status.conditions"):
        if condition.get("type") == name:
            return str(condition.get("status", ""))
    return ""


def node_status(document: Object) -> str:
    """Ready or NotReady, and whether pods may be scheduled there."""
    ready = {"True": "Ready", "False": "NotReady"}.get(_condition(document, "Ready"), "Unknown")
    cordoned = field_at(document, "spec.unschedulable")
    return f"{ready},SchedulingDisabled" if cordoned else ready


def node_roles(document: Object) -> str:
    """The roles that the node's labels name."""
    prefix = "node-role.kubernetes.io/"
    labels: dict[str, str] = field_at(document, "metadata.labels") or {}
    roles = sorted(label.removeprefix(prefix) for label in labels if label.startswith(prefix))
    return ",".join(roles) or NONE


def pod_ready(document: Object) -> str:
    """Ready containers of all containers."""
    statuses = _list(document, "status.containerStatuses")
    ready = sum(1 for status in statuses if status.get("ready"))
    return f"{ready}/{len(_list(document, 'spec.containers'))}"


def pod_status(document: Object) -> str:
    """The phase, or the most telling reason of a container or of the pod."""
    text = str(field_at(document, "status.reason") or field_at(document, "status.phase") or "")
    for status in reversed(_list(document, "status.containerStatuses")):
        for name in ("waiting", "terminated"):
            if reason := field_at(status, f"state.{name}.reason"):
                text = str(reason)
    return "Terminating" if field_at(document, "metadata.deletionTimestamp") else text


def pod_restarts(document: Object) -> str:
    """How often the pod's containers were started again."""
    statuses = _list(document, "status.containerStatuses")
    return str(sum(status.get("restartCount", 0) for status in statuses))


def external_ip(document: Object) -> str:
    """Addresses that a Service has outside of the cluster."""
    if name := field_at(document, "spec.externalName"):
        return str(name)
    addresses = [str(address) for address in _list(document, "spec.externalIPs")]
    for ingress in _list(document, "status.loadBalancer.ingress"):
        addresses.append(str(ingress.get("ip") or ingress.get("hostname")))
    pending = field_at(document, "spec.type") == "LoadBalancer"
    return ",".join(addresses) or ("<pending>" if pending else NONE)


def service_ports(document: Object) -> str:
    """Ports as 80/TCP, with the node's port as 80:30080/TCP."""
    texts: list[str] = []
    for port in _list(document, "spec.ports"):
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        texts.append(f"{port['port']}{node}/{port.get('protocol', 'TCP')}")
    return ",".join(texts) or NONE


def _shortened(items: list[str]) -> str:
    more = f" + {len(items) - 3} more..." if len(items) > 3 else ""
    return ",".join(items[:3]) + more or NONE


def endpoints(document: Object) -> str:
    """The first addresses with ports."""
    texts: list[str] = []
    for subset in _list(document, "subsets"):
        ports = [f":{port['port']}" for port in _list(subset, "ports") if port.get("port")]
        for address in _list(subset, "addresses"):
            texts.extend(f"{address['ip']}{port}" for port in ports or [""])
    return _shortened(texts)


def slice_ports(document: Object) -> str:
    """The slice's ports."""
    return _shortened([str(port.get("port", "*")) for port in _list(document, "ports")])


def slice_endpoints(document: Object) -> str:
    """The slice's first addresses."""
    return _shortened([a for item in _list(document, "endpoints") for a in item["addresses"]])


def data_count(document: Object) -> int:
    """Number of keys."""
    return len(document.get("data") or {}) + len(document.get("binaryData") or {})


def secret_count(document: Object) -> int:
    """Number of secrets that a service account names."""
    return len(document.get("secrets") or [])


def ready_of_wanted(document: Object) -> str:
    """Ready replicas of wanted ones."""
    ready = field_at(document, "status.readyReplicas") or 0
    return f"{ready}/{field_at(document, 'spec.replicas') or 0}"


def _pairs(labels: dict[str, str] | None) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted((labels or {}).items()))


def node_selector(document: Object) -> str:
    """The nodes that a DaemonSet is for."""
    return _pairs(field_at(document, "spec.template.spec.nodeSelector")) or NONE


def _label_selector(selector: Object) -> str:
    texts = [_pairs(selector.get("matchLabels"))] if selector.get("matchLabels") else []
    for item in _list(selector, "matchExpressions"):
        key, operator, values = item["key"], item["operator"], ",".join(item.get("values") or [])
        match operator:
            case "Exists":
                texts.append(key)
            case "DoesNotExist":
                texts.append(f"!{key}")
            case _:
                texts.append(f"{key} {operator.lower()} ({values})")
    return ",".join(texts) or NONE


def selector(document: Object) -> str:
    """The pods that a workload or a Service is for."""
    wanted: Object = field_at(document, "spec.selector") or {}
    if document["kind"] == "Service":
        return _pairs(wanted) or NONE
    return _label_selector(wanted)


def pod_selector(document: Object) -> str:
    """The pods that a policy is for."""
    return _label_selector(field_at(document, "spec.podSelector") or {})


def _containers(document: Object) -> list[Any]:
    return _list(document, "spec.template.spec.containers")


def container_names(document: Object) -> str:
    """Names of the containers that a workload runs."""
    return ",".join(container["name"] for container in _containers(document))


def container_images(document: Object) -> str:
    """Images of the containers that a workload runs."""
    return ",".join(container.get("image", "") for container in _containers(document))


def last_seen(document: Object) -> str | None:
    """When an event happened last."""
    return (
        field_at(document, "series.lastObservedTime")
        or document.get("lastTimestamp")
        or document.get("eventTime")
        or field_at(document, "metadata.creationTimestamp")
    )


def event_object(document: Object) -> str:
    """What an event is about, as kind/name."""
    about = document["involvedObject"]
    return f"{str(about.get('kind', '')).lower()}/{about.get('name', '')}"


def none(_document: Object) -> str:
    """A column that is always empty here."""
    return NONE


CELLS: dict[str, Callable[[Object], Any]] = {
    function.__name__: function
    for function in (
        container_images, container_names, data_count, endpoints, event_object, external_ip,
        last_seen, node_roles, node_selector, node_status, none, pod_ready, pod_restarts,
        pod_selector, pod_status, ready_of_wanted, secret_count, selector, service_ports,
        slice_endpoints, slice_ports,
    )
}  # fmt: skip
