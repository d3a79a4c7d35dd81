"""Endpoints from birth to death: ADD, DEL, and labels that change in between.

Order is what matters here. Coming up: address and cable, then at once state file, program and maps,
policy before the row that lets packets in. Going down: the device first, the address last. Whatever
moment the agent is killed at, the state files and the pinned maps tell the next one what to finish.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast
from weakref import WeakValueDictionary

import msgspec

from fimbria.agent import rebuild, statefiles, wiring
from fimbria.agent.cniresult import (
    IO_FAILURE,
    NOT_AVAILABLE,
    TRY_AGAIN,
    UNKNOWN_CONTAINER,
    CniError,
)
from fimbria.agent.endpoints import Endpoint, NoEndpointId, State
from fimbria.agent.identities import NoIdentity
from fimbria.agent.ipam import PoolExhausted
from fimbria.agent.statefiles import EndpointFile, mac_text
from fimbria.kernel.errors import BpfError, NetlinkError
from fimbria.sources.errors import KubeError, KubeUnreachable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fimbria.agent.apply import Applier
    from fimbria.agent.cluster import Cluster
    from fimbria.agent.cniresult import Request
    from fimbria.agent.convert import PodView
    from fimbria.agent.endpoints import Endpoints
    from fimbria.agent.identities import Identities
    from fimbria.agent.node import Node

READY_PATIENCE = 40.0
POD_PATIENCE = 10.0
INIT_IDENTITY = 5
INIT_LABELS = ("reserved:init",)

log = logging.getLogger(__name__)


class Lifecycle:
    """Creates, relabels and removes the node's endpoints.

    `changed` is called with an endpoint whose published object may need renewing; `gone` with the
    addresses of one that is no more.
    """

    def __init__(
        self,
        node: Node,
        endpoints: Endpoints,
        cluster: Cluster,
        identities: Identities,
        applier: Applier,
        state_dir: Path,
    ) -> None:
        self.ready = asyncio.Event()
        self.changed: Callable[[Endpoint], None] = lambda endpoint: None
        self.gone: Callable[[EndpointFile], None] = lambda file: None
        self._node = node
        self._endpoints = endpoints
        self._cluster = cluster
        self._identities = identities
        self._applier = applier
        self._state_dir = state_dir
        self.unsaved: set[int] = set()
        """Endpoints whose state file is older than they are."""
        # Each lives as long as somebody holds or awaits it.
        self._locks: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def add(self, request: Request) -> EndpointFile:
        """Connect a container; raises CniError. An endpoint it has already is made anew."""
        await self.wait_ready()
        key = (request.container_id, request.ifname)
        lock = self._locks.setdefault(key, asyncio.Lock())
        async with lock:
            old = self._endpoints.of_container(*key)
            if old is not None:
                await self._remove(old)
            return await self._add(request)

    async def _add(self, request: Request) -> EndpointFile:
        owner = f"{request.container_id}:{request.ifname}"
        node = self._node
        try:
            lease = node.ipam.allocate(owner)
        except PoolExhausted as error:
            raise CniError(
                TRY_AGAIN, f"{error}; delete pods, or give the node another pod CIDR"
            ) from error
        ipv4, ipv6 = str(lease.ipv4 or ""), str(lease.ipv6 or "")
        number = 0
        try:
            number = self._endpoints.reserve_id()
            cable, pod = await self._cable_and_pod(request, ipv4, ipv6)
            identity = await self._identity(pod)
            file = EndpointFile(
                id=number,
                container_id=request.container_id,
                container_ifname=request.ifname,
                namespace=request.namespace,
                pod=request.pod,
                pod_uid=pod.uid if pod else request.pod_uid,
                netns=request.netns,
                ifname=cable.ifname,
                ifindex=cable.ifindex,
                mac=mac_text(cable.mac),
                node_mac=mac_text(cable.node_mac),
                ipv4=ipv4,
                ipv6=ipv6,
                identity=identity,
                labels=pod.labels if pod else INIT_LABELS,
                named_ports=pod.named_ports if pod else (),
            )
            await self._start(file)
        except BaseException as error:
            await asyncio.shield(self._undo(request, number, ipv4, ipv6))
            raise _cni_error(error) from error
        return file

    async def _start(self, file: EndpointFile) -> None:
        """Remember it, fill its maps and attach its program, all at once.

        The order does not matter for packets: the program drops whatever comes by a device that
        cilium_devices does not know, and the plan writes that row after the policy.
        """
        endpoint = Endpoint(file, State.WAITING_TO_REGENERATE)
        self._endpoints.add(endpoint)
        self._cluster.set_endpoint(file)
        endpoint.to(State.REGENERATING, "created")
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(statefiles.write_endpoint, self._state_dir, file))
            group.create_task(asyncio.to_thread(self._node.attach_pod, file.ifname, file.ifindex))
            group.create_task(self._applier.flush())
        if endpoint.state is State.REGENERATING:
            endpoint.to(State.READY, "connected")
        self.changed(endpoint)
        log.info("endpoint %d: %s connected, %s %s identity %d",
                 file.id, endpoint.name, file.ipv4, file.ipv6, file.identity)  # fmt: skip

    async def _cable_and_pod(
        self, request: Request, ipv4: str, ipv6: str
    ) -> tuple[wiring.Cable, PodView | None]:
        """Make the cable while the pod's object may still be on its way."""
        connecting = asyncio.to_thread(
            self._node.connect_pod,
            request.netns,
            request.container_id,
            request.ifname,
            ipv4,
            ipv6,
            rebuild.alias(request.container_id, request.ifname, request.namespace, request.pod),
        )
        cable, pod = await asyncio.gather(connecting, self._pod(request), return_exceptions=True)
        for outcome in (cable, pod):
            if isinstance(outcome, BaseException):
                raise outcome
        assert isinstance(cable, wiring.Cable)
        assert not isinstance(pod, BaseException)
        return cable, pod

    async def _pod(self, request: Request) -> PodView | None:
        """Return the request's pod; None for a container that is no pod."""
        if not request.pod or not request.namespace:
            return None  # podman names a pod, but none of Kubernetes
        try:
            async with asyncio.timeout(POD_PATIENCE):
                return await self._cluster.pods.wait(
                    request.namespace, request.pod, request.pod_uid
                )
        except TimeoutError:
            raise CniError(
                TRY_AGAIN,
                f"pod {request.namespace}/{request.pod} is not known to the API, or its "
                "namespace is not: see that the agent reaches the API (fimbria status)",
            ) from None

    async def _identity(self, pod: PodView | None) -> int:
        if pod is None:
            return INIT_IDENTITY
        return await self._identities.resolve(pod.labels)

    async def _undo(self, request: Request, number: int, ipv4: str, ipv6: str) -> None:
        """Take back what a failed ADD did."""
        endpoint = self._endpoints.of_container(request.container_id, request.ifname)
        if endpoint is not None:
            await self._remove(endpoint)
            return
        name = wiring.host_name(request.container_id, request.ifname)
        await asyncio.to_thread(self._node.remove_pod, name)
        if number:
            await asyncio.to_thread(statefiles.remove_endpoint, self._state_dir, number)
            self._endpoints.unreserve(number)
        for address in filter(None, (ipv4, ipv6)):
            self._node.ipam.release(address)

    async def remove(self, container_id: str, ifname: str) -> None:
        """Disconnect a container's interface, all of them if `ifname` is ""; none is no error.

        A runtime that gave ADD up calls DEL while we may still be at it: the end waits for it.
        """
        keys = {(container_id, ifname)}
        if not ifname:
            ours = ((e.file.container_id, e.file.container_ifname) for e in self._endpoints)
            keys = {key for key in (*self._locks, *ours) if key[0] == container_id}
        for key in keys:
            lock = self._locks.setdefault(key, asyncio.Lock())
            async with lock:
                endpoint = self._endpoints.of_container(*key)
                if endpoint is not None:
                    await self._remove(endpoint)
                elif self._node.ready:
                    # An ADD that the agent did not live to finish leaves its device behind.
                    await asyncio.to_thread(self._node.remove_pod, wiring.host_name(*key))

    async def _remove(self, endpoint: Endpoint) -> None:
        file = endpoint.file
        endpoint.to(State.DISCONNECTING, "deleted")
        await asyncio.to_thread(self._node.remove_pod, file.ifname)
        self._cluster.remove_endpoint(file.id)
        # The maps follow; the id and the addresses are free only when nothing refers to them.
        await self._applier.flush()
        await asyncio.to_thread(statefiles.remove_endpoint, self._state_dir, file.id)
        endpoint.to(State.DISCONNECTED)
        self._endpoints.remove(endpoint)
        for address in filter(None, (file.ipv4, file.ipv6)):
            self._node.ipam.release(address)
        self.gone(file)
        log.info("endpoint %d: %s disconnected", file.id, endpoint.name)

    async def relabel(self, endpoint: Endpoint, pod: PodView) -> None:
        """Give an endpoint the identity of its pod's labels as they are now."""
        file = endpoint.file
        if endpoint.state in (State.DISCONNECTING, State.DISCONNECTED):
            return
        if (file.labels, file.named_ports) == (pod.labels, pod.named_ports) and file.identity:
            return
        identity = await self._identities.resolve(pod.labels)
        if endpoint.file is not file or self._endpoints.get(endpoint.id) is not endpoint:
            return  # removed or changed while we waited; whoever did it is right
        changed = msgspec.structs.replace(
            file, identity=identity, labels=pod.labels, named_ports=pod.named_ports, pod_uid=pod.uid
        )
        await self._change(endpoint, changed, f"identity {identity}")

    async def set_audit(self, endpoint: Endpoint, audit: bool) -> None:
        """Have an endpoint's policy reported only, or enforced; it is remembered."""
        file = endpoint.file
        if file.audit == audit or endpoint.state in (State.DISCONNECTING, State.DISCONNECTED):
            return
        changed = msgspec.structs.replace(file, audit=audit)
        word = "reported only" if audit else "enforced"
        await self._change(endpoint, changed, f"policy is {word}")

    async def _change(self, endpoint: Endpoint, file: EndpointFile, message: str) -> None:
        """Have an endpoint be as `file` says; if that cannot be saved, `save_pending` tries again.

        The datapath comes first: what holds must not depend on whether there is room on a disk.
        """
        endpoint.file = file
        self.unsaved.add(endpoint.id)
        self._cluster.set_endpoint(file)
        endpoint.log.append({"state": str(endpoint.state), "message": message})
        await self._applier.flush()
        try:
            await asyncio.to_thread(statefiles.write_endpoint, self._state_dir, endpoint.file)
        except OSError as error:
            self.unsaved.add(endpoint.id)
            log.error("endpoint %d: cannot be saved: %s", endpoint.id, error)
        else:
            self.unsaved.discard(endpoint.id)
        self.changed(endpoint)

    async def save_pending(self) -> None:
        """Remember endpoints that could not be; the controller's function. OSError."""
        for number in sorted(self.unsaved):
            endpoint = self._endpoints.get(number)
            if endpoint is not None:
                await asyncio.to_thread(statefiles.write_endpoint, self._state_dir, endpoint.file)
            self.unsaved.discard(number)

    async def wait_ready(self) -> None:
        """Wait until the node takes pods; CniError that says to try again."""
        try:
            async with asyncio.timeout(READY_PATIENCE):
                await self.ready.wait()
        except TimeoutError:
            raise CniError(
                TRY_AGAIN, "the agent is starting and waits for the API: see its log"
            ) from None


def _cni_error(error: BaseException) -> BaseException:
    """Return what a runtime should be told for an error of ours."""
    if isinstance(error, ExceptionGroup):
        return _cni_error(cast("ExceptionGroup[Exception]", error).exceptions[0])
    match error:
        case wiring.NoNetns():
            return CniError(UNKNOWN_CONTAINER, str(error))
        case wiring.WiringError():
            return CniError(IO_FAILURE, str(error))
        case NoEndpointId() | NoIdentity() | KubeError() | KubeUnreachable():
            return CniError(TRY_AGAIN, str(error))
        case OSError() if error.errno in statefiles.NO_ROOM:
            return CniError(
                TRY_AGAIN, f"the agent cannot save its state: {error}; make room in --state-dir"
            )
        case BpfError() | NetlinkError() | OSError():
            return CniError(NOT_AVAILABLE, f"the kernel refused: {error}")
        case _:
            return error
