"""What others do to the node under the agent: noticed, put right where it can be, and told.

    devices change (netlink), or time passes ─► look ─► BPF file system, devices, programs
                                                 └─ something is wrong ─► bring up, apply again

Putting right is bringing up once more: it leaves alone what is as it should be. A pod's device that
is gone cannot be made again from outside, because its other end went with it: that is reported.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fimbria.agent.devices import HOST, HOST_PEER, OVERLAY
from fimbria.agent.endpoints import State
from fimbria.agent.holdings import Holdings
from fimbria.kernel import attach, bpffs
from fimbria.kernel.attach import Side
from fimbria.kernel.errors import BpfError, is_gone
from fimbria.kernel.netrows import Link
from fimbria.kernel.netwatch import Overrun, Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fimbria.agent.endpoints import Endpoint, Endpoints
    from fimbria.agent.node import Node
    from fimbria.agent.programs import Hook
    from fimbria.kernel.netwatch import Changed

INTERVAL = 10.0
CONFIRM = 0.1
OURS = (HOST, HOST_PEER, OVERLAY)

log = logging.getLogger(__name__)


class Guard:
    """Looks after the node. `repair` brings it up again with the pods' (device, ifindex)."""

    def __init__(
        self,
        node: Node,
        endpoints: Endpoints,
        repair: Callable[[list[tuple[str, int]]], Awaitable[None]],
    ) -> None:
        self.trigger: Callable[[], None] = lambda: None
        self.wrong: list[str] = []
        """What is wrong and could not be put right yet."""
        self.repaired = ""
        """What was put right last, "" if nothing ever was."""
        self.cut_off: list[str] = []
        """Pods whose device is gone, as `status` names them."""
        self.foreign: list[str] = []
        """Programs of others on our hooks."""
        self._node = node
        self._endpoints = endpoints
        self._repair = repair
        self._holdings = Holdings(node.pins)

    async def listen(self) -> None:
        """Look whenever a device that matters changes; until cancelled."""
        with Watch() as watch:
            async for change in watch:
                if isinstance(change, Overrun) or self._matters(change):
                    self.trigger()

    def _matters(self, change: Changed) -> bool:
        devices = self._node.devices
        if devices is None or not isinstance(change.row, Link):
            return False
        known = {devices.host, devices.host_peer, devices.overlay, devices.direct.ifindex}
        known |= {device.ifindex for device in devices.devices}
        return change.row.ifindex in known or change.row.name in OURS

    async def look(self) -> None:
        """Look once, and put right what is wrong; raises what that fails with."""
        remounted = await asyncio.to_thread(self._remount)
        found = await self._found()
        if found and not remounted:
            # A pod that comes or goes at this moment is not as it should be for an instant.
            await asyncio.sleep(CONFIRM)
            again = await self._found()
            found = [text for text in found if text in again]
        if remounted:
            found.insert(0, f"{self._node.config.bpf_root} was unmounted")
        self.wrong = found
        if found:
            log.error("%s: putting it right", "; ".join(found))
            await asyncio.to_thread(self._name_and_raise)
            await self._repair(self._pods(await asyncio.to_thread(self._node.net.links)))
            await asyncio.to_thread(self._holdings.renew)
            self.repaired, self.wrong = "; ".join(found), []
            log.warning("put right: %s", self.repaired)
        await asyncio.to_thread(self._holdings.refresh)
        pods = self._pods(await asyncio.to_thread(self._node.net.links))
        self._tell_foreign(await asyncio.to_thread(self._foreign, pods))

    async def _found(self) -> list[str]:
        links = await asyncio.to_thread(self._node.net.links)
        return await asyncio.to_thread(self._faults, links, self._pods(links))

    def close(self) -> None:
        """Give back the descriptors."""
        self._holdings.close()

    def _remount(self) -> bool:
        root = Path(self._node.config.bpf_root)
        if not bpffs.require(root):
            return False
        count = self._holdings.restore()
        log.error("%s was unmounted: mounted again, %d pins made again", root, count)
        return True

    def _pods(self, links: dict[int, Link]) -> list[tuple[str, int]]:
        """Return the pods' devices that are there, and note whose are not."""
        there: list[tuple[str, int]] = []
        gone: list[Endpoint] = []
        for endpoint in self._endpoints:
            file = endpoint.file
            if endpoint.state in (State.DISCONNECTING, State.DISCONNECTED):
                continue
            if file.ifindex in links:
                there.append((file.ifname, file.ifindex))
            else:
                gone.append(endpoint)
        told = [f"{one.name} ({one.file.ifname})" for one in gone]
        for text in told:
            if text not in self.cut_off:
                log.error("the device of pod %s is gone: delete the pod", text)
        self.cut_off = told
        return there

    def _ours(self) -> list[tuple[str, int]]:
        devices = self._node.devices
        assert devices is not None
        ours = [(HOST, devices.host), (HOST_PEER, devices.host_peer)]
        return ours + [(OVERLAY, devices.overlay)] * bool(devices.overlay)

    def _faults(self, links: dict[int, Link], pods: list[tuple[str, int]]) -> list[str]:
        """Return what is not as it was brought up, in words; in a thread."""
        node = self._node
        devices = node.devices
        assert devices is not None
        others = {(d.name, d.ifindex) for d in (devices.direct, *devices.devices)}
        found: list[str] = []
        for name, ifindex in (*self._ours(), *pods, *sorted(others)):
            link = links.get(ifindex)
            if link is None:
                found.append(f"{name} was deleted")
            elif link.name != name:
                found.append(f"{name} was renamed to {link.name}")
            elif not link.up and (name, ifindex) not in others:
                found.append(f"{name} was set down")
        if not found:
            found += [
                f"{hook.device} had lost its program {hook.program}"
                for hook in node.hooks(pods)
                if not self._attached(hook)
            ]
        return found

    def _name_and_raise(self) -> None:
        """Give devices of ours and of pods their names back, and set them up; in a thread."""
        net = self._node.net
        links = net.links()
        for name, ifindex in (*self._ours(), *self._pods(links)):
            link = links.get(ifindex)
            if link is not None and link.name != name:
                net.link_set(ifindex, name=name)
            if link is not None and not link.up:
                net.link_set(ifindex, up=True)

    def _attached(self, hook: Hook) -> bool:
        found = attach.inspect(self._node.pins.links / hook.pin)
        return found is not None and (found.ifindex, found.side) == (hook.ifindex, hook.side)

    def _foreign(self, pods: list[tuple[str, int]]) -> list[str]:
        """Return others' programs beside ours, with their places in the order; in a thread."""
        found: list[str] = []
        for hook in self._node.hooks(pods):
            ours = attach.inspect(self._node.pins.links / hook.pin)
            try:
                names = attach.names(hook.ifindex, hook.side)
            except BpfError as error:
                if not is_gone(error):
                    raise
                continue
            filters = self._node.net.filters(hook.ifindex, ingress=hook.side is Side.INGRESS)
            found += [f"tc filter {one} after {hook.program} on {hook.device}" for one in filters]
            ids = [number for number, _ in names]
            if ours is None or ours.prog_id not in ids:
                continue
            place = ids.index(ours.prog_id)
            for index, (_, name) in enumerate(names):
                if index != place:
                    side = "before" if index < place else "after"
                    found.append(f"{name} {side} {hook.program} on {hook.device}")
        return found

    def _tell_foreign(self, found: list[str]) -> None:
        for text in found:
            if text not in self.foreign:
                log.warning("another program is on our hook: %s", text)
        self.foreign = found
