"""What this node tells the cluster, as documents: its CiliumNode, CiliumEndpoints, policy status.

Pure: from what the agent knows to what the API is asked to hold. `publish` sends them.
"""

from __future__ import annotations

import hashlib
import operator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fimbria.agent.statefiles import EndpointFile

VALID, ENFORCED = "Valid", "Enforced"
IMPORTED, REFUSED = "PolicyImported", "PolicyRefused"
NOT_APPLIED, NO_PROXY = "PolicyNotApplied", "NoProxy"
COMPONENT = "fimbria-agent"
PARTS_NAMED = 10
"""How many pending parts a condition names: its message must not outgrow the object."""


@dataclass(frozen=True)
class Judgement:
    """What there is to say of a policy object, "" or nothing if it is simply in force.

    `refusal`: field and reason why it cannot be enforced; `pending`: the same of the parts that
    nothing can do yet; `withheld`: why this node does not take it up.
    """

    refusal: str = ""
    pending: tuple[str, ...] = ()
    withheld: str = ""

    @property
    def reason(self) -> str:
        """Return the reason in one word."""
        return REFUSED if self.refusal else IMPORTED


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


def conditions(
    current: Sequence[dict[str, Any]], told: Judgement, generation: int, node: str, now: float
) -> list[dict[str, Any]] | None:
    """Return a policy's conditions with ours up to date; None if they are so already.

    VALID says what all nodes find alike. ENFORCED is there only if something of the object is not
    in force: what another node says of the same generation by it stays.
    """
    message = told.refusal or "Policy validation succeeded"
    wanted = [_condition(VALID, not told.refusal, told.reason, message, generation)]
    others = [
        one
        for one in current
        if one.get("type") not in (VALID, ENFORCED) or _of_another(one, generation, node)
    ]
    if any(one.get("type") == ENFORCED for one in others):
        pass
    elif told.withheld:
        text = f"{node}: {told.withheld}"
        wanted.append(_condition(ENFORCED, False, NOT_APPLIED, text, generation))
    elif told.pending:
        more = len(told.pending) - PARTS_NAMED
        text = "; ".join(told.pending[:PARTS_NAMED]) + (f"; and {more} more" if more > 0 else "")
        wanted.append(_condition(ENFORCED, False, NO_PROXY, text, generation))
    found = [*others, *(_kept(current, one, now) for one in wanted)]
    key = operator.methodcaller("get", "type", "")
    return None if sorted(found, key=key) == sorted(current, key=key) else found


def _condition(
    kind: str, status: bool, reason: str, message: str, generation: int
) -> dict[str, Any]:
    found = {"type": kind, "status": str(status), "reason": reason, "message": message}
    return found | ({"observedGeneration": generation} if generation else {})


def _of_another(one: dict[str, Any], generation: int, node: str) -> bool:
    """Return whether another node says this about the object as it is now."""
    return (
        one.get("type") == ENFORCED
        and one.get("reason") == NOT_APPLIED
        and one.get("observedGeneration", 0) == generation
        and not str(one.get("message", "")).startswith(f"{node}: ")
    )


def _kept(current: Sequence[dict[str, Any]], wanted: dict[str, Any], now: float) -> dict[str, Any]:
    """Return a condition, with the time of its last transition: an equal status is none."""
    since = timestamp(now)
    for one in current:
        if (one.get("type"), one.get("status")) == (wanted["type"], wanted["status"]):
            since = one.get("lastTransitionTime", since)
    return {**wanted, "lastTransitionTime": since}


def policy_event(policy: dict[str, Any], reason: str, message: str, now: float) -> dict[str, Any]:
    """Return an Event of type Warning about a policy.

    Nodes that have the same to say give it the same name, so there is one.
    """
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
        "reason": reason,
        "message": message,
        "source": {"component": COMPONENT},
        "firstTimestamp": stamp,
        "lastTimestamp": stamp,
        "count": 1,
    }


def timestamp(seconds: float) -> str:
    """Return seconds since 1970 as the API writes times."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
