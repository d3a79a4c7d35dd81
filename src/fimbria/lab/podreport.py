"""What the API is told about a pod: its status, Events, and that it is gone for good.

PodState ─► status document ─► the API, whenever it differs from what was last sent
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fimbria.lab import objects
from fimbria.lab.containers import Container
from fimbria.sources.errors import KubeError, KubeUnreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fimbria.lab.objects import Document
    from fimbria.sources.kube import KubeClient

log = logging.getLogger(__name__)
RETRY = 3.0


@dataclass
class PodState:
    """The API's object, and how far the pod has come on its node.

    `problem` is the reason and message of what keeps its containers from being made.
    """

    pod: Document
    addresses: list[str] = field(default_factory=list[str])
    init: list[Container] = field(default_factory=list[Container])
    containers: list[Container] = field(default_factory=list[Container])
    initialized: bool = False
    problem: tuple[str, str] | None = None

    @property
    def key(self) -> tuple[str, str]:
        """The pod's namespace and name."""
        return objects.key(self.pod)


class PodReport:
    """Reports about one pod, for the node of that name and those addresses."""

    def __init__(
        self, client: KubeClient, node: str, addresses: Sequence[str], state: PodState
    ) -> None:
        self._client = client
        self._node = node
        self._addresses = addresses
        self._state = state
        self._news = asyncio.Event()
        self._sent: Document = {}

    def changed(self) -> None:
        """Have the status looked at again."""
        self._news.set()

    async def run(self) -> None:
        """Write the status whenever it is another one, until cancelled."""
        namespace, name = self._state.key
        self._news.set()
        while True:
            await self._news.wait()
            self._news.clear()
            document = self.status()
            if document == self._sent:
                continue
            try:
                await self._client.patch(
                    objects.PODS, name, {"status": document}, namespace, subresource="status"
                )
            except KubeUnreachable:
                await asyncio.sleep(RETRY)
                self._news.set()
            except KubeError as error:
                if error.status != 404:
                    log.warning("%s/%s: status: %s", namespace, name, error)
            else:
                self._sent = document

    def status(self) -> Document:
        """The pod's status document."""
        state = self._state
        document: Document = {
            "phase": _phase(state),
            "conditions": self._conditions(),
            "containerStatuses": [one.status() for one in state.containers] or _waiting(state),
            "hostIP": self._addresses[0],
            "hostIPs": [{"ip": address} for address in self._addresses],
            "qosClass": "BestEffort",
        }
        if state.init:
            document["initContainerStatuses"] = [one.status() for one in state.init]
        if state.addresses:
            document["podIP"] = state.addresses[0]
            document["podIPs"] = [{"ip": address} for address in state.addresses]
            document["startTime"] = self._sent.get("startTime") or objects.now()
        return document

    def _conditions(self) -> list[Document]:
        state = self._state
        ready = bool(state.containers) and all(one.ready for one in state.containers)
        have = {
            "PodScheduled": True,
            "Initialized": state.initialized,
            "ContainersReady": ready,
            "Ready": ready,
        }
        before = self._sent or objects.part(state.pod, "status")
        old = {one["type"]: one for one in objects.parts(before, "conditions")}
        conditions: list[Document] = []
        for kind, value in have.items():
            text = "True" if value else "False"
            since = old.get(kind, {})
            at = since.get("lastTransitionTime") if since.get("status") == text else None
            conditions.append(
                {"type": kind, "status": text, "lastTransitionTime": at or objects.now()}
            )
        return conditions

    async def event(self, reason: str, message: str) -> None:
        """Tell users what is wrong, where `kubectl describe` shows it."""
        namespace, name = self._state.key
        uid = self._state.pod["metadata"]["uid"]
        suffix = objects.digest(uid, reason, message, length=16)
        body = {
            "metadata": {"name": f"{name}.{suffix}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "name": name, "namespace": namespace, "uid": uid,
            },
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": self._node},
            "firstTimestamp": objects.now(),
            "lastTimestamp": objects.now(),
            "count": 1,
        }  # fmt: skip
        with contextlib.suppress(KubeError, KubeUnreachable):
            await self._client.create(objects.EVENTS, body, namespace)

    async def gone(self) -> None:
        """Delete the object for good: a kubelet's last act."""
        namespace, name = self._state.key
        uid = self._state.pod["metadata"]["uid"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        path = objects.PODS.path(namespace, name)
        while True:
            try:
                await self._client.request("DELETE", path, body=body)
            except KubeUnreachable:
                await asyncio.sleep(RETRY)
                continue
            except KubeError as error:
                if error.status not in (404, 409):
                    log.warning("%s/%s: delete: %s", namespace, name, error)
            return


def _phase(state: PodState) -> str:
    if state.containers and all("terminated" in one.status()["state"] for one in state.containers):
        failed = any(one.exit_code for one in state.containers)
        return "Failed" if failed else "Succeeded"
    if any(one.exit_code and "terminated" in one.status()["state"] for one in state.init):
        return "Failed"
    begun = any("waiting" not in one.status()["state"] or one.restarts for one in state.containers)
    return "Running" if begun else "Pending"


def _waiting(state: PodState) -> list[Document]:
    """Return the statuses of containers that are not made yet."""
    reason, message = state.problem or ("ContainerCreating", "")
    waiting: Document = {"reason": reason} | ({"message": message} if message else {})
    return [
        {
            "name": one["name"],
            "image": str(one.get("image") or ""),
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"waiting": waiting},
            "lastState": {},
        }
        for one in objects.parts(state.pod["spec"], "containers")
    ]
