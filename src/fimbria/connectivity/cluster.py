"""What the connectivity test needs of a cluster: its API, its agents, and commands in pods.

There are two: a lab (commands run in the pods' network namespaces, agents answer on their sockets)
and any Kubernetes cluster (everything goes through `kubectl exec`).
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from fimbria.sources.resources import Resource

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fimbria.connectivity.model import Document
    from fimbria.sources.kube import KubeClient

PODS = Resource["Document"]("", "v1", "pods", "Pod", True, dict)
NAMESPACES = Resource["Document"]("", "v1", "namespaces", "Namespace", False, dict)
NODES = Resource["Document"]("", "v1", "nodes", "Node", False, dict)


class ConnectivityError(Exception):
    """The test cannot be run; the message says what is missing."""


class NodeAgent(Protocol):
    """One node's agent."""

    node: str

    async def policies(self) -> Document:
        """Return `GET /v1/policy`."""
        ...

    async def wait(self, revision: int) -> None:
        """Return when every endpoint of the node enforces `revision`."""
        ...

    async def addresses(self) -> list[Document]:
        """Return `GET /v1/ip`."""
        ...

    async def identity(self, number: int) -> Document:
        """Return `GET /v1/identity/{number}`."""
        ...

    async def events(self, last: int) -> list[Document]:
        """Return up to `last` of the newest events that the agent keeps, oldest first."""
        ...


@dataclass(frozen=True)
class Spot:
    """A place as it came to be: a pod, or a node itself (`pod` is None then)."""

    name: str
    node: str
    addresses: tuple[str, ...]
    namespace: str = ""
    pod: str | None = None

    def address(self, family: int) -> str | None:
        """Return the address of a family (4 or 6), None if it has none."""
        wanted = ":" if family == 6 else "."
        return next((one for one in self.addresses if wanted in one), None)

    @property
    def families(self) -> set[int]:
        """Return the address families it has."""
        return {6 if ":" in one else 4 for one in self.addresses}


class Cluster(Protocol):
    """A cluster to test."""

    name: str
    api: KubeClient
    agents: Sequence[NodeAgent]
    host_pods: bool
    """True if commands on a node need a pod in the node's network."""

    async def command(self, spot: Spot, argv: Sequence[str]) -> tuple[int, str, str]:
        """Run a command at a spot; return exit code, standard output, standard error."""
        ...


async def run_program(argv: Sequence[str]) -> tuple[int, str, str]:
    """Run a program of this machine to its end; killed if the caller is cancelled."""
    process = await asyncio.create_subprocess_exec(
        *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, err = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    return process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")


class LabCluster:
    """A lab: `paths` has the network namespace of every pod (namespace/name) and every node."""

    host_pods = False

    def __init__(
        self, name: str, api: KubeClient, agents: Sequence[NodeAgent], python: str
    ) -> None:
        self.name = name
        self.api = api
        self.agents = agents
        self.paths: Mapping[str, str] = {}
        self._python = python

    async def command(self, spot: Spot, argv: Sequence[str]) -> tuple[int, str, str]:
        """Run a command in the spot's network namespace; `python3` is the interpreter of ours."""
        key = f"{spot.namespace}/{spot.pod}" if spot.pod else spot.node
        path = self.paths.get(key)
        if path is None:
            raise ConnectivityError(f"the lab '{self.name}' does not list {key}")
        words = [self._python if word == "python3" else word for word in argv[:1]]
        return await run_program(["nsenter", f"--net={path}", "--", *words, *argv[1:]])


class KubectlCluster:
    """Any cluster that `kubectl` reaches."""

    host_pods = True

    def __init__(self, name: str, api: KubeClient, kubectl: Sequence[str]) -> None:
        self.name = name
        self.api = api
        self.agents: Sequence[NodeAgent] = ()
        self._kubectl = kubectl

    async def find_agents(self) -> None:
        """Find the agents' pods; without any the test cannot know when policies are in force."""
        page = await self.api.list(PODS, label_selector="k8s-app in (fimbria, cilium)")
        self.agents = [
            KubectlAgent(
                pod["spec"]["nodeName"],
                [
                    *self._kubectl,
                    "exec",
                    "-n",
                    pod["metadata"]["namespace"],
                    pod["metadata"]["name"],
                ],
            )
            for pod in page.items
        ]
        if not self.agents:
            raise ConnectivityError("no agent found: its pods must carry the label k8s-app=fimbria")

    async def command(self, spot: Spot, argv: Sequence[str]) -> tuple[int, str, str]:
        """Run a command in the spot's pod; a node's is the pod in the node's network."""
        pod = spot.pod or spot.name
        return await run_program([*self._kubectl, "exec", "-n", spot.namespace, pod, "--", *argv])


class KubectlAgent:
    """An agent asked through the command line in its own pod."""

    def __init__(self, node: str, execute: Sequence[str]) -> None:
        self.node = node
        self._execute = execute

    async def policies(self) -> Document:
        """Return `GET /v1/policy`."""
        return await self._ask("policy", "get")

    async def wait(self, revision: int) -> None:
        """Return when every endpoint of the node enforces `revision`."""
        await self._ask("policy", "wait", str(revision))

    async def addresses(self) -> list[Document]:
        """Return `GET /v1/ip`."""
        return await self._ask("ip", "list")

    async def identity(self, number: int) -> Document:
        """Return `GET /v1/identity/{number}`."""
        return await self._ask("identity", "get", str(number))

    async def events(self, last: int) -> list[Document]:
        """Return up to `last` of the newest events that the agent keeps, oldest first."""
        out = await self._run("monitor", "--last", str(last))
        return [json.loads(line) for line in out.splitlines() if line.strip()]

    async def _ask(self, *words: str) -> Any:
        return json.loads(await self._run(*words))

    async def _run(self, *words: str) -> str:
        code, out, err = await run_program([*self._execute, "--", "fimbria", *words, "-o", "json"])
        if code:
            raise ConnectivityError(f"agent of {self.node}: {err.strip() or out.strip()}")
        return out
