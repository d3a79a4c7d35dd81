"""This node's datapath: pod CIDRs, devices, programs, maps; brought up once the CIDRs are known.

Bringing up is safe at any time: devices that exist stay, programs are swapped in place, and maps
that are pinned are taken over with what is in them. Nothing here awaits; callers use a thread.
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from fimbria.agent import devices as node_devices
from fimbria.agent.constants import constants
from fimbria.agent.ipam import Ipam
from fimbria.agent.lock import take_node
from fimbria.agent.programs import (
    FROM_CONTAINER,
    TO_CONTAINER,
    Hook,
    Pins,
    Programs,
    node_hooks,
    pod_hooks,
)
from fimbria.agent.wiring import Cable, Gateway, connect
from fimbria.datapath.abi import PolicyFlags, PolicyIds, PolicyInfo, Runtime
from fimbria.kernel import bpffs, objects_dir
from fimbria.kernel.attach import Side
from fimbria.kernel.mapdefs import check
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.netlink import Net
from fimbria.kernel.store import PinnedMaps, definitions
from fimbria.sources.options import ConfigError

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Sequence

    from fimbria.agent.devices import NodeDevices
    from fimbria.kernel.clock import SystemClock
    from fimbria.sources.options import Config

log = logging.getLogger(__name__)

CT, CT_NEW, RUNTIME, POLICY, POLICY_INFO = (
    "cilium_ct", "cilium_ct_new", "cilium_runtime_config", "cilium_policy", "cilium_policy_info",
)  # fmt: skip
FIRST = (0).to_bytes(4, "little")


class Node:
    """What exists once per node. `devices` is None until `bring_up`."""

    def __init__(self, config: Config, clock: SystemClock) -> None:
        self.config = config
        self.clock = clock
        self.pins = Pins(Path(config.bpf_root))
        self.ipam = Ipam(())
        self.gateway = Gateway()
        self.devices: NodeDevices | None = None
        self.maps = PinnedMaps(self.pins.maps, {})
        self.mounted = False
        """Whether this agent had to mount the BPF file system itself."""
        self._programs: Programs | None = None
        self._local = threading.local()
        self._lock: socket.socket | None = None

    @property
    def net(self) -> Net:
        """Return the calling thread's netlink socket: one must not be used by two at once."""
        net: Net | None = getattr(self._local, "net", None)
        if net is None:
            net = self._local.net = Net()
        return net

    @property
    def programs(self) -> Programs:
        """Return the loaded programs; only after `bring_up`."""
        assert self._programs is not None
        return self._programs

    @property
    def ready(self) -> bool:
        """True once the node can take pods."""
        return self.devices is not None

    def addresses(self) -> tuple[str, str]:
        """Return the node's own IPv4 and IPv6 address towards other nodes, "" for none.

        They are those that the node was brought up with; before, the kernel is asked. Raises
        ConfigError if the devices that were asked for are not there.
        """
        if self.devices is not None:
            direct = self.devices.direct
        else:
            _, direct, _ = node_devices.find(self.net, self.config)
        return direct.address(4), direct.address(6)

    def preflight(self) -> None:
        """Find out what stands in the way before anything is touched, and lock the node.

        Mounts the BPF file system if it is not.

        Raises ConfigError for devices and BPF file system, IncompatibleMap, ObjectError, BpfError,
        AlreadyRunning.
        """
        self.addresses()
        self._make_pins()
        defined = definitions(objects_dir())
        for name, definition in defined.items():
            pin = self.pins.maps / name
            if definition.pinned and pin.exists():
                with BpfMap.open(pin) as held:
                    check(held, definition, pin)
        self._lock = take_node()
        self.maps = PinnedMaps(self.pins.maps, defined)

    def bring_up(self, pod_cidrs: Sequence[str], pods: Iterable[tuple[str, int]]) -> None:
        """Make devices, load and attach programs; `pods` are (device, ifindex) of those there are.

        After `preflight`. Raises what devices and loader raise: ConfigError, OSError, ObjectError,
        IncompatibleMap.
        """
        config = self.config
        self.ipam.extend(pod_cidrs)
        routers = {v: str(self.ipam.router(v) or "") for v in (4, 6)}
        for version, enabled in ((4, config.enable_ipv4), (6, config.enable_ipv6)):
            if enabled and not routers[version]:
                raise ConfigError(f"enable-ipv{version}", f"the node has no IPv{version} pod CIDR")
            if not enabled:
                routers[version] = ""
        devices = node_devices.prepare(self.net, config, routers[4], routers[6])
        values = constants(config, devices, routers[4], routers[6], self.clock.hz)
        sizes = {CT: config.bpf_ct_global_tcp_max, CT_NEW: config.bpf_ct_half_open_max}
        programs = Programs(self.pins, values, sizes)
        hooks = node_hooks(config, devices)
        own = {FROM_CONTAINER, TO_CONTAINER} if config.enable_endpoint_routes else {FROM_CONTAINER}
        fresh = programs.load(sorted({hook.program for hook in hooks} | own))
        log.info("programs: %s", f"loaded {', '.join(fresh)}" if fresh else "all taken over")
        self._prepare_maps()
        for name, ifindex in pods:
            hooks += pod_hooks(config, name, ifindex)
        for hook in hooks:
            programs.attach(hook)
        programs.detach_others(hooks)
        if config.routing_mode == "native":
            self.net.link_delete(node_devices.OVERLAY)
        self.gateway = Gateway(
            routers[4],
            routers[6],
            devices.device_mtu,
            devices.route_mtu,
            config.enable_endpoint_routes,
        )
        old, self._programs, self.devices = self._programs, programs, devices
        if old is not None:
            old.close()

    def hooks(self, pods: Iterable[tuple[str, int]]) -> list[Hook]:
        """Return every hook that is to have a program, with those of `pods`' devices."""
        assert self.devices is not None
        found = node_hooks(self.config, self.devices)
        for name, ifindex in pods:
            found += pod_hooks(self.config, name, ifindex)
        return found

    def connect_pod(
        self, netns: str, container_id: str, ifname: str, ipv4: str, ipv6: str, alias: str
    ) -> Cable:
        """Make a pod's cable; see `wiring.connect`."""
        return connect(self.net, netns, container_id, ifname, ipv4, ipv6, self.gateway, alias)

    def attach_pod(self, name: str, ifindex: int) -> None:
        """Attach the programs of one pod's device."""
        for hook in pod_hooks(self.config, name, ifindex):
            self.programs.attach(hook)

    def attached(self, name: str) -> bool:
        """Return whether a pod's device has its program."""
        return (self.pins.links / f"{name}_{Side.INGRESS}").exists()

    def remove_pod(self, name: str) -> None:
        """Remove a pod's device and what was attached to it; none is no error."""
        self.net.link_delete(name)
        self.programs.detach_device(name)

    def _make_pins(self) -> None:
        root = Path(self.config.bpf_root)
        try:
            if bpffs.require(root):
                self.mounted = True
                log.warning("no BPF file system was mounted on %s: mounted one", root)
            self.pins.make()
        except OSError as error:
            raise ConfigError(
                "bpf-root",
                f"{self.config.bpf_root}: {error.strerror}; mount a BPF file system there "
                f"(mount -t bpf bpf {self.config.bpf_root})",
            ) from error

    def _prepare_maps(self) -> None:
        """Give a new set of maps what must be there before any packet: a revision, a closed policy.

        Maps that are in use have both and are left alone.
        """
        runtime = self.maps.map(RUNTIME)
        value = runtime.get(FIRST)
        if value is None or Runtime.unpack(value).revision == 0:
            runtime.put(FIRST, Runtime(revision=1).pack())
        locked = PolicyIds.LOCKED.to_bytes(4, "little")
        policy = self.maps.map(POLICY)
        inner = policy.get_map(locked)
        if inner is None:
            both = PolicyInfo(flags=PolicyFlags.INGRESS | PolicyFlags.EGRESS)
            self.maps.map(POLICY_INFO).put(locked, both.pack())
            with self.maps.new_inner(POLICY, 1) as empty:
                policy.put_maps({locked: empty})
        else:
            inner.close()

    def close(self) -> None:
        """Close descriptors; devices, programs and maps go on."""
        if self._programs is not None:
            self._programs.close()
        self.maps.close()
        self.net.close()
        if self._lock is not None:
            self._lock.close()
