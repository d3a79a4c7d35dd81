"""Values that Kubernetes fills in and clients rely on, one function per kind.

Each takes a new or changed object and completes it in place, as the API server of Kubernetes 1.32
does for the same input (reference: the kinds' API pages). Only fields that are absent are set, so
that defaulting twice changes nothing.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.apiserver.entry import Object

_Map = dict[str, Any]


def apply_defaults(kind: str, document: Object) -> None:
    """Complete the object in place; the shape has been validated."""
    if function := _DEFAULTS.get(kind):
        function(document)


def _maps(value: Any) -> list[_Map]:
    return cast("list[_Map]", value) if isinstance(value, list) else []


def _pod_spec(spec: _Map) -> None:
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("securityContext", {})
    spec.setdefault("schedulerName", "default-scheduler")
    if name := spec.get("serviceAccountName") or spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"] = name
    for field in ("containers", "initContainers"):
        for container in _maps(spec.get(field)):
            _container(container)


def _container(container: _Map) -> None:
    container.setdefault("terminationMessagePath", "/dev/termination-log")
    container.setdefault("terminationMessagePolicy", "File")
    container.setdefault("resources", {})
    image = container.get("image") or ""
    tag = image.rpartition("/")[2].partition(":")[2]
    latest = "@" not in image and tag in ("", "latest")
    container.setdefault("imagePullPolicy", "Always" if latest else "IfNotPresent")
    for port in _maps(container.get("ports")):
        port.setdefault("protocol", "TCP")
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(probe := container.get(name), dict):
            _probe(cast("_Map", probe))


def _probe(probe: _Map) -> None:
    for field, value in (
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ):
        probe.setdefault(field, value)
    if isinstance(http := probe.get("httpGet"), dict):
        action = cast("_Map", http)
        action.setdefault("path", "/")
        action.setdefault("scheme", "HTTP")


def _pod(document: Object) -> None:
    spec: _Map = document["spec"]
    _pod_spec(spec)
    spec.setdefault("serviceAccountName", "default")
    spec.setdefault("serviceAccount", spec["serviceAccountName"])
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")
    spec.setdefault("priority", 0)
    spec.setdefault("tolerations", [])
    status: _Map = document.setdefault("status", {})
    status.setdefault("phase", "Pending")
    status.setdefault("qosClass", _qos(spec))


def _qos(spec: _Map) -> str:
    """Kubernetes' quality-of-service class from the containers' cpu and memory resources."""
    resources: list[_Map] = [c.get("resources") or {} for c in _maps(spec.get("containers"))]
    if not any(r.get("requests") or r.get("limits") for r in resources):
        return "BestEffort"
    for r in resources:
        limits: _Map = r.get("limits") or {}
        requests: _Map = r.get("requests") or {}
        if not {"cpu", "memory"} <= limits.keys() or {**limits, **requests} != limits:
            return "Burstable"
    return "Guaranteed"


def _template(spec: _Map) -> None:
    template: _Map = spec.get("template") or {}
    template.setdefault("metadata", {}).setdefault("creationTimestamp", None)
    if isinstance(pod := template.get("spec"), dict):
        _pod_spec(cast("_Map", pod))


def _deployment(document: Object) -> None:
    spec: _Map = document["spec"]
    spec.setdefault("replicas", 1)
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy: _Map = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling: _Map = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", "25%")
        rolling.setdefault("maxUnavailable", "25%")
    _template(spec)


def _replica_set(document: Object) -> None:
    document["spec"].setdefault("replicas", 1)
    _template(document["spec"])


def _daemon_set(document: Object) -> None:
    spec: _Map = document["spec"]
    spec.setdefault("revisionHistoryLimit", 10)
    strategy: _Map = spec.setdefault("updateStrategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        rolling: _Map = strategy.setdefault("rollingUpdate", {})
        rolling.setdefault("maxSurge", 0)
        rolling.setdefault("maxUnavailable", 1)
    _template(spec)


def _stateful_set(document: Object) -> None:
    spec: _Map = document["spec"]
    spec.setdefault("replicas", 1)
    spec.setdefault("podManagementPolicy", "OrderedReady")
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("updateStrategy", {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
    _template(spec)


def _service(document: Object) -> None:
    spec: _Map = document["spec"]
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    if spec["type"] != "ExternalName":
        spec.setdefault("internalTrafficPolicy", "Cluster")
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
    for port in _maps(spec.get("ports")):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port["port"])
    document.setdefault("status", {}).setdefault("loadBalancer", {})


def _network_policy(document: Object) -> None:
    spec: _Map = document["spec"]
    spec.setdefault("podSelector", {})
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for direction in ("ingress", "egress"):
        for rule in _maps(spec.get(direction)):
            for port in _maps(rule.get("ports")):
                port.setdefault("protocol", "TCP")


def _secret(document: Object) -> None:
    document.setdefault("type", "Opaque")
    texts: _Map | None = document.pop("stringData", None)
    if texts:
        data: _Map = document.setdefault("data", {})
        for name, text in texts.items():
            data[name] = base64.b64encode(text.encode()).decode()


def _namespace(document: Object) -> None:
    metadata: _Map = document["metadata"]
    metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
    document.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    document.setdefault("status", {}).setdefault("phase", "Active")


def _endpoints(document: Object) -> None:
    for subset in _maps(document.get("subsets")):
        for port in _maps(subset.get("ports")):
            port.setdefault("protocol", "TCP")


def _endpoint_slice(document: Object) -> None:
    for port in _maps(document.get("ports")):
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")


def _crd(document: Object) -> None:
    """Definitions of the kinds that are built in count as established at once."""
    spec: _Map = document["spec"]
    names: _Map = spec["names"]
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", names["kind"] + "List")
    spec.setdefault("conversion", {"strategy": "None"})
    versions = [version["name"] for version in _maps(spec.get("versions"))]
    since = document["metadata"]["creationTimestamp"]
    status: _Map = document.setdefault("status", {})
    status["acceptedNames"] = names
    status["storedVersions"] = versions
    reasons = {"NamesAccepted": "NoConflicts", "Established": "InitialNamesAccepted"}
    status["conditions"] = [
        {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": since}
        for kind, reason in reasons.items()
    ]


_DEFAULTS: dict[str, Callable[[Object], None]] = {
    "CustomResourceDefinition": _crd,
    "DaemonSet": _daemon_set,
    "Deployment": _deployment,
    "Endpoints": _endpoints,
    "EndpointSlice": _endpoint_slice,
    "Namespace": _namespace,
    "NetworkPolicy": _network_policy,
    "Pod": _pod,
    "ReplicaSet": _replica_set,
    "Secret": _secret,
    "Service": _service,
    "StatefulSet": _stateful_set,
}
