"""The lab's underlay: one bridge in the supervisor's namespace, one namespace per node.

    supervisor: br0 172.18.0.1 ── node1: eth0 172.18.0.2
                               └─ node2: eth0 172.18.0.3

Each lab is alone in its namespaces, so all labs use the same addresses. The bridge's own address
is the nodes' default gateway and stands for the world outside the cluster.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fimbria.kernel import netns
from fimbria.lab import namespaces
from fimbria.lab.processes import Place
from fimbria.lab.spec import UNDERLAY4, UNDERLAY6, LabError, LabPaths, LabSpec

if TYPE_CHECKING:
    from fimbria.lab.processes import Processes

BRIDGE = "br0"


async def build(spec: LabSpec, paths: LabPaths, processes: Processes) -> dict[str, int]:
    """Make bridge and nodes; gives the nodes' network namespaces as descriptors."""
    spaces: dict[str, int] = {}
    bridge = [
        f"link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0",
        f"addr add {UNDERLAY4[1]}/{UNDERLAY4.prefixlen} dev {BRIDGE}",
        f"link set {BRIDGE} up",
    ]
    if spec.ipv6:
        bridge.insert(1, f"addr add {UNDERLAY6[1]}/{UNDERLAY6.prefixlen} dev {BRIDGE} nodad")
    for index, name in enumerate(spec.node_names()):
        spaces[name] = netns.unshare()
        path = paths.netns(name)
        namespaces.bind(f"/proc/self/fd/{spaces[name]}", path)
        port = f"veth{index + 1}"
        bridge += [
            f"link add {port} mtu 1500 type veth peer name eth0 netns {path}",
            f"link set {port} master {BRIDGE} up",
        ]
    await ip(processes, bridge)
    for index, name in enumerate(spec.node_names()):
        netns.run_in(spaces[name], namespaces.loopback_up)
        await ip(processes, _node(spec, index), spaces[name])
    return spaces


def _node(spec: LabSpec, index: int) -> list[str]:
    four, *six = spec.node_addresses(index)
    commands = [f"addr add {four}/{UNDERLAY4.prefixlen} dev eth0"]
    commands += [f"addr add {address}/{UNDERLAY6.prefixlen} dev eth0 nodad" for address in six]
    commands += ["link set eth0 up", f"route add default via {UNDERLAY4[1]} dev eth0"]
    if spec.ipv6:
        commands.append(f"route add ::/0 via {UNDERLAY6[1]} dev eth0")
    return commands


async def ip(processes: Processes, commands: list[str], net: int = -1) -> None:
    """Run iproute2 commands as one batch in a network namespace; LabError says what failed."""
    script = os.memfd_create("ip-batch")
    output = os.memfd_create("ip-output")
    try:
        os.write(script, "\n".join([*commands, ""]).encode())
        os.lseek(script, 0, os.SEEK_SET)
        files = {0: script, 1: output, 2: output}
        child = processes.spawn(["ip", "-batch", "-"], place=Place(net=net), files=files)
        if await child.exited:
            said = os.pread(output, 4096, 0).decode(errors="replace").strip()
            raise LabError(f"the lab's network: ip: {said}")
    finally:
        os.close(script)
        os.close(output)
