"""What nobody uses any more, decided from what the API says, deleted with preconditions.

Identities: not named by any CiliumEndpoint for a whole timeout. CiliumEndpoints: their pod is gone.
CiliumNodes: their node is gone. Each deletion names the version (or uid) that was looked at, so an
object that somebody took into use meanwhile stays.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fimbria.sources.errors import KubeError, is_conflict, is_not_found
from fimbria.sources.resources import (
    CILIUM_ENDPOINTS,
    CILIUM_IDENTITIES,
    CILIUM_NODES,
    NODES,
    PODS,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.sources.kube import KubeClient
    from fimbria.sources.resources import CiliumNode

log = logging.getLogger(__name__)


class IdentityCollector:
    """Remembers since when each identity is unused. `now` gives seconds that never go back."""

    def __init__(self, client: KubeClient, timeout: float, now: Callable[[], float]) -> None:
        self._client = client
        self._timeout = timeout
        self._now = now
        self._unused: dict[str, float] = {}

    async def run(self) -> None:
        """Look once; delete what has been unused for the whole timeout."""
        identities = (await self._client.list(CILIUM_IDENTITIES)).items
        used: set[str] = set()
        async for page in self._client.pages(CILIUM_ENDPOINTS):
            used |= {str(e.status.identity.id) for e in page.items if e.status.identity}
        now = self._now()
        unused = {one.metadata.name: one for one in identities if one.metadata.name not in used}
        self._unused = {name: self._unused.get(name, now) for name in unused}
        for name, since in list(self._unused.items()):
            if now - since >= self._timeout:
                version = unused[name].metadata.resource_version
                if await self._delete(name, version):
                    log.info("removed identity %s: unused for %d s", name, now - since)
                del self._unused[name]

    async def _delete(self, name: str, version: str) -> bool:
        try:
            await self._client.delete(CILIUM_IDENTITIES, name, resource_version=version)
        except KubeError as error:
            if is_conflict(error) or is_not_found(error):
                return False
            raise
        return True


async def collect_endpoints(client: KubeClient) -> None:
    """Delete CiliumEndpoints whose pod is gone."""
    endpoints = {
        (item.metadata.namespace, item.metadata.name): item.metadata.uid
        async for page in client.pages(CILIUM_ENDPOINTS)
        for item in page.items
    }
    # Pods are read after the endpoints: a pod made in between has no endpoint in our list.
    async for page in client.pages(PODS):
        for pod in page.items:
            endpoints.pop((pod.metadata.namespace, pod.metadata.name), None)
    for (namespace, name), uid in endpoints.items():
        try:
            await client.delete(CILIUM_ENDPOINTS, name, namespace, uid=uid)
        except KubeError as error:
            if not (is_conflict(error) or is_not_found(error)):
                raise
        else:
            log.info("removed CiliumEndpoint %s/%s: its pod is gone", namespace, name)


class NodeCollector:
    """Removes CiliumNodes whose node was gone at two looks in a row."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._gone: set[str] = set()

    async def run(self) -> None:
        """Look once."""
        ours: dict[str, CiliumNode] = {
            item.metadata.name: item for item in (await self._client.list(CILIUM_NODES)).items
        }
        nodes = {item.metadata.name for item in (await self._client.list(NODES)).items}
        gone = set(ours) - nodes
        for name in gone & self._gone:
            try:
                await self._client.delete(CILIUM_NODES, name, uid=ours[name].metadata.uid)
            except KubeError as error:
                if not (is_conflict(error) or is_not_found(error)):
                    raise
            else:
                log.info("removed CiliumNode %s: its node is gone", name)
        self._gone = gone
