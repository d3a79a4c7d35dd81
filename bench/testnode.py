"""A node without packets on wires: the datapath's programs and maps, fed by BPF_PROG_TEST_RUN.

Packet tests and the datapath's benchmark stand on it. `Node` makes a network namespace with the
devices a node has (veth pairs; a test run never sends), loads the programs on maps of their own,
and fills the maps the way the agent would for two pods, the node itself and one other node. `run()`
gives a packet to a program and returns what came of it.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING

from fimbria.datapath import abi
from fimbria.kernel import objects_dir
from fimbria.kernel.bpf import MapType, test_run
from fimbria.kernel.loader import LoadedObject, load_object
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.netns import run_in, unshare
from fimbria.kernel.ringbuf import RingBuffer

if TYPE_CHECKING:
    from collections.abc import Mapping

NEXT, SHOT, REDIRECT = 0xFFFFFFFF, 2, 7
INGRESS, EGRESS = abi.PolicyFlags.INGRESS, abi.PolicyFlags.EGRESS
CTX_SIZE = 192
CT_TABLES = ("cilium_ct", "cilium_ct_new")
_MARK, _CB, _IFINDEX = 8, 48, 40  # offsets in struct __sk_buff

PROGRAMS = (
    *("from_container", "to_container", "from_netdev", "to_netdev"),
    *("from_host", "to_host", "from_overlay", "to_overlay"),
)
HOPS = ("tests/from_container_hop", "tests/from_overlay_hop")


def mac(text: str) -> bytes:
    """Six bytes of a MAC address."""
    return bytes.fromhex(text.replace(":", ""))


def mapped(address: str) -> bytes:
    """16 bytes of struct addr: IPv4 is v4-mapped."""
    packed = ip_address(address).packed
    return packed if len(packed) == 16 else bytes(10) + b"\xff\xff" + packed


def family(address: str) -> int:
    return abi.Family.IPV4 if ip_address(address).version == 4 else abi.Family.IPV6


def wire(address: str) -> bytes:
    """16 bytes as cilium_lxc and cilium_ipcache hold an address: IPv4 in the first four."""
    return ip_address(address).packed.ljust(16, b"\0")


def prefix_key(prefix: str) -> bytes:
    """A key of cilium_ipcache and cilium_cidr: an address or a prefix."""
    net = ip_network(prefix)
    address = str(net.network_address)
    key = abi.IpcacheKey(32 + net.prefixlen, family=family(address), ip=wire(address))
    return key.pack()


@dataclass(frozen=True)
class Pod:
    """A pod of the node: both addresses, identity, endpoint id, host-side device."""

    name: str
    ip4: str
    ip6: str
    identity: int
    lxc_id: int
    device: str
    mac: str
    node_mac: str


@dataclass(frozen=True)
class Outcome:
    """What a program made of a packet: its return value, the packet, the context, the events."""

    verdict: int
    data: bytes
    ctx: bytes
    events: list[abi.Event]

    @property
    def drop(self) -> int | None:
        """Reason of the drop event, if there is one."""
        drops = [e.subtype for e in self.events if e.type == abi.EventType.DROP]
        return drops[0] if drops else None

    def cb(self, index: int) -> int:
        return struct.unpack_from("=I", self.ctx, _CB + 4 * index)[0]


A = Pod("a", "10.0.1.10", "fd00:1::10", 1001, 10, "lxc_a", "02:00:00:00:0a:01", "02:00:00:00:0a:02")
B = Pod("b", "10.0.1.11", "fd00:1::11", 1002, 11, "lxc_b", "02:00:00:00:0b:01", "02:00:00:00:0b:02")
REMOTE4, REMOTE6, REMOTE_ID = "10.0.2.20", "fd00:2::20", 1003
ROUTER4, ROUTER6 = "10.0.1.1", "fd00:1::1"
NODE4, NODE6, PEER4, PEER6 = "192.168.77.1", "fd77::1", "192.168.77.2", "fd77::2"
WORLD4, WORLD6 = "198.51.100.7", "2001:db8::7"


@dataclass(frozen=True)
class Addresses:
    """One family's addresses as pod A sees them."""

    own: str
    local: str  # pod B, on the same node
    remote: str  # a pod of the other node
    world: str
    host: str  # the node itself


V4 = Addresses(A.ip4, B.ip4, REMOTE4, WORLD4, NODE4)
V6 = Addresses(A.ip6, B.ip6, REMOTE6, WORLD6, NODE6)

