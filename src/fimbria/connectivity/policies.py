"""Short ways to write the policies of the scenarios; the objects are Kubernetes' and Cilium's own.

Namespaces are written as HOME and OTHER and filled in when the namespaces' names are known.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fimbria.connectivity.model import Document

HOME = "@home@"
OTHER = "@other@"

ECHO = {"kind": "echo"}
CLIENT = {"kind": "client"}
NAMESPACE_LABEL = "k8s:io.kubernetes.pod.namespace"


def labels(**wanted: str) -> Document:
    """Return a selector of plain labels."""
    return {"matchLabels": wanted}


def tcp(*ports: int | str) -> list[Document]:
    """Return toPorts for TCP ports."""
    return [{"ports": [{"port": str(port), "protocol": "TCP"} for port in ports]}]


def cnp(name: str, subject: dict[str, str], **sections: Any) -> Document:
    """Return a CiliumNetworkPolicy in HOME that selects pods with the labels `subject`."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": HOME},
        "spec": {"endpointSelector": {"matchLabels": subject}, **sections},
    }


def cnp_specs(name: str, *specs: Document) -> Document:
    """Return a CiliumNetworkPolicy with several specs."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": HOME},
        "specs": list(specs),
    }


def ccnp(name: str, subject: dict[str, str], **sections: Any) -> Document:
    """Return a CiliumClusterwideNetworkPolicy; `subject` should name a namespace of the test."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"endpointSelector": {"matchLabels": subject}, **sections},
    }


def knp(name: str, subject: dict[str, str], types: str = "Ingress", **sections: Any) -> Document:
    """Return a NetworkPolicy in HOME; `types` is blank-separated."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": HOME},
        "spec": {
            "podSelector": {"matchLabels": subject} if subject else {},
            "policyTypes": types.split(),
            **sections,
        },
    }


def filled_in(policy: Document, home: str, other: str) -> Document:
    """Return the object with the real names of the namespaces."""
    text = json.dumps(policy).replace(HOME, home).replace(OTHER, other)
    return json.loads(text)
