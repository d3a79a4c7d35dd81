"""From objects of the API to the compiler's rows: text becomes bytes, and nonsense is left out.

An object may hold anything. An address that is none is skipped here, one at a time, so that a
single bad object cannot hold up the others.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.agent.statefiles import mac_bytes
from fimbria.compile.state import LocalEndpoint, NamedPort, Node, RemoteEndpoint
from fimbria.model.identity import FIRST, LAST
from fimbria.model.labels import canonical
from fimbria.sources.resources import named_ports

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.agent.statefiles import EndpointFile
    from fimbria.model.labels import LabelFilter, Labels
    from fimbria.sources.resources import (
        CiliumEndpoint,
        CiliumIdentity,
        CiliumNode,
        Document,
        Namespace,
        Pod,
    )
    from fimbria.sources.resources import Node as NodeObject

PROTOCOLS = {"TCP": 6, "UDP": 17, "SCTP": 132}
FINISHED = ("Succeeded", "Failed")
NODE_ADDRESSES = ("InternalIP", "ExternalIP")
ROUTER_ADDRESS = "CiliumInternalIP"


class CepRow(msgspec.Struct, frozen=True, gc=False):
    """A CiliumEndpoint as a row: one compiler row per address, and its uid if it is this node's."""

    endpoints: tuple[RemoteEndpoint, ...]
    uid: str = ""


class PodView(msgspec.Struct, frozen=True):
    """What the agent needs of a pod: which one it is, its identity's labels, its named ports."""

    uid: str
    labels: tuple[str, ...]
    named_ports: tuple[tuple[str, int, str], ...]


def packed(text: str) -> bytes:
    """Return an address's bytes, b"" if it is none."""
    try:
        return ip_address(text).packed
    except ValueError:
        return b""


def ports(rows: Iterable[tuple[str, int, str]]) -> tuple[NamedPort, ...]:
    """Return named ports with protocol numbers; those of unknown protocols are left out."""
    return tuple(
        (name, PROTOCOLS[protocol], port) for name, port, protocol in rows if protocol in PROTOCOLS
    )


def endpoint_row(item: CiliumEndpoint, own: frozenset[bytes]) -> CepRow | None:
    """Return a CiliumEndpoint's row; None while it has no address or identity.

    `own` are this node's addresses: its endpoints are known better here, only their uid is kept.
    """
    status = item.status
    if status.networking is None or status.identity is None or not status.identity.id:
        return None
    node = packed(status.networking.node)
    if node in own:
        return CepRow((), item.metadata.uid)
    named = ports((p.name, p.port, p.protocol) for p in status.named_ports or ())
    addresses = [
        raw
        for pair in status.networking.addressing or ()
        for text in (pair.ipv4, pair.ipv6)
        if text and (raw := packed(text))
    ]
    rows = tuple(RemoteEndpoint(ip, status.identity.id, node, named) for ip in addresses)
    return CepRow(rows) if rows else None


def node_row(item: CiliumNode) -> Node:
    """Return a CiliumNode's row."""
    addresses = [(a.type, raw) for a in item.spec.addresses or () if a.ip and (raw := packed(a.ip))]
    underlay = [raw for kind, raw in addresses if kind in NODE_ADDRESSES]
    ipv4s = tuple(raw for raw in underlay if len(raw) == 4)
    return Node(
        name=item.metadata.name,
        ipv4s=ipv4s,
        ipv6s=tuple(raw for raw in underlay if len(raw) == 16),
        pod_cidrs=tuple(item.spec.ipam.pod_cidrs or ()),
        tunnel_ip=ipv4s[0] if ipv4s else None,
        routers=tuple(raw for kind, raw in addresses if kind == ROUTER_ADDRESS),
    )


def node_labels(item: NodeObject) -> Labels:
    """Return a Node's labels with source "node", sorted."""
    return canonical(f"node:{key}={value}" for key, value in (item.metadata.labels or {}).items())


def local_row(file: EndpointFile) -> LocalEndpoint:
    """Return one of this node's endpoints as the compiler wants it."""
    return LocalEndpoint(
        id=file.id,
        ifindex=file.ifindex,
        mac=mac_bytes(file.mac),
        node_mac=mac_bytes(file.node_mac),
        ipv4=packed(file.ipv4) or None,
        ipv6=packed(file.ipv6) or None,
        identity=file.identity,
        named_ports=ports(file.named_ports),
        audit=file.audit,
    )


def living_pod(item: Pod) -> Pod | None:
    """Return the pod; None if it has ended or uses the node's own network."""
    if item.status.phase in FINISHED or item.spec.host_network:
        return None
    return item


def pod_view(pod: Pod, namespace: Namespace, cluster: str, labels: LabelFilter) -> PodView:
    """Return what the agent needs of a pod. `labels` decides which make its identity."""
    named = tuple(
        (port.name, port.container_port, port.protocol)
        for port in named_ports(pod.spec.containers, pod.spec.init_containers)
    )
    found = labels.pod_labels(
        pod.metadata.labels or {},
        pod.metadata.namespace,
        namespace.metadata.labels or {},
        pod.spec.service_account_name,
        cluster,
    )
    return PodView(pod.metadata.uid, found, named)


def identity_labels(identity: CiliumIdentity) -> Labels:
    """Return a CiliumIdentity's labels, sorted."""
    texts = (f"{key}={value}" for key, value in identity.security_labels.items())
    return canonical(texts)


def identity_number(identity: CiliumIdentity) -> int | None:
    """Return a CiliumIdentity's number, None for a name that is none."""
    name = identity.metadata.name
    return int(name) if name.isdecimal() and FIRST <= int(name) <= LAST else None


def policy_document(item: Document, kind: str, api_version: str) -> Document:
    """Return a policy with its kind (lists leave it out), without what changes by itself."""
    meta: Any = item.get("metadata")
    kept: dict[str, Any] = dict(meta) if isinstance(meta, dict) else {}  # pyright: ignore[reportUnknownArgumentType] - decoded JSON
    for noise in ("resourceVersion", "managedFields"):
        kept.pop(noise, None)
    return {**item, "apiVersion": api_version, "kind": kind, "metadata": kept}
