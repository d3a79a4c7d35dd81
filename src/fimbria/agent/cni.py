"""The CNI commands: what each of them means here (specification 1.1.0, section 2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fimbria.agent import cniresult, wiring
from fimbria.agent.cniresult import CHECK_FAILED, NOT_AVAILABLE, UNKNOWN_CONTAINER, CniError
from fimbria.agent.endpoints import State

if TYPE_CHECKING:
    from fimbria.agent.cniresult import Request
    from fimbria.agent.endpoints import Endpoints
    from fimbria.agent.lifecycle import Lifecycle
    from fimbria.agent.node import Node


class Cni:
    """Answers the plugin."""

    def __init__(self, node: Node, endpoints: Endpoints, lifecycle: Lifecycle) -> None:
        self._node = node
        self._endpoints = endpoints
        self._lifecycle = lifecycle

    async def handle(self, request: Request) -> dict[str, Any]:
        """Carry out one command; returns what the runtime gets, raises CniError."""
        match request.command:
            case "ADD":
                file = await self._lifecycle.add(request)
                return cniresult.result(file, request.netns, self._node.gateway, request.version)
            case "DEL":
                await self._lifecycle.wait_ready()
                await self._lifecycle.remove(request.container_id, request.ifname)
            case "CHECK":
                await self._check(request)
            case "GC":
                await self._collect(request)
            case _:
                self._status()
        return {}

    async def _check(self, request: Request) -> None:
        await self._lifecycle.wait_ready()
        endpoint = self._endpoints.of_container(request.container_id, request.ifname)
        if endpoint is None:
            raise CniError(
                UNKNOWN_CONTAINER,
                f"container {request.container_id} has no {request.ifname} here; add it again",
            )
        file = endpoint.file
        if endpoint.state in (State.NOT_READY, State.DISCONNECTING):
            raise CniError(CHECK_FAILED, f"endpoint {file.id} is {endpoint.state}")
        if not self._node.attached(file.ifname):
            raise CniError(CHECK_FAILED, f"{file.ifname} has no program; add the container again")
        try:
            await asyncio.to_thread(
                wiring.check,
                request.netns,
                request.ifname,
                file.ipv4,
                file.ipv6,
                self._node.gateway,
            )
        except wiring.NoNetns as error:
            raise CniError(UNKNOWN_CONTAINER, str(error)) from error
        except wiring.WiringError as error:
            raise CniError(CHECK_FAILED, f"{error}; add the container again") from error

    async def _collect(self, request: Request) -> None:
        await self._lifecycle.wait_ready()
        valid = cniresult.valid_attachments(request.config)
        for endpoint in list(self._endpoints):
            key = (endpoint.file.container_id, endpoint.file.container_ifname)
            if key not in valid:
                await self._lifecycle.remove(*key)

    def _status(self) -> None:
        if not self._lifecycle.ready.is_set():
            raise CniError(
                NOT_AVAILABLE, "the agent is starting: it waits for the API or for its pod CIDR"
            )
