"""A pod's life on its node, as a kubelet leads it: sandbox, network, containers, end.

    bound ─► images known ─► namespaces ─► CNI ADD ─► init containers ─► containers
    deleted ─► SIGTERM, grace, SIGKILL ─► CNI DEL ─► namespaces ─► the object is deleted

What becomes of it is kept in a PodState, of which `podreport` tells the API.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fimbria.lab import cgroups, hosts, images, objects, sandbox
from fimbria.lab.containers import Container
from fimbria.lab.podreport import PodReport, PodState
from fimbria.lab.probes import Target

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fimbria.lab.objects import Document
    from fimbria.lab.processes import Processes
    from fimbria.lab.sandbox import Cni, Sandbox
    from fimbria.lab.spec import LabPaths
    from fimbria.sources.kube import KubeClient

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


class PodRunner:
    """One pod, from its binding until its object is deleted."""

    def __init__(self, node: NodeContext, pod: Document) -> None:
        self.node = node
        self.state = PodState(pod)
        self.report = PodReport(node.client, node.name, node.addresses, self.state)
        self.box: Sandbox | None = None
        self._delete = asyncio.Event()

    @property
    def pod(self) -> Document:
        """The API's object."""
        return self.state.pod

    @property
    def name(self) -> str:
        """namespace/name, for messages."""
        return "/".join(self.state.key)

    def update(self, pod: Document) -> None:
        """The API's current object; a deletion timestamp starts the end."""
        self.state.pod = pod
        if objects.leaving(pod):
            self._delete.set()

    def remove(self) -> None:
        """The object is gone from the API already."""
        self._delete.set()

    async def run(self) -> None:
        """Live; returns when nothing of the pod is left."""
        reporter = asyncio.create_task(self.report.run())
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
        await self.report.gone()

    async def _live(self) -> None:
        spec = self.pod["spec"]
        try:
            for kind in ("containers", "initContainers"):
                for one in objects.parts(spec, kind):
                    images.process(one, self.pod, {})
        except (images.NoSuchImage, ValueError) as error:
            reason = "ErrImagePull" if isinstance(error, images.NoSuchImage) else "CreateError"
            self.state.problem = (reason, str(error))
            self._changed()
            await self.report.event("Failed", str(error))
            return
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
        self.state.init = [container(one, first) for one in objects.parts(spec, "initContainers")]
        self.state.containers = [container(one, policy) for one in spec["containers"]]
        for one in self.state.init:
            await one.run(None)
            if one.exit_code:
                self._changed()
                return
        self.state.initialized = True
        target = self._target()
        await asyncio.gather(*(one.run(target) for one in self.state.containers))

    async def _network(self) -> None:
        namespace, _ = objects.key(self.pod)
        paths, uid = self.node.paths, self.pod["metadata"]["uid"]
        file = paths.hosts(namespace)
        if not file.exists():
            hosts.write(file, hosts.render((), namespace))
        own = None if self.pod["spec"].get("hostNetwork") else paths.netns(f"pod-{uid}")
        self.box = sandbox.create(self.pod, own, file, self.node.net)
        if own is None:
            self.state.addresses = list(self.node.addresses)
            self._changed()
            return
        delay, told = RETRY_FIRST, ""
        while not self.state.addresses:
            try:
                self.state.addresses = await self.node.cni.add(self.pod, self.box)
            except (sandbox.CniFailure, OSError) as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("%s: network: %s", self.name, error)
                    await self.report.event("FailedCreatePodSandBox", told)
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
            "FIMBRIA_POD_IP": self.state.addresses[0],
            "FIMBRIA_POD_IPS": ",".join(self.state.addresses),
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
        return Target(self.node.net, self.state.addresses[0], ports, execute)

    async def _end(self, life: asyncio.Task[None]) -> None:
        """Stop the processes (with the pod's grace if deleted), the network, the namespaces."""
        running = [*self.state.init, *self.state.containers]
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

    def _changed(self) -> None:
        self.report.changed()
        self.node.changed()
