"""What a new agent finds of the endpoints that were there before it, and what it makes of that.

state files ─► devices that are there ─► endpoints      files lost ─► rebuilt from the kernel
device without endpoint ─► removed, or closed if it may be that of a lost one
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import msgspec

from fimbria.agent import rebuild, statefiles, wiring
from fimbria.agent.endpoints import Endpoint, State
from fimbria.agent.ipam import AddressTaken
from fimbria.agent.lifecycle import INIT_IDENTITY, INIT_LABELS
from fimbria.compile.delta import LXC
from fimbria.kernel.errors import BpfError, is_not_found

if TYPE_CHECKING:
    from pathlib import Path

    from fimbria.agent.cluster import Cluster
    from fimbria.agent.endpoints import Endpoints
    from fimbria.agent.node import Node
    from fimbria.agent.statefiles import EndpointFile
    from fimbria.kernel.netrows import Link

_OUR_DEVICE = re.compile(rf"{wiring.PREFIX}[0-9a-f]{{{wiring.HASH_DIGITS}}}")

log = logging.getLogger(__name__)


class Restore:
    """Takes up the endpoints of the agent before this one.

    `unsaved` gets the numbers of those whose state file must be written anew.
    """

    def __init__(
        self,
        node: Node,
        endpoints: Endpoints,
        cluster: Cluster,
        unsaved: set[int],
        state_dir: Path,
    ) -> None:
        self.closed: list[tuple[str, int]] = []
        """Devices of endpoints that are lost: they have programs, which let nothing through."""
        self._node = node
        self._endpoints = endpoints
        self._cluster = cluster
        self._unsaved = unsaved
        self._state_dir = state_dir

    def take_up(self) -> list[EndpointFile]:
        """Take up the endpoints that were there before us; return them.

        An endpoint whose device is gone (the pod, or the machine, was stopped meanwhile) is
        forgotten; a device of ours that no endpoint has is removed, unless it may be one of an
        endpoint whose state was damaged.
        """
        links = {link.name: link for link in self._node.net.links().values()}
        kept: list[EndpointFile] = []
        for file in statefiles.endpoints(self._state_dir):
            link = links.get(file.ifname)
            if link is None or link.ifindex != file.ifindex:
                log.info("endpoint %d: its device %s is gone", file.id, file.ifname)
                statefiles.remove_endpoint(self._state_dir, file.id)
                continue
            kept.append(file)
            self._endpoints.add(Endpoint(file, State.RESTORING))
            self._cluster.set_endpoint(file)
        kept += self._rebuild({link.ifindex: link for link in links.values()})
        names = {file.ifname for file in kept}
        damaged = statefiles.lost_endpoints(self._state_dir)
        for name, link in links.items():
            if not _OUR_DEVICE.fullmatch(name) or name in names:
                continue
            if damaged:
                self.closed.append((name, link.ifindex))
                log.error("device %s: kept, a malformed state file may be its; see above", name)
            else:
                log.info("device %s: left by an ADD that was not finished; removed", name)
                self._node.net.link_delete(name)
        return kept

    def _rebuild(self, links: dict[int, Link]) -> list[EndpointFile]:
        """Take up endpoints whose state files are lost, as far as the kernel knows them."""
        lost = statefiles.lost_endpoints(self._state_dir)
        try:
            rows = self._node.maps.map(LXC).items() if lost else {}
        except BpfError as error:
            if not is_not_found(error):
                raise
            rows = {}  # the pins are lost as well
        files = [file for number in lost if (file := rebuild.endpoint(number, links, rows))]
        for file in files:
            endpoint = Endpoint(file, State.RESTORING)
            self._endpoints.add(endpoint)
            self._unsaved.add(file.id)
            log.warning(
                "endpoint %d: rebuilt from what the kernel knows: %s", file.id, endpoint.name
            )
        return files

    def settle(self) -> None:
        """Give rebuilt endpoints their identities' labels, which are known by now.

        Without, policy would not select them: such an endpoint stays closed, and is given up.
        """
        for endpoint in list(self._endpoints):
            file = endpoint.file
            if file.labels:
                continue
            labels = self._cluster.state.identities.get(file.identity)
            if file.identity == INIT_IDENTITY:
                labels = INIT_LABELS
            if not labels:
                log.error("endpoint %d: nobody knows its identity %d: delete its pod (%s)",
                          file.id, file.identity, endpoint.name)  # fmt: skip
                self._endpoints.remove(endpoint)
                continue
            endpoint.file = msgspec.structs.replace(file, labels=tuple(labels))
            self._cluster.set_endpoint(endpoint.file)

    def claim_addresses(self) -> None:
        """Mark the restored endpoints' addresses as in use, once the pod CIDRs are known."""
        for endpoint in self._endpoints:
            owner = f"{endpoint.file.container_id}:{endpoint.file.container_ifname}"
            for address in filter(None, (endpoint.file.ipv4, endpoint.file.ipv6)):
                try:
                    self._node.ipam.claim(address, owner)
                except AddressTaken as error:
                    log.warning("endpoint %d: %s", endpoint.id, error)
