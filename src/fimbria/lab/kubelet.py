"""The nodes' kubelets: Node objects, one runner per pod, and the hosts files of all pods."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from typing import TYPE_CHECKING, Any

from fimbria.lab import hosts, objects
from fimbria.lab.controllers import Cluster
from fimbria.lab.hosts import Name
from fimbria.lab.pods import NodeContext, PodRunner
from fimbria.lab.processes import Place
from fimbria.lab.sandbox import Cni
from fimbria.sources.errors import KubeError, KubeUnreachable
from fimbria.sources.kube import KubeClient

if TYPE_CHECKING:
    from pathlib import Path

    from fimbria.lab.supervisor import Supervisor

Document = dict[str, Any]
log = logging.getLogger(__name__)

CNI_VERSION = "1.1.0"
API_PAUSE, AGENT_PAUSE, HEALTH_PERIOD = 0.02, 0.05, 5.0


class Kubelets:
    """All nodes' pods, and the cluster's controllers beside them."""

    def __init__(self, supervisor: Supervisor, group: Path | None) -> None:
        self.lab = supervisor
        self.client = KubeClient.from_kubeconfig(supervisor.paths.agent_kubeconfig)
        self.cluster = Cluster(self.client)
        self.runners: dict[str, PodRunner] = {}
        self.api_up = asyncio.Event()
        self._group = group
        self._nodes: dict[str, NodeContext] = {}
        self._changed = asyncio.Event()
        self._running: asyncio.TaskGroup | None = None

    async def run(self) -> None:
        """Serve until cancelled."""
        self.cluster.listeners.append(self._changed.set)
        await self._wait_for_api()
        async with asyncio.TaskGroup() as tasks:
            self._running = tasks
            for index, name in enumerate(self.lab.spec.node_names()):
                await self._register(name, index)
                tasks.create_task(self._heartbeat(name))
            self._write_hosts()
            self.api_up.set()
            self.lab.notify()
            tasks.create_task(self.cluster.run())
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._assign()
                self._write_hosts()
                self.lab.notify()

    async def _wait_for_api(self) -> None:
        while True:
            with contextlib.suppress(KubeError, KubeUnreachable):
                await self.client.request("GET", "/readyz")
                return
            await asyncio.sleep(API_PAUSE)

    async def _register(self, name: str, index: int) -> None:
        """The Node object, and what the node's pods need to know."""
        lab = self.lab
        addresses = lab.spec.node_addresses(index)
        config: Document = {
            "cniVersion": CNI_VERSION,
            "name": "cilium",
            "type": "fimbria-cni",
            "agent-socket": str(lab.paths.socket(name)),
        }
        net = lab.nodes[name]
        plugin = lab.paths.plugins / "fimbria-cni"
        self._nodes[name] = NodeContext(
            name,
            net,
            addresses,
            self.client,
            lab.processes,
            Cni(lab.processes, plugin, config, Place(net=net)),
            lab.paths,
            self._group,
            lab.notify,
        )
        labels = {
            "kubernetes.io/hostname": name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": "amd64",
        }
        with contextlib.suppress(KubeError):
            body = {"metadata": {"name": name, "labels": labels}, "spec": {}}
            await self.client.create(objects.NODES, body)
        await self._node_status(name, ready=False)

    async def _node_status(self, name: str, *, ready: bool) -> None:
        reported = [
            {"type": "InternalIP", "address": address} for address in self._nodes[name].addresses
        ]
        condition = {
            "type": "Ready",
            "status": "True" if ready else "False",
            "reason": "KubeletReady" if ready else "NetworkPluginNotReady",
            "message": "" if ready else "the agent does not take pods yet",
            "lastHeartbeatTime": objects.now(),
            "lastTransitionTime": objects.now(),
        }
        status = {
            "addresses": [*reported, {"type": "Hostname", "address": name}],
            "conditions": [condition],
            "nodeInfo": {
                "kubeletVersion": "lab",
                "osImage": "network namespace",
                "architecture": "amd64",
                "operatingSystem": "linux",
                "kernelVersion": "",
                "containerRuntimeVersion": "processes://",
            },
        }
        with contextlib.suppress(KubeError, KubeUnreachable):
            await self.client.patch(objects.NODES, name, {"status": status}, subresource="status")

    async def _heartbeat(self, name: str) -> None:
        """Keep the node's Ready condition true to its agent's CNI STATUS."""
        known = False
        while True:
            ready = await self._agent_ready(name)
            if ready != known:
                known = ready
                (self.lab.ready_nodes.add if ready else self.lab.ready_nodes.discard)(name)
                self.lab.notify()
                await self._node_status(name, ready=ready)
            await asyncio.sleep(HEALTH_PERIOD if ready else AGENT_PAUSE)

    async def _agent_ready(self, name: str) -> bool:
        config = {"cniVersion": CNI_VERSION, "name": "cilium"}
        body = json.dumps({"env": {"CNI_COMMAND": "STATUS"}, "config": config}).encode()
        path = str(self.lab.paths.socket(name))
        try:
            async with asyncio.timeout(2):
                reader, writer = await asyncio.open_unix_connection(path)
                try:
                    head = "POST /v1/cni HTTP/1.0\r\nContent-Type: application/json\r\n"
                    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
                    line = await reader.readline()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            return False
        return b" 200 " in line

    def _assign(self) -> None:
        """Start runners for pods bound to our nodes, and tell the others what changed."""
        seen: set[str] = set()
        for pod in list(self.cluster.state.pods.values()):
            uid = str(pod["metadata"]["uid"])
            node = self._nodes.get(str(pod["spec"].get("nodeName") or ""))
            if node is None:
                continue
            seen.add(uid)
            runner = self.runners.get(uid)
            if runner is not None:
                runner.update(pod)
            elif self._running is not None:
                runner = self.runners[uid] = PodRunner(node, pod)
                runner.update(pod)
                self._running.create_task(self._run(uid, runner))
        for uid, runner in self.runners.items():
            if uid not in seen:
                runner.remove()

    async def _run(self, uid: str, runner: PodRunner) -> None:
        try:
            await runner.run()
        except (OSError, KeyError, TypeError, ValueError) as error:
            # one pod's trouble (a manifest that passed the API, a full disk) is not the lab's
            log.exception("pod %s: %s", runner.name, error)
        finally:
            self.runners.pop(uid, None)
            self.lab.notify()

    def _write_hosts(self) -> None:
        state = self.cluster.state
        names = [Name("node", "", n.name, tuple(n.addresses)) for n in self._nodes.values()]
        for (namespace, name), pod in state.pods.items():
            found = tuple(objects.addresses(pod))
            if found and not pod["spec"].get("hostNetwork"):
                names.append(Name("pod", namespace, name, found))
        for (namespace, name), service in state.services.items():
            names.append(Name("service", namespace, name, self._backends(namespace, service)))
        spaces = {"default"} | {key[0] for key in state.pods}
        for namespace in spaces:
            hosts.write(self.lab.paths.hosts(namespace), hosts.render(names, namespace))

    def _backends(self, namespace: str, service: Document) -> tuple[str, ...]:
        selector = service["spec"].get("selector")
        if not selector:
            return ()
        return tuple(
            address
            for (pod_namespace, _), pod in sorted(self.cluster.state.pods.items())
            if pod_namespace == namespace
            and objects.selects(selector, pod)
            and objects.ready(pod)
            and not objects.leaving(pod)
            for address in objects.addresses(pod)
        )
