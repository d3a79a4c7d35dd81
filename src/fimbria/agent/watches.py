"""The kinds that the agent watches, kept as rows, with one word for "all of them are known".

    reflectors ─► rows (slim, frozen) ─► handlers (cluster state, pods, identities)

A handler is called with a batch of changes and must not await. `synced` is set once every kind has
been listed completely; until then nothing may be concluded from something not being here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fimbria.sources.reflector import Change, Key, Reflector
from fimbria.sources.resources import (
    CILIUM_CLUSTERWIDE_POLICIES,
    CILIUM_ENDPOINTS,
    CILIUM_IDENTITIES,
    CILIUM_NETWORK_POLICIES,
    CILIUM_NODES,
    NAMESPACES,
    NETWORK_POLICIES,
    PODS,
    CiliumEndpoint,
    CiliumIdentity,
    CiliumNode,
    Document,
    Namespace,
    Pod,
    Resource,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.sources.kube import KubeClient

POLICY_KINDS = (NETWORK_POLICIES, CILIUM_NETWORK_POLICIES, CILIUM_CLUSTERWIDE_POLICIES)
FINISHED = ("Succeeded", "Failed")


class RemoteEndpoint:
    """A CiliumEndpoint as a row: few fields, no dictionary, since there are very many.

    `ips` are its addresses as text, `node` its node's address.
    """

    __slots__ = ("identity", "ips", "named_ports", "node", "uid")

    def __init__(
        self,
        uid: str,
        ips: tuple[str, ...],
        node: str,
        identity: int,
        named_ports: tuple[tuple[str, int, str], ...],
    ) -> None:
        self.uid = uid
        self.ips = ips
        self.node = node
        self.identity = identity
        self.named_ports = named_ports

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteEndpoint) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    def __hash__(self) -> int:
        return hash((self.ips, self.node, self.identity))


def remote_endpoint(item: CiliumEndpoint) -> RemoteEndpoint | None:
    """Return the row of a CiliumEndpoint; None for one that has no address or identity yet."""
    status = item.status
    if status.networking is None or status.identity is None or not status.identity.id:
        return None
    pairs = status.networking.addressing or []
    ips = tuple(ip for pair in pairs for ip in (pair.ipv4, pair.ipv6) if ip)
    if not ips:
        return None
    ports = tuple((p.name, p.port, p.protocol) for p in status.named_ports or [])
    return RemoteEndpoint(item.metadata.uid, ips, status.networking.node, status.identity.id, ports)


def living_pod(item: Pod) -> Pod | None:
    """Return the pod; None if it has ended or uses the node's own network."""
    if item.status.phase in FINISHED or item.spec.host_network:
        return None
    return item


class Watches:
    """All reflectors of the agent. Handlers are set before `run`."""

    def __init__(self, client: KubeClient, node_name: str) -> None:
        self.on_nodes: Callable[[Sequence[Change[CiliumNode]]], None] = _nothing
        self.on_endpoints: Callable[[Sequence[Change[RemoteEndpoint]]], None] = _nothing
        self.on_identities: Callable[[Sequence[Change[CiliumIdentity]]], None] = _nothing
        self.on_namespaces: Callable[[Sequence[Change[Namespace]]], None] = _nothing
        self.on_pods: Callable[[Sequence[Change[Pod]]], None] = _nothing
        self.on_policies: Callable[[Resource[Document], Sequence[Change[Document]]], None]
        self.on_policies = lambda resource, changes: None
        self.synced = asyncio.Event()
        self.nodes: Reflector[CiliumNode, CiliumNode] = Reflector(
            client, CILIUM_NODES, _same, lambda changes: self.on_nodes(changes)
        )
        self.endpoints: Reflector[CiliumEndpoint, RemoteEndpoint] = Reflector(
            client, CILIUM_ENDPOINTS, remote_endpoint, lambda changes: self.on_endpoints(changes)
        )
        self.identities: Reflector[CiliumIdentity, CiliumIdentity] = Reflector(
            client, CILIUM_IDENTITIES, _same, lambda changes: self.on_identities(changes)
        )
        self.namespaces: Reflector[Namespace, Namespace] = Reflector(
            client, NAMESPACES, _same, lambda changes: self.on_namespaces(changes)
        )
        self.pods: Reflector[Pod, Pod] = Reflector(
            client,
            PODS,
            living_pod,
            lambda changes: self.on_pods(changes),
            field_selector=f"spec.nodeName={node_name}",
        )
        self.policies: dict[str, Reflector[Document, Document]] = {
            resource.kind: self._policies(client, resource) for resource in POLICY_KINDS
        }

    def _policies(
        self, client: KubeClient, resource: Resource[Document]
    ) -> Reflector[Document, Document]:
        return Reflector(
            client,
            resource,
            without_noise,
            lambda changes: self.on_policies(resource, changes),
            optional=resource.group == "cilium.io",
        )

    @property
    def all(self) -> list[Reflector[Any, Any]]:
        """Return all reflectors."""
        return [
            self.nodes,
            self.endpoints,
            self.identities,
            self.namespaces,
            self.pods,
            *self.policies.values(),
        ]

    async def run(self) -> None:
        """Watch everything until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self.all:
                group.create_task(reflector.run())
            for reflector in self.all:
                await reflector.synced.wait()
            self.synced.set()

    def pod(self, namespace: str, name: str) -> Pod | None:
        """Return a living pod of this node."""
        return self.pods.rows.get((namespace, name))

    def problems(self) -> list[str]:
        """Return what is wrong with the connection, one line per kind that has trouble."""
        return [
            f"{one.resource.plural}: {one.health.last_error}"
            for one in self.all
            if one.health.last_error
        ]


def without_noise(policy: Document) -> Document:
    """Return a policy without what changes though the policy does not.

    A status that another node wrote, or a new resourceVersion, is no reason to compile again; the
    conditions stay for whoever writes the status, outside of the comparison.
    """
    meta = {
        key: value
        for key, value in (policy.get("metadata") or {}).items()
        if key not in ("resourceVersion", "managedFields")
    }
    return {**policy, "metadata": meta}


def _same(item: Any) -> Any:
    return item


def _nothing(changes: Sequence[Change[Any]]) -> None:
    """Nobody is interested."""


__all__ = ["POLICY_KINDS", "Key", "RemoteEndpoint", "Watches"]
