"""A lab as the connectivity test sees it: agents on sockets, pods as network namespaces."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any

from fimbria.cli.client import AgentClient
from fimbria.cli.labs import lab_status
from fimbria.connectivity.cluster import LabCluster
from fimbria.sources.kube import KubeClient

if TYPE_CHECKING:
    from fimbria.cli.documents import Document
    from fimbria.connectivity.cluster import Cluster

WAIT = 30.0


class SocketAgent:
    """A node's agent, asked on its socket without blocking the loop."""

    def __init__(self, node: str, socket: str) -> None:
        self.node = node
        self._client = AgentClient(socket)

    async def policies(self) -> Document:
        """Return `GET /v1/policy`."""
        return await asyncio.to_thread(self._client.get, "/v1/policy")

    async def wait(self, revision: int) -> None:
        """Return when every endpoint of the node enforces `revision`."""
        query = {"revision": revision}
        await asyncio.to_thread(self._client.wait, "/v1/policy/wait", query, WAIT)

    async def addresses(self) -> list[Document]:
        """Return `GET /v1/ip`."""
        return await asyncio.to_thread(self._client.get, "/v1/ip")

    async def identity(self, number: int) -> Document:
        """Return `GET /v1/identity/{number}`."""
        return await asyncio.to_thread(self._client.get, f"/v1/identity/{number}")

    async def events(self, last: int) -> list[Document]:
        """Return up to `last` of the newest events that the agent keeps, oldest first."""
        return await asyncio.to_thread(self._events, last)

    def _events(self, last: int) -> list[Any]:
        return list(self._client.lines("/v1/monitor", {"last": last, "follow": 0}))


def open_lab(name: str) -> LabCluster:
    """Return the lab called `name` as a cluster; CliError if there is none."""
    status = lab_status(name.partition("/")[0])
    agents = [SocketAgent(node["name"], node["socket"]) for node in status["nodes"]]
    api = KubeClient.from_kubeconfig(status["kubeconfig"])
    return LabCluster(str(status["name"]), api, agents, sys.executable)


def learn_paths(cluster: Cluster, name: str) -> None:
    """Read where the network namespaces of the lab's pods and nodes are."""
    assert isinstance(cluster, LabCluster)
    status = lab_status(name.partition("/")[0])
    cluster.paths = {node["name"]: node["netns"] for node in status["nodes"]} | {
        f"{pod['namespace']}/{pod['name']}": pod["netns"] for pod in status["pods"]
    }
