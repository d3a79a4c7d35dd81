"""The kinds that the lab's controllers and kubelets work with, as plain documents."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from fimbria.sources.resources import Resource

if TYPE_CHECKING:
    from collections.abc import Mapping

Document = dict[str, Any]

PODS = Resource[Document]("", "v1", "pods", "Pod", True, dict)
NODES = Resource[Document]("", "v1", "nodes", "Node", False, dict)
SERVICES = Resource[Document]("", "v1", "services", "Service", True, dict)
ENDPOINTS = Resource[Document]("", "v1", "endpoints", "Endpoints", True, dict)
SLICES = Resource[Document]("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True, dict)
DEPLOYMENTS = Resource[Document]("apps", "v1", "deployments", "Deployment", True, dict)
REPLICA_SETS = Resource[Document]("apps", "v1", "replicasets", "ReplicaSet", True, dict)
DAEMON_SETS = Resource[Document]("apps", "v1", "daemonsets", "DaemonSet", True, dict)
EVENTS = Resource[Document]("", "v1", "events", "Event", True, dict)


def part(document: Document, name: str) -> Document:
    """A mapping in a document, {} if it is not there."""
    found: Document = document.get(name) or {}
    return found


def parts(document: Document, name: str) -> list[Any]:
    """A list in a document, [] if it is not there."""
    found: list[Any] = document.get(name) or []
    return found


def now() -> str:
    """The time in the form of the Kubernetes API."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def digest(*parts: object, length: int = 5) -> str:
    """A short name suffix that the same parts always get; letters and digits only."""
    text = "\0".join(map(str, parts))
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def key(document: Document) -> tuple[str, str]:
    """(namespace, name) of an object."""
    meta = document["metadata"]
    return meta.get("namespace", ""), meta["name"]


def owner(document: Document) -> str:
    """Uid of the controller that owns an object, "" if none."""
    for reference in parts(document["metadata"], "ownerReferences"):
        if reference.get("controller"):
            return str(reference["uid"])
    return ""


def owned_by(document: Document, kind: Resource[Document]) -> list[Document]:
    """metadata.ownerReferences of something that `document`, of `kind`, controls."""
    return [
        {
            "apiVersion": kind.api_version,
            "kind": kind.kind,
            "name": document["metadata"]["name"],
            "uid": document["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def leaving(document: Document) -> bool:
    """Whether an object is on its way out."""
    return bool(document["metadata"].get("deletionTimestamp"))


def finished(pod: Document) -> bool:
    """Whether a pod will not run again."""
    return part(pod, "status").get("phase") in ("Succeeded", "Failed")


def ready(pod: Document) -> bool:
    """Whether a pod's condition Ready holds."""
    conditions = parts(part(pod, "status"), "conditions")
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def addresses(pod: Document) -> list[str]:
    """A pod's addresses, as its status has them."""
    return [str(one["ip"]) for one in parts(part(pod, "status"), "podIPs")]


def selects(selector: Mapping[str, str], document: Document) -> bool:
    """Whether a map of labels, all of which must be there, selects an object."""
    labels = part(document["metadata"], "labels")
    return all(labels.get(name) == value for name, value in selector.items())
