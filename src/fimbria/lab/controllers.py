"""Keeps the cluster's objects in view, and carries out what the controllers want.

API ─ watches ─► snapshot ─► workloads, serviceendpoints ─ actions ─► API
                    └──────► kubelets, hosts files, status
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from fimbria.lab import objects, serviceendpoints, workloads
from fimbria.lab.snapshot import Action, Snapshot
from fimbria.sources.errors import KubeError, KubeUnreachable
from fimbria.sources.reflector import Reflector

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.lab.objects import Document
    from fimbria.sources.kube import KubeClient
    from fimbria.sources.resources import Resource

log = logging.getLogger(__name__)

KINDS: dict[str, Resource[Document]] = {
    "nodes": objects.NODES,
    "pods": objects.PODS,
    "deployments": objects.DEPLOYMENTS,
    "replica_sets": objects.REPLICA_SETS,
    "daemon_sets": objects.DAEMON_SETS,
    "services": objects.SERVICES,
    "endpoints": objects.ENDPOINTS,
    "slices": objects.SLICES,
}
RETRY = 0.5


class Cluster:
    """The snapshot, kept current; `listeners` are called, without arguments, after changes."""

    def __init__(self, client: KubeClient) -> None:
        self.client = client
        self.state = Snapshot()
        self.listeners: list[Callable[[], None]] = []
        self._changed = asyncio.Event()
        self._reflectors = {
            name: Reflector[Any, Any](client, resource, _same, lambda _: self._on_change())
            for name, resource in KINDS.items()
        }

    async def run(self) -> None:
        """Watch and reconcile until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for reflector in self._reflectors.values():
                tasks.create_task(reflector.run())
            await asyncio.gather(*(one.synced.wait() for one in self._reflectors.values()))
            self._on_change()
            tasks.create_task(self._reconcile())

    def _on_change(self) -> None:
        # A reflector has another dict after it listed anew.
        for name, reflector in self._reflectors.items():
            setattr(self.state, name, reflector.rows)
        self._changed.set()
        for listener in self.listeners:
            listener()

    async def _reconcile(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            actions = reconcile(self.state)
            results = await asyncio.gather(*map(self._perform, actions))
            if not all(results):
                await asyncio.sleep(RETRY)
                self._changed.set()

    async def _perform(self, action: Action) -> bool:
        """Carry out one action; False if it is to be tried again."""
        try:
            await perform(self.client, action)
        except KubeUnreachable:
            return False
        except KubeError as error:
            # 404, 409: the snapshot was behind, and its next change brings us here again
            if error.status not in (404, 409):
                log.warning("%s %s/%s: %s", action.verb, action.namespace, action.name, error)
            return error.status < 500
        return True


def _same(document: Document) -> Document:
    return document


def reconcile(state: Snapshot) -> list[Action]:
    """Everything that is to be done now."""
    return [
        *workloads.schedule(state),
        *workloads.deployments(state),
        *workloads.replica_sets(state),
        *workloads.daemon_sets(state),
        *serviceendpoints.endpoints(state),
    ]


async def perform(client: KubeClient, action: Action) -> None:
    """Carry out one action. Raises KubeError or KubeUnreachable."""
    resource, namespace, name = action.resource, action.namespace, action.name
    if action.verb == "create":
        await client.create(resource, action.body, namespace)
    elif action.verb == "patch":
        await client.patch(resource, name, action.body, namespace)
    elif action.verb == "status":
        await client.patch(resource, name, action.body, namespace, subresource="status")
    elif action.verb == "delete":
        await client.delete(resource, name, namespace)
    else:
        body = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace},
            "target": {"apiVersion": "v1", "kind": "Node", "name": action.body},
        }
        await client.request("POST", f"{resource.path(namespace, name)}/binding", body=body)
