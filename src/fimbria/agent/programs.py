"""The datapath's programs: loaded once per node, pinned, and attached to every device they serve.

A pinned program that came from the same object with the same constants is taken over as it is.
Otherwise the new one is loaded beside it and swapped in: one atomic step per device, so an upgrade
or a new configuration loses no packet.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fimbria.kernel import bpf, objects_dir
from fimbria.kernel.attach import Outcome, Side, attach, detach, remove_stale
from fimbria.kernel.loader import identity, load_object, open_current

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fimbria.agent.devices import NodeDevices
    from fimbria.sources.options import Config

log = logging.getLogger(__name__)

FROM_CONTAINER, TO_CONTAINER = "from_container", "to_container"
FROM_HOST, TO_HOST = "from_host", "to_host"
FROM_NETDEV, TO_NETDEV = "from_netdev", "to_netdev"
FROM_OVERLAY, TO_OVERLAY = "from_overlay", "to_overlay"

Constants = dict[str, "int | bytes"]


@dataclass(frozen=True)
class Hook:
    """A program on one side of a device."""

    program: str
    device: str
    ifindex: int
    side: Side

    @property
    def pin(self) -> str:
        """Return the name of its link's pin."""
        return f"{self.device}_{self.side}"


class Pins:
    """Where things are pinned below the node's BPF file system."""

    def __init__(self, root: Path) -> None:
        self.maps = root / "tc" / "globals"
        self.programs = root / "fimbria" / "progs"
        self.links = root / "fimbria" / "links"

    def make(self) -> None:
        """Make the folders; OSError if `root` is no BPF file system."""
        for folder in (self.maps, self.programs, self.links):
            folder.mkdir(parents=True, exist_ok=True)


def node_hooks(config: Config, devices: NodeDevices) -> list[Hook]:
    """Return the hooks that the configuration asks for, pods' excepted."""
    from fimbria.agent.devices import HOST, HOST_PEER, OVERLAY

    hooks = [
        Hook(FROM_HOST, HOST, devices.host, Side.EGRESS),
        Hook(TO_HOST, HOST, devices.host, Side.INGRESS),
        Hook(TO_HOST, HOST_PEER, devices.host_peer, Side.INGRESS),
    ]
    if config.routing_mode == "tunnel":
        hooks.append(Hook(FROM_OVERLAY, OVERLAY, devices.overlay, Side.INGRESS))
        hooks.append(Hook(TO_OVERLAY, OVERLAY, devices.overlay, Side.EGRESS))
    if config.routing_mode == "native" or config.enable_host_firewall:
        # With a tunnel, packets of pods come by the overlay; these would cost, and find nothing
        # but what is the node's own.
        for device in devices.devices:
            hooks.append(Hook(FROM_NETDEV, device.name, device.ifindex, Side.INGRESS))
            hooks.append(Hook(TO_NETDEV, device.name, device.ifindex, Side.EGRESS))
    return hooks


def pod_hooks(config: Config, device: str, ifindex: int) -> list[Hook]:
    """Return the hooks of one pod's host-side device."""
    hooks = [Hook(FROM_CONTAINER, device, ifindex, Side.INGRESS)]
    if config.enable_endpoint_routes:
        hooks.append(Hook(TO_CONTAINER, device, ifindex, Side.EGRESS))
    return hooks


class Programs:
    """The loaded programs of a node. Not for two processes at once on the same pins."""

    def __init__(
        self, pins: Pins, constants: Mapping[str, int | bytes], map_sizes: Mapping[str, int]
    ) -> None:
        self.pins = pins
        self.kept_sizes: dict[str, tuple[int, int]] = {}
        self._constants = dict(constants)
        self._map_sizes = dict(map_sizes)
        self._fds: dict[str, int] = {}

    def load(self, names: list[str]) -> list[str]:
        """Load what is not pinned in this form already; return the names that are new.

        Raises what the loader raises: ObjectError, AbiMismatch, IncompatibleMap, VerifierError.
        """
        fresh: list[str] = []
        for name in names:
            path = objects_dir() / f"{name}.o"
            pin = self.pins.programs / name
            current = open_current(pin, identity(path, self._constants), self.pins.maps)
            if current is not None:
                self._fds[name] = current
                continue
            loaded = load_object(
                path,
                constants=self._constants,
                map_sizes=self._map_sizes,
                pins=self.pins.maps,
                programs=[name],
            )
            self.kept_sizes.update(loaded.kept_sizes)
            self._fds[name] = os.dup(loaded.programs[name].fd)
            bpf.unpin(pin)
            bpf.pin(self._fds[name], pin)
            loaded.close()
            fresh.append(name)
        return fresh

    def attach(self, hook: Hook) -> Outcome:
        """Attach, or swap the program of, one hook. The caller is in the node's namespace."""
        pin = self.pins.links / hook.pin
        return attach(self._fds[hook.program], hook.ifindex, hook.side, pin)

    def detach_device(self, device: str) -> None:
        """Detach what we have on a device; nothing is no error."""
        for side in Side:
            detach(self.pins.links / f"{device}_{side}")

    def detach_others(self, wanted: list[Hook]) -> None:
        """Detach links of another configuration, and forget those whose device is gone.

        What a pod sends always meets a program: a device that no endpoint has any more (its state
        was damaged) would otherwise send past policy, through the stack.
        """
        for name in remove_stale(self.pins.links):
            log.info("link %s: its device is gone", name)
        keep = {hook.pin for hook in wanted}
        for entry in list(self.pins.links.iterdir()):
            from_pod = entry.name.startswith("lxc") and entry.name.endswith(f"_{Side.INGRESS}")
            if entry.name not in keep and not from_pod:
                log.info("link %s: no longer wanted", entry.name)
                detach(entry)

    def close(self) -> None:
        """Close the descriptors; everything pinned goes on."""
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()
