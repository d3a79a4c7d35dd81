"""Who is behind the services: Endpoints and EndpointSlices, from a snapshot to actions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.lab import objects
from fimbria.lab.objects import finished, leaving, ready
from fimbria.lab.snapshot import Action

if TYPE_CHECKING:
    from fimbria.lab.objects import Document
    from fimbria.lab.snapshot import Rows, Snapshot
    from fimbria.sources.resources import Resource


def endpoints(state: Snapshot) -> list[Action]:
    """Endpoints and one EndpointSlice per family, of every service that has a selector."""
    actions: list[Action] = []
    for (namespace, name), service in state.services.items():
        selector = service["spec"].get("selector")
        if not selector or leaving(service):
            continue
        pods = [
            pod
            for (pod_namespace, _), pod in sorted(state.pods.items())
            if pod_namespace == namespace
            and objects.selects(selector, pod)
            and objects.addresses(pod)
            and not finished(pod)
        ]
        meta: Document = {
            "namespace": namespace,
            "ownerReferences": objects.owned_by(service, objects.SERVICES),
        }
        subsets = _subsets(service, pods)
        actions += _ensure(
            objects.ENDPOINTS, state.endpoints, meta | {"name": name}, {"subsets": subsets}
        )
        for family in ("IPv4", "IPv6"):
            body = _slice(service, pods, family)
            slice_name = f"{name}-{family.lower()}"
            if not body["endpoints"] and (namespace, slice_name) not in state.slices:
                continue
            labels = {"kubernetes.io/service-name": name}
            full = meta | {"name": slice_name, "labels": labels}
            actions += _ensure(objects.SLICES, state.slices, full, body)
    return actions


def _ports(service: Document, pod: Document) -> list[Document]:
    found: list[Document] = []
    named = {
        port.get("name"): port["containerPort"]
        for container in objects.parts(pod["spec"], "containers")
        for port in objects.parts(container, "ports")
        if port.get("name")
    }
    for port in objects.parts(service["spec"], "ports"):
        target = port.get("targetPort") or port["port"]
        number = named.get(target) if isinstance(target, str) else target
        if number:
            entry: Document = {"port": number, "protocol": port.get("protocol") or "TCP"}
            found.append(({"name": port["name"]} if port.get("name") else {}) | entry)
    return found


def _reference(pod: Document) -> Document:
    meta = pod["metadata"]
    return {"kind": "Pod"} | {field: meta[field] for field in ("name", "namespace", "uid")}


def _subsets(service: Document, pods: list[Document]) -> list[Document]:
    if not pods:
        return []
    subset: Document = {"ports": _ports(service, pods[0])}
    for field_name, wanted in (("addresses", True), ("notReadyAddresses", False)):
        found = [
            {
                "ip": objects.addresses(pod)[0],
                "nodeName": pod["spec"]["nodeName"],
                "targetRef": _reference(pod),
            }
            for pod in pods
            if (ready(pod) and not leaving(pod)) == wanted
        ]
        if found:
            subset[field_name] = found
    return [subset]


def _slice(service: Document, pods: list[Document], family: str) -> Document:
    found: list[Document] = []
    for pod in pods:
        fitting = [a for a in objects.addresses(pod) if (":" in a) == (family == "IPv6")]
        if fitting:
            serving = ready(pod)
            found.append(
                {
                    "addresses": fitting[:1],
                    "conditions": {
                        "ready": serving and not leaving(pod),
                        "serving": serving,
                        "terminating": leaving(pod),
                    },
                    "nodeName": pod["spec"]["nodeName"],
                    "targetRef": _reference(pod),
                }
            )
    # A slice's port without a name has an empty one, unlike that of an Endpoints object.
    ports: list[Document] = [{"name": ""} | p for p in _ports(service, pods[0])] if pods else []
    return {"addressType": family, "endpoints": found, "ports": ports}


def _ensure(
    resource: Resource[Document], rows: Rows, meta: Document, body: Document
) -> list[Action]:
    namespace, name = meta["namespace"], meta["name"]
    have = rows.get((namespace, name))
    if have is None:
        return [Action("create", resource, namespace, name, {"metadata": meta} | body)]
    if all((have.get(field_name) or []) == (value or []) for field_name, value in body.items()):
        return []
    return [Action("patch", resource, namespace, name, body)]
