"""This node's own CiliumNode: what the cluster gives the node, and what it tells the cluster.

CiliumNode ─► pod CIDRs ─► IPAM, cluster, and the node's file for a start without the API
the node's addresses, and those of its routers ─► CiliumNode
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fimbria.agent import objects
from fimbria.agent.overrides import remember, remembered
from fimbria.sources.errors import KubeError, is_already_exists, is_not_found
from fimbria.sources.resources import CILIUM_NODES, NODES

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fimbria.agent.cluster import Cluster
    from fimbria.agent.node import Node
    from fimbria.sources.kube import KubeClient
    from fimbria.sources.options import Config
    from fimbria.sources.resources import CiliumNode, Document

PATIENCE = 1.0
"""Seconds that a start waits for the API where it knows the node's pod CIDRs from before."""

log = logging.getLogger(__name__)


class OwnNode:
    """Keeps a node and its CiliumNode in accord; `file` is the node's state file.

    `current` gives the object as the API has it, `trigger` has `publish` called soon.
    """

    def __init__(
        self,
        config: Config,
        client: KubeClient,
        node: Node,
        cluster: Cluster,
        current: Callable[[], CiliumNode | None],
        file: Path,
    ) -> None:
        self.trigger: Callable[[], None] = lambda: None
        self._config = config
        self._client = client
        self._node = node
        self._cluster = cluster
        self._current = current
        self._file = file

    async def pod_cidrs(self) -> tuple[str, ...]:
        """Return the node's pod CIDRs: those the API names, or the last known if it is away."""
        self.trigger()
        known = remembered(self._file)
        try:
            async with asyncio.timeout(PATIENCE if known.pod_cidrs else None):
                cidrs = await self._cluster.pod_cidrs.wait()
        except TimeoutError:
            log.warning("the API does not answer; pod CIDRs as last known")
            return known.pod_cidrs
        remember(self._file, self._config.node_name, pod_cidrs=cidrs)
        return cidrs

    def changed(self) -> None:
        """Our CiliumNode changed, or is gone: bring our part of it back."""
        self.trigger()
        cidrs = self._cluster.pod_cidrs.value
        if cidrs and self._node.ready:
            self._node.ipam.extend(cidrs)
            self._cluster.set_pod_cidrs(cidrs)
            remember(self._file, self._config.node_name, pod_cidrs=cidrs)

    async def publish(self) -> None:
        """Create the CiliumNode, or bring our part of it up to date."""
        name, gateway = self._config.node_name, self._node.gateway
        spec = objects.node_spec(self._node.addresses(), (gateway.ipv4, gateway.ipv6))
        if self._config.ipam == "kubernetes":
            node = await self._client.get(NODES, name)
            spec["ipam"] = {"podCIDRs": list(node.spec.pod_cidrs or ())}
        current = self._current()
        if current is None or _addresses(current) != spec["addresses"]:
            await self._send(name, spec)

    async def _send(self, name: str, spec: Document) -> None:
        try:
            await self._client.patch(CILIUM_NODES, name, {"spec": spec})
        except KubeError as error:
            if not is_not_found(error):
                raise
        else:
            return
        try:
            await self._client.create(CILIUM_NODES, {"metadata": {"name": name}, "spec": spec})
        except KubeError as error:
            if not is_already_exists(error):
                raise
            await self._client.patch(CILIUM_NODES, name, {"spec": spec})


def _addresses(node: CiliumNode) -> list[dict[str, str]]:
    return [{"type": one.type, "ip": one.ip} for one in node.spec.addresses or []]
