"""What pods leave in a node: devices, routes, pins, map elements, state files; read from outside.

`traces` of a node before an ADD and after the DEL must be equal, whatever happened in between.
`normal` says of a pod that is there what any other run of the same ADD has to give: what is given
out anew each time (numbers, addresses, MACs) is compared with the pod's state file, and left out.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.agent.statefiles import endpoints, mac_bytes
from fimbria.compile.delta import DEVICES, IPCACHE, LXC, MAPS, NODES, POLICY_REF, Desired
from fimbria.compile.ids import POLICY_FIRST, PolicyMap
from fimbria.datapath.abi import CtEntry, DeviceInfo, EndpointInfo, EndpointKey, Family, PolicyRef
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.netlink import Net
from fimbria.kernel.netns import open_netns
from fimbria.kernel.netrows import packed
from tests.property.machine import canonical

if TYPE_CHECKING:
    from tests.unit.agent.faultnode import Faults

LOCK = "agent.lock"  # holds the number of the process
COUNTED = (DEVICES, IPCACHE, LXC, NODES)


def held(world: Faults) -> Desired:
    """The maps that the agent owns, as they are pinned; routes are in `network`."""
    pins = Path(f"/proc/{world.node.pid}/root{world.dir}/bpf/tc/globals")
    maps: dict[str, dict[bytes, bytes]] = {}
    for name in MAPS:
        with BpfMap.open(pins / name) as table:
            maps[name] = {key: value for key, value in table.items().items() if any(value)}
    policies: dict[int, PolicyMap] = {}
    with (
        BpfMap.open(pins / "cilium_policy") as outer,
        BpfMap.open(pins / "cilium_policy_info") as infos,
    ):
        for key in outer.items():
            number = int.from_bytes(key, "little")
            inner = outer.get_map(key)
            if inner is not None and number >= POLICY_FIRST:
                with inner:
                    policies[number] = PolicyMap(infos.get(key) or b"", inner.items())
    return Desired(maps, policies, frozenset())


def network(fd: int) -> dict[str, list[str]]:
    """Devices, addresses and routes of a namespace; link-local ones depend on the MAC."""
    with Net(fd) as net:
        names = {number: row.name for number, row in net.links().items()} | {0: ""}
        routes = [
            f"{row.type} {row.destination} {names[row.ifindex]} {row.gateway} {row.mtu}"
            for row in net.routes()
        ]
        addresses = [f"{row.address} {names[row.ifindex]}" for row in net.addresses()]
        return {
            "devices": sorted(names.values()),
            "addresses": sorted(text for text in addresses if not text.startswith("fe80:")),
            "routes": sorted(routes),
        }


def traces(world: Faults) -> dict[str, Any]:
    """Everything that a pod may leave behind in a node."""
    maps = held(world)
    pins = Path(f"/proc/{world.node.pid}/root{world.dir}/bpf")
    fd = open_netns(Path(f"/proc/{world.node.pid}/ns/net"))
    try:
        found: dict[str, Any] = dict(network(fd))
    finally:
        os.close(fd)
    state, queue = world.dir / "state", world.dir / "deleteQueue"
    return found | {
        "maps": canonical(maps),
        "connections": orphaned(world),
        "policies": len(maps.policies),
        "pins": sorted(str(path.relative_to(pins)) for path in pins.rglob("*")),
        "files": {
            str(path.relative_to(world.dir)): path.read_bytes()
            if path.is_file() and path.name != LOCK
            else b""
            for folder in (state, queue)
            for path in folder.rglob("*")
        },
        "endpoints": [one["container-id"] for one in world.ask("GET", "/v1/endpoint")[1]],
        "in use": world.line("IPAM")["text"],
    }


def orphaned(world: Faults) -> set[int]:
    """Endpoints that are no more, and that conntrack has connections of."""
    pins = Path(f"/proc/{world.node.pid}/root{world.dir}/bpf/tc/globals")
    found: set[int] = set()
    for name in ("cilium_ct", "cilium_ct_new"):
        with BpfMap.open(pins / name) as table:
            for row in map(CtEntry.unpack, table.items().values()):
                found |= {row.src_lxc, row.dst_lxc}
    return found - {0} - {one["id"] for one in world.ask("GET", "/v1/endpoint")[1]}


def normal(world: Faults, name: str) -> dict[str, Any]:
    """A pod that is there, and all that belongs to it, without what each ADD makes anew."""
    (file,) = (file for file in endpoints(world.dir / "state") if file.container_id == name)
    folder = world.dir / "state" / str(file.id)
    maps = held(world)
    own = file.ifindex, file.id, mac_bytes(file.mac), mac_bytes(file.node_mac)
    four, six = packed(file.ipv4), packed(file.ipv6)
    rows: list[Any] = []
    for key, value in maps.maps[LXC].items():
        row, ip = EndpointInfo.unpack(value), EndpointKey.unpack(key)
        ours = ip.ip == (six if ip.family == Family.IPV6 else four.ljust(16, b"\0"))
        if ours and (row.ifindex, row.lxc_id, row.mac, row.node_mac) == own:
            rows.append((ip.family, row._replace(ifindex=0, lxc_id=0, mac=b"", node_mac=b"")))
    for key, value in maps.maps[DEVICES].items():
        info, number = DeviceInfo.unpack(value), int.from_bytes(key, "little")
        ours = (info.ip4[-4:], info.ip6) == (four, six)
        if ours and (number, info.lxc_id, info.mac, info.node_mac) == own:
            rows.append(info._replace(lxc_id=0, mac=b"", node_mac=b"", ip4=b"", ip6=b""))
    ref = PolicyRef.unpack(maps.maps[POLICY_REF][file.id.to_bytes(4, "little")])
    policy = maps.policies[ref.policy_id]
    plain = msgspec.structs.replace(
        file, id=0, ifindex=0, mac="", node_mac="", ipv4="", ipv6="", netns=""
    )
    around = traces(world)

    def without(text: str) -> str:
        return text.replace(file.ipv4, "FOUR").replace(file.ipv6, "SIX")

    return {
        "file": plain,
        "files": {path.name: path.read_bytes() == written(folder) for path in folder.iterdir()},
        "rows": sorted(rows, key=str),
        "policy": (policy.info, policy.entries, ref._replace(policy_id=0)),
        "inside": {
            kind: sorted(map(without, found)) for kind, found in network(world.pods[name]).items()
        },
        "routes": sorted(map(without, around["routes"])),
        "rows of all": {
            table: len(found) for table, found in maps.maps.items() if table in COUNTED
        },
        **{key: around[key] for key in ("devices", "policies", "pins", "endpoints", "in use")},
    }


def written(folder: Path) -> bytes:
    """What an endpoint's state file and its copy hold."""
    return (folder / "endpoint.json").read_bytes()
