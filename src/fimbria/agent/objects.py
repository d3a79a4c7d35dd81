"""What this node tells the cluster, as documents: its CiliumNode, CiliumEndpoints, policy status.

Pure: from what the agent knows to what the API is asked to hold. `publish` sends them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fimbria.agent.statefiles import EndpointFile

CONDITION = "Valid"
COMPONENT = "fimbria-agent"


@dataclass(frozen=True)
class Enforcement:
    """Whether policy is enforced for an endpoint, by direction, and whether only for show."""

    ingress: bool = False
    egress: bool = False
    audit: bool = False

    def document(self) -> dict[str, Any]:
        """Return the form of CiliumEndpoint.status.policy and of the agent's API."""

        def state(enforcing: bool) -> str:
            if not enforcing:
                return "disabled"
            return "audit" if self.audit else "enforcing"

        return {
            "ingress": {"enforcing": self.ingress, "state": state(self.ingress)},
            "egress": {"enforcing": self.egress, "state": state(self.egress)},
        }


def node_spec(addresses: Iterable[str], routers: Iterable[str]) -> dict[str, Any]:
    """Return the part of CiliumNode.spec that the agent owns."""
    return {
        "addresses": [
            *({"type": "InternalIP", "ip": ip} for ip in addresses if ip),
            *({"type": "CiliumInternalIP", "ip": ip} for ip in routers if ip),
        ]
    }


def endpoint(
    file: EndpointFile, state: str, node_ip: str, enforcement: Enforcement
) -> dict[str, Any]:
    """Return an endpoint's CiliumEndpoint; its pod owns it, so that it goes with the pod."""
    metadata: dict[str, Any] = {"name": file.pod, "namespace": file.namespace}
    if file.pod_uid:
        metadata["ownerReferences"] = [
            {"apiVersion": "v1", "kind": "Pod", "name": file.pod, "uid": file.pod_uid}
        ]
    pair = {"ipv4": file.ipv4, "ipv6": file.ipv6}
    return {
        "metadata": metadata,
        "status": {
            "id": file.id,
            "identity": {"id": file.identity, "labels": list(file.labels)},
            "networking": {
                "addressing": [{family: ip for family, ip in pair.items() if ip}],
                "node": node_ip,
            },
            "external-identifiers": {
                "container-id": file.container_id,
                "k8s-namespace": file.namespace,
                "k8s-pod-name": file.pod,
                "pod-name": f"{file.namespace}/{file.pod}",
            },
            "named-ports": [
                {"name": name, "port": port, "protocol": protocol}
                for name, port, protocol in file.named_ports
            ],
            "policy": enforcement.document(),
            "state": state,
        },
    }


def condition(
    current: Sequence[dict[str, Any]], valid: bool, message: str, now: float
) -> list[dict[str, Any]] | None:
    """Return a policy's conditions with ours up to date; None if it is so already."""
    status = "True" if valid else "False"
    ours = {"type": CONDITION, "status": status, "message": message}
    ours["reason"] = "PolicyImported" if valid else "PolicyRefused"
    for one in current:
        if one.get("type") == CONDITION and all(one.get(k) == v for k, v in ours.items()):
            return None
    return [
        *(one for one in current if one.get("type") != CONDITION),
        {**ours, "lastTransitionTime": timestamp(now)},
    ]


def refusal_event(policy: dict[str, Any], message: str, now: float) -> dict[str, Any]:
    """Return an Event about a refused policy; all nodes give it the same name, so there is one."""
    meta = policy["metadata"]
    seed = f"{meta.get('uid')}:{message}"
    namespace = meta.get("namespace") or "default"
    stamp = timestamp(now)
    return {
        "metadata": {
            "name": f"{meta['name']}.{hashlib.sha256(seed.encode()).hexdigest()[:16]}",
            "namespace": namespace,
        },
        "involvedObject": {
            "apiVersion": policy.get("apiVersion", ""),
            "kind": policy.get("kind", ""),
            "name": meta["name"],
            "namespace": meta.get("namespace", ""),
            "uid": meta.get("uid", ""),
            "resourceVersion": meta.get("resourceVersion", ""),
        },
        "type": "Warning",
        "reason": "PolicyRefused",
        "message": message,
        "source": {"component": COMPONENT},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def timestamp(seconds: float) -> str:
    """Return seconds since 1970 as the API writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
