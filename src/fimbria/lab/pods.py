"""A pod's life on its node, as a kubelet leads it: sandbox, network, containers, status, end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fimbria.lab import cgroups, hosts, images, objects, sandbox
from fimbria.lab.containers import Container
from fimbria.lab.probes import Target
from fimbria.sources.errors import KubeError, KubeUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from fimbria.lab.processes import Processes
    from fimbria.lab.sandbox import Cni, Sandbox
    from fimbria.lab.spec import LabPaths
    from fimbria.sources.kube import KubeClient

Document = dict[str, Any]
log = logging.getLogger(__name__)
RETRY_FIRST, RETRY_MAX = 0.1, 3.0
GRACE = 30


@dataclass(frozen=True)
class NodeContext:
    """What all pods of one node share."""

    name: str
    net: int
    addresses: list[str]
    client: KubeClient
    processes: Processes
    cni: Cni
    paths: LabPaths
    cgroup: Path | None
    changed: Callable[[], None]


@dataclass
class PodRunner:
    """One pod, from its binding until its object is deleted."""

    node: NodeContext
    pod: Document
    box: Sandbox | None = None
    addresses: list[str] = field(default_factory=list[str])
    containers: list[Container] = field(default_factory=list[Container])
    _init: list[Container] = field(default_factory=list[Container])
    _delete: asyncio.Event = field(default_factory=asyncio.Event)
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _problem: tuple[str, str] | None = None
    _sent: Document = field(default_factory=dict[str, Any])
    _initialized: bool = False

    @property
    def name(self) -> str:
        """namespace/name, for messages."""
        return "/".join(objects.key(self.pod))

    def update(self, pod: Document) -> None:
        """The API's current object; a deletion timestamp starts the end."""
        self.pod = pod
        if objects.leaving(pod):
            self._delete.set()

    def remove(self) -> None:
        """The object is gone from the API already."""
        self._delete.set()

    async def run(self) -> None:
        """Live; returns when nothing of the pod is left."""
        reporter = asyncio.create_task(self._report())
        life = asyncio.create_task(self._live())
        deleted = asyncio.create_task(self._delete.wait())
        try:
            await asyncio.wait({life, deleted}, return_when=asyncio.FIRST_COMPLETED)
            if life.done():
                life.result()
            await deleted
        finally:
            await self._end(life)
            for task in (reporter, deleted):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        await self._forget()

    async def _live(self) -> None:
        spec = self.pod["spec"]
        try:
            own = self._processes_of(objects.parts(spec, "containers"), {})
            self._processes_of(objects.parts(spec, "initContainers"), {})
        except (images.NoSuchImage, ValueError) as error:
            reason = "ErrImagePull" if isinstance(error, images.NoSuchImage) else "CreateError"
            self._problem = (reason, str(error))
            self._changed()
            await self._event("Failed", str(error))
            return
        del own
        await self._network()
        environment = self._environment()
        group = self._cgroup()
        assert self.box is not None
        place = self.box.place(group)
        policy = str(spec.get("restartPolicy") or "Always")
        directory = self.node.paths.node(self.node.name) / "pods"
        directory.mkdir(exist_ok=True)

        def container(document: Document, restart: str) -> Container:
            file = directory / f"{'_'.join(objects.key(self.pod))}_{document['name']}.log"
            process = images.process(document, self.pod, environment)
            return Container(
                document, process, restart, self.node.processes, place, file, self._changed
            )

        first = "OnFailure" if policy == "Always" else policy
        self._init = [container(one, first) for one in objects.parts(spec, "initContainers")]
        self.containers = [container(one, policy) for one in spec["containers"]]
        for one in self._init:
            await one.run(None)
            if one.exit_code:
                self._changed()
                return
        self._initialized = True
        target = self._target()
        await asyncio.gather(*(one.run(target) for one in self.containers))

    def _processes_of(
        self, documents: list[Document], environment: Mapping[str, str]
    ) -> list[images.Process]:
        return [images.process(one, self.pod, environment) for one in documents]

    async def _network(self) -> None:
        namespace, _ = objects.key(self.pod)
        paths, uid = self.node.paths, self.pod["metadata"]["uid"]
        file = paths.hosts(namespace)
        if not file.exists():
            hosts.write(file, hosts.render((), namespace))
        own = None if self.pod["spec"].get("hostNetwork") else paths.netns(f"pod-{uid}")
        self.box = sandbox.create(self.pod, own, file, self.node.net)
        if own is None:
            self.addresses = list(self.node.addresses)
            self._changed()
            return
        delay, told = RETRY_FIRST, ""
        while not self.addresses:
            try:
                self.addresses = await self.node.cni.add(self.pod, self.box)
            except (sandbox.CniFailure, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("%s: network: %s", self.name, error)
                    await self._event("FailedCreatePodSandBox", told)
                with contextlib.suppress(sandbox.CniFailure, OSError):
                    await self.node.cni.delete(self.pod, self.box)
                await asyncio.sleep(delay)
                delay = min(delay * 2, RETRY_MAX)
        self._changed()

    def _environment(self) -> dict[str, str]:
        namespace, name = objects.key(self.pod)
        return {
            "HOSTNAME": str(self.pod["spec"].get("hostname") or name),
            "FIMBRIA_POD": name,
            "FIMBRIA_NAMESPACE": namespace,
            "FIMBRIA_NODE": self.node.name,
            "FIMBRIA_POD_IP": self.addresses[0],
            "FIMBRIA_POD_IPS": ",".join(self.addresses),
            "FIMBRIA_HOST_IP": self.node.addresses[0],
        }

    def _cgroup(self) -> Path | None:
        if self.node.cgroup is None:
            return None
        group = self.node.cgroup / f"pod-{self.pod['metadata']['uid']}"
        group.mkdir(exist_ok=True)
        return group

    def _target(self) -> Target:
        assert self.box is not None
        place = self.box.place(self._cgroup())
        environment = self._environment() | {"PATH": images.DEFAULT_PATH}

        async def execute(command: list[str]) -> int:
            child = self.node.processes.spawn(command, place=place, environment=environment)
            try:
                return await child.exited
            finally:
                child.signal(signal.SIGKILL, group=True)

        ports = {
            str(port["name"]): int(port["containerPort"])
            for one in self.pod["spec"]["containers"]
            for port in objects.parts(one, "ports")
            if port.get("name")
        }
        return Target(self.node.net, self.addresses[0], ports, execute)

    async def _end(self, life: asyncio.Task[None]) -> None:
        """Stop the processes (with the pod's grace if deleted), the network, the namespaces."""
        running = [*self._init, *self.containers]
        for one in running:
            one.terminate(signal.SIGTERM)
        grace = self.pod["metadata"].get("deletionGracePeriodSeconds", GRACE)
        if not life.done() and running:
            await asyncio.wait({life}, timeout=float(grace if grace is not None else GRACE))
        for one in running:
            one.terminate(signal.SIGKILL)
        group = self._cgroup() if self.box else None
        if group:
            cgroups.kill(group)
        life.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await life
        if self.box is None:
            return
        if self.box.path:
            with contextlib.suppress(sandbox.CniFailure, OSError):
                await self.node.cni.delete(self.pod, self.box)
        box, self.box = self.box, None
        box.close()
        if group:
            await self._remove(group)

    async def _remove(self, group: Path) -> None:
        """Remove the control group once the killed processes have left it."""
        for _ in range(100):
            if cgroups.remove(group):
                return
            await asyncio.sleep(0.01)

    async def _forget(self) -> None:
        """Delete the object for good: a kubelet's last act."""
        namespace, name = objects.key(self.pod)
        uid = self.pod["metadata"]["uid"]
        body = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
        path = objects.PODS.path(namespace, name)
        while True:
            try:
                await self.node.client.request("DELETE", path, body=body)
            except KubeUnreachable:
                await asyncio.sleep(RETRY_MAX)
                continue
            except KubeError as error:
                if error.status not in (404, 409):
                    log.warning("%s: delete: %s", self.name, error)
            return

    def status(self) -> Document:
        """The pod's status document."""
        statuses = [one.status() for one in self.containers]
        spec = self.pod["spec"]
        if not statuses:
            reason, message = self._problem or ("ContainerCreating", "")
            waiting = {"reason": reason} | ({"message": message} if message else {})
            statuses = [
                {
                    "name": one["name"],
                    "image": str(one.get("image") or ""),
                    "imageID": "",
                    "ready": False,
                    "restartCount": 0,
                    "state": {"waiting": waiting},
                    "lastState": {},
                }
                for one in objects.parts(spec, "containers")
            ]
        ready = bool(self.containers) and all(one.ready for one in self.containers)
        have = {
            "PodScheduled": True,
            "Initialized": self._initialized,
            "ContainersReady": ready,
            "Ready": ready,
        }
        old = {
            one["type"]: one
            for one in (self._sent or objects.part(self.pod, "status")).get("conditions", [])
        }
        conditions: list[Document] = []
        for kind, value in have.items():
            text = "True" if value else "False"
            since = old.get(kind, {})
            at = since.get("lastTransitionTime") if since.get("status") == text else None
            conditions.append(
                {"type": kind, "status": text, "lastTransitionTime": at or objects.now()}
            )
        document: Document = {
            "phase": self._phase(),
            "conditions": conditions,
            "containerStatuses": statuses,
            "hostIP": self.node.addresses[0],
            "hostIPs": [{"ip": address} for address in self.node.addresses],
            "qosClass": "BestEffort",
        }
        if self._init:
            document["initContainerStatuses"] = [one.status() for one in self._init]
        if self.addresses:
            document["podIP"] = self.addresses[0]
            document["podIPs"] = [{"ip": address} for address in self.addresses]
            document["startTime"] = self._sent.get("startTime") or objects.now()
        return document

    def _phase(self) -> str:
        if self.containers and all(
            "terminated" in one.status()["state"] for one in self.containers
        ):
            failed = any(one.exit_code for one in self.containers)
            return "Failed" if failed else "Succeeded"
        if any(one.exit_code and "terminated" in one.status()["state"] for one in self._init):
            return "Failed"
        begun = any(
            "waiting" not in one.status()["state"] or one.restarts for one in self.containers
        )
        return "Running" if begun else "Pending"

    def _changed(self) -> None:
        self._news.set()
        self.node.changed()

    async def _report(self) -> None:
        """Write the status whenever it is another one."""
        namespace, name = objects.key(self.pod)
        self._news.set()
        while True:
            await self._news.wait()
            self._news.clear()
            document = self.status()
            if document == self._sent:
                continue
            try:
                await self.node.client.patch(
                    objects.PODS, name, {"status": document}, namespace, subresource="status"
                )
            except KubeUnreachable:
                await asyncio.sleep(RETRY_MAX)
                self._news.set()
            except KubeError as error:
                if error.status != 404:
                    log.warning("%s: status: %s", self.name, error)
            else:
                self._sent = document

    async def _event(self, reason: str, message: str) -> None:
        """Tell users what is wrong, where `kubectl describe` shows it."""
        namespace, name = objects.key(self.pod)
        meta = self.pod["metadata"]
        suffix = objects.digest(meta["uid"], reason, message, length=16)
        body = {
            "metadata": {"name": f"{name}.{suffix}", "namespace": namespace},
            "involvedObject": {
                "apiVersion": "v1", "kind": "Pod", "name": name, "namespace": namespace,
                "uid": meta["uid"],
            },
            "type": "Warning",
            "reason": reason,
            "message": message,
            "source": {"component": "kubelet", "host": self.node.name},
            "firstTimestamp": objects.now(),
            "lastTimestamp": objects.now(),
            "count": 1,
        }  # fmt: skip
        with contextlib.suppress(KubeError, KubeUnreachable):
            await self.node.client.create(objects.EVENTS, body, namespace)