_SETUP = f"""
link set lo up
link add {A.device} type veth peer name peer_a
link add {B.device} type veth peer name peer_b
link add eth0 type veth peer name peer_e
link add cilium_host type veth peer name cilium_net
link add cilium_vxlan type veth peer name peer_v
link set {A.device} up
link set {B.device} up
link set eth0 up
link set peer_e up
link set cilium_host up
link set cilium_vxlan up
addr add {NODE4}/24 dev eth0
addr add {NODE6}/64 dev eth0 nodad
route add 10.0.2.0/24 via {PEER4}
route add fd00:2::/64 via {PEER6}
neigh add {PEER4} lladdr 02:00:00:00:ee:02 dev eth0
neigh add {PEER6} lladdr 02:00:00:00:ee:02 dev eth0
route add unreachable 10.0.1.0/24 metric 4096
"""
_DEVICES = (A.device, B.device, "eth0", "cilium_host", "cilium_vxlan")


def _make_devices() -> dict[str, int]:
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    subprocess.run(["ip", "-batch", "-"], input=_SETUP, text=True, check=True)
    return {name: socket.if_nametoindex(name) for name in _DEVICES}


class Node:
    """The node; close it. Objects are loaded when first used, on shared maps."""

    def __init__(
        self,
        constants: Mapping[str, int | bytes] | None = None,
        ct_size: int = 4096,
        overlay: bool = True,
        ct_new_size: int = 0,
    ) -> None:
        self.netns = unshare()
        self.ifindex = run_in(self.netns, _make_devices)
        self.constants: dict[str, int | bytes] = {
            "cfg_overlay_ifindex": self.ifindex["cilium_vxlan"],
            "cfg_router_ip4": ip_address(ROUTER4).packed,
            "cfg_router_ip6": ip_address(ROUTER6).packed,
            "cfg_hz": os.sysconf("SC_CLK_TCK"),
            **(constants or {}),
        }
        self.constants.setdefault("cfg_tunnel", int(overlay))
        self._sizes = {
            "cilium_ct": ct_size,
            "cilium_ct_new": ct_new_size or ct_size,
            "cilium_events": 1 << 20,
        }
        self.maps: dict[str, BpfMap] = {}
        self.programs: dict[str, int] = {}
        self._objects: list[LoadedObject] = []
        self._inner: list[BpfMap] = []
        self.load("from_container")
        self.ring = RingBuffer(self.maps["cilium_events"])
        self._fill()

    def load(self, name: str, *, plain: bool = False) -> LoadedObject:
        """Loads an object by its name below the build folder, on this node's maps.

        `plain` objects have none of the datapath's constants.
        """
        loaded = load_object(
            objects_dir() / f"{name}.o",
            constants={} if plain else self.constants,
            map_sizes={} if self.maps else self._sizes,
            map_fds=self.maps,
        )
        self._objects.append(loaded)
        self.programs |= {p.name: p.fd for p in loaded.programs.values()}
        for key, held in loaded.maps.items():
            if not key.startswith("."):
                self.maps.setdefault(key, held)
        return loaded

    def load_apart(self, name: str) -> LoadedObject:
        """Loads an object on this node's maps once more, for the caller to close."""
        return load_object(objects_dir() / f"{name}.o", constants=self.constants, map_fds=self.maps)

    def close(self) -> None:
        self.ring.close()
        for loaded in reversed(self._objects):
            loaded.close()
        for inner in self._inner:
            inner.close()
        os.close(self.netns)

    # -- what the agent would write --

    def _fill(self) -> None:
        self.set_revision(1)
        for pod in (A, B):
            self.add_pod(pod)
        for own in (ROUTER4, ROUTER6, NODE4, NODE6):
            self.endpoint(own, abi.EndpointInfo(flags=abi.EndpointFlags.HOST, sec_id=1))
        for address in (REMOTE4, REMOTE6):
            self.ipcache(address, REMOTE_ID, PEER4 if self.constants["cfg_tunnel"] else "0.0.0.0")
        for address in (PEER4, PEER6):
            self.ipcache(address, abi.Identity.REMOTE_NODE)
        self.maps["cilium_node_map"].put(
            abi.NodeKey(family=abi.Family.IPV4, ip=wire(PEER4)).pack(), abi.NodeInfo(id=2).pack()
        )

    def add_pod(self, pod: Pod) -> None:
        info = abi.EndpointInfo(
            ifindex=self.ifindex[pod.device],
            lxc_id=pod.lxc_id,
            mac=mac(pod.mac),
            node_mac=mac(pod.node_mac),
            sec_id=pod.identity,
        )
        for address in (pod.ip4, pod.ip6):
            self.endpoint(address, info)
            self.ipcache(address, pod.identity)
        self.maps["cilium_devices"].put(
            abi.DeviceKey(ifindex=self.ifindex[pod.device]).pack(),
            abi.DeviceInfo(
                ip4=mapped(pod.ip4),
                ip6=mapped(pod.ip6),
                sec_id=pod.identity,
                lxc_id=pod.lxc_id,
                mac=mac(pod.mac),
                node_mac=mac(pod.node_mac),
            ).pack(),
        )

    def endpoint(self, address: str, info: abi.EndpointInfo) -> None:
        key = abi.EndpointKey(ip=wire(address), family=family(address))
        self.maps["cilium_lxc"].put(key.pack(), info.pack())

    def ipcache(self, prefix: str, identity: int, tunnel: str = "0.0.0.0") -> None:
        """Says who has an address, or the addresses of a prefix, and what tunnel leads there."""
        endpoint = int.from_bytes(ip_address(tunnel).packed, "big")
        info = abi.IpcacheInfo(sec_identity=identity, tunnel_endpoint=endpoint)
        self.maps["cilium_ipcache"].put(prefix_key(prefix), info.pack())

    def cidr(self, prefix: str, identity: int) -> None:
        """Says which identity rules by CIDR see of addresses in the cluster."""
        self.maps["cilium_cidr"].put(prefix_key(prefix), abi.CidrInfo(identity).pack())

    def set_revision(self, revision: int) -> None:
        self.maps["cilium_runtime_config"].put(bytes(4), abi.Runtime(revision=revision).pack())

    def policy(
        self,
        policy_id: int,
        flags: int,
        entries: Mapping[abi.PolicyKey, abi.PolicyEntry] | None = None,
        *,
        next_id: int = 0,
    ) -> None:
        """Fills a policy id: what it enforces, its entries, and the tier that follows."""
        entries = entries or {}
        inner = BpfMap.create(
            MapType.HASH, key_size=8, value_size=16, max_entries=len(entries) or 1, name="policy"
        )
        self._inner.append(inner)
        shapes = {True: [0, 0], False: [0, 0]}
        for key, entry in entries.items():
            inner.put(key.pack(), entry.pack())
            egress = key.shape >> 7
            shapes[key.identity != 0][egress] |= 1 << (key.shape & 0x7F)
        self.maps["cilium_policy"].put_maps({struct.pack("=I", policy_id): inner})
        info = abi.PolicyInfo(
            flags=flags,
            peer_shapes=(shapes[True][0], shapes[True][1]),
            any_shapes=(shapes[False][0], shapes[False][1]),
            next_id=next_id,
        )
        self.maps["cilium_policy_info"].put(struct.pack("=I", policy_id), info.pack())

    def assign(self, pod: Pod, policy_id: int, flags: int = 0, **fields: int) -> None:
        """Points an endpoint at a policy; `fields` are further ones of struct policy_ref."""
        ref = abi.PolicyRef(policy_id=policy_id, flags=flags, **fields)
        self.maps["cilium_policy_ref"].put(struct.pack("=I", pod.lxc_id), ref.pack())

    # -- packets --

    def context(self, device: str, vni: int = 0, outer: str = "0.0.0.0", mark: int = 0) -> bytes:
        """A struct __sk_buff for a packet on that device."""
        ctx = bytearray(CTX_SIZE)
        struct.pack_into("=I", ctx, _MARK, mark)
        struct.pack_into("=I", ctx, _IFINDEX, self.ifindex[device])
        struct.pack_into("=I4s", ctx, _CB, vni, ip_address(outer).packed)
        return bytes(ctx)

    def run(
        self,
        program: str,
        packet: bytes,
        device: str,
        *,
        vni: int = 0,
        outer: str = "0.0.0.0",
        mark: int = 0,
    ) -> Outcome:
        """Gives a packet to a program; the events are those that it caused."""
        if program not in self.programs:
            self.load(f"tests/{program}" if program.endswith("_hop") else program)
        ctx = self.context(device, vni, outer, mark)
        fd = self.programs[program]
        self.ring.drain()
        done = run_in(self.netns, lambda: test_run(fd, bytes(packet).ljust(14, b"\0"), ctx=ctx))
        events = [abi.Event.unpack(row.tobytes()) for row in self.ring.drain()]
        return Outcome(done.retval, done.data, done.ctx, events)

    def entries(self, *tables: str) -> dict[abi.CtKey, abi.CtEntry]:
        """The connections, of both conntrack tables unless some are named."""
        rows = [self.maps[name].items() for name in tables or CT_TABLES]
        return {
            abi.CtKey.unpack(k): abi.CtEntry.unpack(v) for table in rows for k, v in table.items()
        }

    def metric(self, reason: int, direction: int) -> int:
        """Packets counted under a reason and direction, all CPUs together."""
        key = struct.pack("=I", reason | direction << 8)
        values = self.maps["cilium_metrics"].get_percpu(key) or []
        return sum(abi.MetricsValue.unpack(value).count for value in values)
