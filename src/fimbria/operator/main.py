"""The operator's wiring: hold the lease, define our kinds, give nodes their CIDRs, collect garbage.

CiliumNodes ─ watch ─► nodes without pod CIDR ─ next free ─► patch, if unchanged since
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from typing import TYPE_CHECKING

from fimbria.apiserver.registration import register
from fimbria.controllers import Controllers
from fimbria.kernel.clock import SystemClock
from fimbria.operator.cidrs import ClusterPool, NoCidrLeft, valid
from fimbria.operator.garbage import IdentityCollector, NodeCollector, collect_endpoints
from fimbria.operator.lease import Leadership, LeaseLost
from fimbria.sources.errors import KubeError, KubeUnreachable, is_conflict, is_not_found
from fimbria.sources.kube import KubeClient
from fimbria.sources.reflector import Reflector
from fimbria.sources.resources import CILIUM_NODES, CiliumNode

if TYPE_CHECKING:
    from fimbria.sources.options import Config

REGISTER_INTERVAL = 300.0
LEASE_NAME = "cilium-operator-resource-lock"

log = logging.getLogger(__name__)


class CidrAllocator:
    """Gives every CiliumNode one pod CIDR per enabled family."""

    def __init__(self, client: KubeClient, config: Config, controllers: Controllers) -> None:
        self._client = client
        self._pools: list[ClusterPool] = []
        if config.enable_ipv4:
            size = config.cluster_pool_ipv4_mask_size
            self._pools.append(ClusterPool(4, config.cluster_pool_ipv4_cidr, size))
        if config.enable_ipv6:
            size = config.cluster_pool_ipv6_mask_size
            self._pools.append(ClusterPool(6, config.cluster_pool_ipv6_cidr, size))
        controller = controllers.add("allocate-pod-cidrs", self._allocate)
        self._nodes: Reflector[CiliumNode, CiliumNode] = Reflector(
            client, CILIUM_NODES, lambda node: node, lambda changes: controller.trigger()
        )

    async def run(self) -> None:
        """Watch the nodes until cancelled."""
        await self._nodes.run()

    async def _allocate(self) -> None:
        # One node at a time, each seen by the next: the rows are updated by our own answers.
        for key, node in sorted(self._nodes.rows.items()):
            have = list(node.spec.ipam.pod_cidrs or [])
            wanted = [pool for pool in self._pools if not pool.has(have)]
            if not wanted:
                continue
            taken = [n for row in self._nodes.rows.values() for n in valid(_cidrs(row))]
            try:
                have += [str(pool.next_free(taken)) for pool in wanted]
            except NoCidrLeft as error:
                raise NoCidrLeft(f"node {node.metadata.name}: {error}") from error
            body = {
                "metadata": {"resourceVersion": node.metadata.resource_version},
                "spec": {"ipam": {"podCIDRs": have}},
            }
            try:
                answer = await self._client.patch(CILIUM_NODES, node.metadata.name, body)
            except KubeError as error:
                if is_conflict(error) or is_not_found(error):
                    continue  # the watch tells what it is now, and triggers us again
                raise
            self._nodes.rows[key] = answer
            log.info("node %s gets %s", node.metadata.name, ", ".join(have))


async def run_operator(config: Config) -> None:
    """Run until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    clock = SystemClock()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with KubeClient.from_kubeconfig(config.k8s_kubeconfig_path or None) as client:
        client.on_malformed = lambda error: log.warning("%s", error)
        holder = f"{config.node_name}-{os.getpid()}"
        leadership = Leadership(client, clock, config.k8s_namespace, LEASE_NAME, holder)
        async with asyncio.TaskGroup() as group:
            leading = group.create_task(_lead(leadership, client, clock, config))
            await stop.wait()
            leading.cancel()
        try:
            await leadership.release()
        except (KubeError, KubeUnreachable) as error:
            log.debug("lease not released: %s", error)


async def _lead(
    leadership: Leadership, client: KubeClient, clock: SystemClock, config: Config
) -> None:
    while True:
        try:
            await leadership.run(lambda: _work(client, clock, config))
        except* LeaseLost as errors:
            log.warning("stopped leading: %s", errors.exceptions[0])


async def _work(client: KubeClient, clock: SystemClock, config: Config) -> None:
    controllers = Controllers()
    controllers.add("define-kinds", lambda: _define(client), REGISTER_INTERVAL).trigger()
    allocator = CidrAllocator(client, config, controllers)
    identities = IdentityCollector(client, config.identity_heartbeat_timeout, clock.monotonic)
    controllers.add("collect-identities", identities.run, config.identity_gc_interval)
    if config.cilium_endpoint_gc_interval:
        interval = config.cilium_endpoint_gc_interval
        controllers.add("collect-endpoints", lambda: collect_endpoints(client), interval)
    if config.nodes_gc_interval:
        controllers.add("collect-nodes", NodeCollector(client).run, config.nodes_gc_interval)
    async with asyncio.TaskGroup() as group:
        controllers.start(group)
        group.create_task(allocator.run())


async def _define(client: KubeClient) -> None:
    for name in await register(client):
        log.info("defined %s", name)


def _cidrs(node: CiliumNode) -> list[str]:
    return node.spec.ipam.pod_cidrs or []
