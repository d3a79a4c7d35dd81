"""The kinds that the agent watches, kept as rows, with one word for "all of them are known".

    reflectors ─► rows (slim, frozen) ─► handlers (cluster state, pods, identities)

A handler is called with a batch of changes and must not await. `synced` is set once every kind has
been listed completely; until then nothing may be concluded from something not being here.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fimbria.agent.convert import (
    CepRow,
    endpoint_row,
    living_pod,
    node_labels,
    policy_document,
)
from fimbria.agent.references import SliceRow, service_row, slice_row
from fimbria.sources.reflector import Change, Reflector
from fimbria.sources.resources import (
    CILIUM_CIDR_GROUPS,
    CILIUM_CLUSTERWIDE_POLICIES,
    CILIUM_ENDPOINTS,
    CILIUM_IDENTITIES,
    CILIUM_NETWORK_POLICIES,
    CILIUM_NODES,
    CLUSTER_NETWORK_POLICIES,
    ENDPOINT_SLICES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    OLD_CIDR_GROUPS,
    PODS,
    SERVICES,
    CiliumEndpoint,
    CiliumIdentity,
    CiliumNode,
    Document,
    Namespace,
    Node,
    Pod,
    Resource,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.model.labels import Labels
    from fimbria.model.peers import Service
    from fimbria.sources.kube import KubeClient

POLICY_KINDS = (
    NETWORK_POLICIES,
    CILIUM_NETWORK_POLICIES,
    CILIUM_CLUSTERWIDE_POLICIES,
    CLUSTER_NETWORK_POLICIES,
)
OF_SELECTORS = "endpointslice-controller.k8s.io"
"""Who manages the EndpointSlices of Services that have a selector: they are not asked for."""


class Watches:
    """All reflectors of the agent. Handlers are set before `run`."""

    def __init__(self, client: KubeClient, node_name: str) -> None:
        self.own_addresses: frozenset[bytes] = frozenset()
        self.on_nodes: Callable[[Sequence[Change[CiliumNode]]], None] = _nothing
        self.on_endpoints: Callable[[Sequence[Change[CepRow]]], None] = _nothing
        self.on_identities: Callable[[Sequence[Change[CiliumIdentity]]], None] = _nothing
        self.on_namespaces: Callable[[Sequence[Change[Namespace]]], None] = _nothing
        self.on_pods: Callable[[Sequence[Change[Pod]]], None] = _nothing
        self.on_policies: Callable[[Resource[Document], Sequence[Change[Document]]], None]
        self.on_policies = lambda resource, changes: None
        self.on_node_labels: Callable[[Sequence[Change[Labels]]], None] = _nothing
        self.on_groups: Callable[[Sequence[Change[Document]]], None] = _nothing
        self.on_services: Callable[[Sequence[Change[Service]]], None] = _nothing
        self.on_slices: Callable[[Sequence[Change[SliceRow]]], None] = _nothing
        self.synced = asyncio.Event()
        self.nodes: Reflector[CiliumNode, CiliumNode] = Reflector(
            client, CILIUM_NODES, _same, lambda changes: self.on_nodes(changes)
        )
        self.endpoints: Reflector[CiliumEndpoint, CepRow] = Reflector(
            client,
            CILIUM_ENDPOINTS,
            lambda item: endpoint_row(item, self.own_addresses),
            lambda changes: self.on_endpoints(changes),
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
        self.node_labels: Reflector[Node, Labels] = Reflector(
            client, NODES, node_labels, lambda changes: self.on_node_labels(changes)
        )
        self.groups: Reflector[Document, Document] = Reflector(
            client,
            CILIUM_CIDR_GROUPS,
            lambda item: policy_document(item, "CiliumCIDRGroup", CILIUM_CIDR_GROUPS.api_version),
            lambda changes: self.on_groups(changes),
            optional=True,
            older=(OLD_CIDR_GROUPS,),
        )
        self.services: Reflector[Document, Service] = Reflector(
            client, SERVICES, service_row, lambda changes: self.on_services(changes)
        )
        self.slices: Reflector[Document, SliceRow] = Reflector(
            client,
            ENDPOINT_SLICES,
            slice_row,
            lambda changes: self.on_slices(changes),
            label_selector=f"endpointslice.kubernetes.io/managed-by!={OF_SELECTORS}",
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
            lambda item: policy_document(item, resource.kind, resource.api_version),
            lambda changes: self.on_policies(resource, changes),
            optional=resource is not NETWORK_POLICIES,
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
            self.node_labels,
            self.groups,
            self.services,
            self.slices,
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

    def absent(self) -> list[str]:
        """Return the kinds that the API server does not have."""
        return [
            f"{one.resource.api_version}::{one.resource.kind}"
            for one in self.all
            if one.health.absent
        ]


def _same(item: Any) -> Any:
    return item


def _nothing(changes: Sequence[Change[Any]]) -> None:
    """Nobody is interested."""
