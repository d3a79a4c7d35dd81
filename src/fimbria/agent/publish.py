"""Tell the cluster of endpoints and policies: what changed is sent, and again if that failed.

A pod's ADD does not wait for its CiliumEndpoint: the endpoint is marked dirty, and a controller
sends what is dirty, several at a time. What was sent is remembered, so nothing is sent twice.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, cast

from fimbria.agent import objects
from fimbria.sources.errors import (
    KubeError,
    KubeUnreachable,
    is_already_exists,
    is_conflict,
    is_not_found,
)
from fimbria.sources.resources import (
    CILIUM_ENDPOINTS,
    EVENTS,
    NETWORK_POLICIES,
    Document,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.agent.held import Held
    from fimbria.model.policy import PolicyKey
    from fimbria.sources.kube import KubeClient

PARALLEL = 8

log = logging.getLogger(__name__)

Key = tuple[str, str]


class EndpointPublisher:
    """Keeps this node's CiliumEndpoints as they should be.

    `wanted` gives the document of a (namespace, pod), None if it should not be; `published` are the
    uids of this node's CiliumEndpoints in the API, as the watch tells them.
    """

    def __init__(self, client: KubeClient, wanted: Callable[[Key], Document | None]) -> None:
        self.published: dict[Key, str] = {}
        self._client = client
        self._wanted = wanted
        self._sent: dict[Key, Document] = {}
        self._dirty: set[Key] = set()
        self.trigger: Callable[[], None] = lambda: None

    def mark(self, key: Key) -> None:
        """Look at this endpoint's object soon."""
        self._dirty.add(key)
        self.trigger()

    def forget(self, key: Key) -> None:
        """The object was changed or removed by somebody else: send it again if it is wanted."""
        self._sent.pop(key, None)
        self.mark(key)

    async def run(self) -> None:
        """Send what is dirty; raises the last error, what failed stays dirty."""
        limit = asyncio.Semaphore(PARALLEL)
        failed: list[Exception] = []

        async def one(key: Key) -> None:
            async with limit:
                try:
                    await self._sync(key)
                except (KubeError, KubeUnreachable) as error:
                    self._dirty.add(key)
                    failed.append(error)

        keys, self._dirty = self._dirty, set()
        async with asyncio.TaskGroup() as group:
            for key in keys:
                group.create_task(one(key))
        if failed:
            raise failed[-1]

    async def _sync(self, key: Key) -> None:
        namespace, name = key
        document = self._wanted(key)
        if document is None:
            await self._remove(key)
            return
        if self._sent.get(key) == document:
            return
        try:
            if key in self._sent or key in self.published:
                await self._client.patch(CILIUM_ENDPOINTS, name, document, namespace)
            else:
                await self._create(key, document)
        except KubeError as error:
            if not is_not_found(error):
                raise
            if key not in self._sent and key not in self.published:
                return  # the pod's namespace is gone, and the pod is about to be
            await self._create(key, document)
        self._sent[key] = document

    async def _create(self, key: Key, document: Document) -> None:
        try:
            made = await self._client.create(CILIUM_ENDPOINTS, document, key[0])
            self.published[key] = made.metadata.uid
        except KubeError as error:
            if not is_already_exists(error):
                raise
            # Left by a pod of the same name, here or on another node; ours is the living one.
            await self._client.patch(CILIUM_ENDPOINTS, key[1], document, key[0])

    async def _remove(self, key: Key) -> None:
        self._sent.pop(key, None)
        uid = self.published.pop(key, None)
        if uid is None:
            return
        try:
            await self._client.delete(CILIUM_ENDPOINTS, key[1], key[0], uid=uid)
        except KubeError as error:
            if not (is_not_found(error) or is_conflict(error)):
                self.published[key] = uid
                raise
        except KubeUnreachable:
            self.published[key] = uid
            raise


class PolicyStatusPublisher:
    """Writes into each policy's status what became of it, and an Event where it is not in force."""

    def __init__(self, client: KubeClient, node: str, now: Callable[[], float]) -> None:
        self._client = client
        self._node = node
        self._now = now
        self._pending: dict[PolicyKey, Held] = {}
        self.trigger: Callable[[], None] = lambda: None

    def report(self, held: Held) -> None:
        """Have a policy's status say what its judgement is when it is sent."""
        self._pending[held.key] = held
        self.trigger()

    async def run(self) -> None:
        """Send what is pending; raises the last error, what failed stays pending."""
        pending, self._pending = self._pending, {}
        failed: Exception | None = None
        for key, held in pending.items():
            try:
                if not isinstance(failed, KubeUnreachable):
                    await self._one(held)
                    continue
            except (KubeError, KubeUnreachable) as error:
                if is_not_found(error):
                    continue
                failed = error
            self._pending.setdefault(key, held)
        if failed is not None:
            raise failed

    async def _one(self, held: Held) -> None:
        told = held.judgement()
        if told.withheld:
            text = f"{self._node}: {told.withheld}"
            await self._event(held.document, objects.NOT_APPLIED, text)
        elif told.refusal:
            await self._event(held.document, objects.REFUSED, told.refusal)
        if held.resource is not NETWORK_POLICIES:  # which has no status
            await self._status(held, told)

    async def _status(self, held: Held, told: objects.Judgement) -> None:
        meta = held.document["metadata"]
        namespace = meta.get("namespace")
        current = held.document
        while self._changed(current, told) is not None:
            # Read anew: of all nodes, only the first finds something to write.
            current = await self._client.get(held.resource, meta["name"], namespace)
            now: Document = current["metadata"]
            if any(now.get(name) != meta.get(name) for name in ("uid", "generation")):
                return  # the watch brings what it is now
            changed = self._changed(current, told)
            if changed is None:
                return
            body = {
                "metadata": {"resourceVersion": now.get("resourceVersion")},
                "status": {"conditions": changed},
            }
            try:
                await self._client.patch(
                    held.resource, meta["name"], body, namespace, subresource="status"
                )
            except KubeError as error:
                if not is_conflict(error):
                    raise
            else:
                return

    def _changed(self, policy: Document, told: objects.Judgement) -> list[Document] | None:
        """Return the conditions that an object should have; None if it has them."""
        generation = policy["metadata"].get("generation", 0)
        have = _conditions(policy)
        return objects.conditions(have, told, generation, self._node, self._now())

    async def _event(self, policy: Document, reason: str, text: str) -> None:
        event = objects.policy_event(policy, reason, text, self._now())
        try:
            await self._client.create(EVENTS, event, event["metadata"]["namespace"])
        except KubeError as error:
            if not is_already_exists(error):
                raise


def _conditions(policy: Document) -> list[Document]:
    status: Any = policy.get("status")
    found: Any = cast("Document", status).get("conditions") if isinstance(status, dict) else None
    rows = cast("list[Any]", found) if isinstance(found, list) else []
    return [one for one in rows if isinstance(one, dict)]
