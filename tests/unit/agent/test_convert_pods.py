"""Pods as the agent sees them: whose ports have names."""

from __future__ import annotations

from typing import Any

import msgspec

from fimbria.agent.convert import pod_view
from fimbria.analysis import from_documents
from fimbria.model.labels import LabelFilter
from fimbria.sources.resources import Namespace, Pod


def container(name: str, number: int, **fields: Any) -> Any:
    return {"name": name, "ports": [{"name": name, "containerPort": number}], **fields}


POD: Any = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web", "namespace": "red"},
    "spec": {
        "containers": [container("http", 80), {"name": "x", "ports": [{"containerPort": 90}]}],
        "initContainers": [
            container("setup", 81),
            container("proxy", 82, restartPolicy="Always"),
        ],
    },
}


def test_ports_of_sidecars_have_names() -> None:
    """An init container that is restarted always runs beside the others; one that ends does not.

    Source: Kubernetes' sidecar containers.
    """
    namespace = msgspec.convert({"metadata": {"name": "red"}}, Namespace)
    view = pod_view(msgspec.convert(POD, Pod), namespace, "default", LabelFilter())
    assert view.named_ports == (("http", 80, "TCP"), ("proxy", 82, "TCP"))
    assert from_documents([POD]).pods["red/web"].named == (("http", 6, 80), ("proxy", 6, 82))
