"""What the end-to-end benchmark compares with: the kernel's own ways to join two pods.

Network namespaces are held by processes that die with this one, so nothing is left behind,
however it ends. All addresses live inside them.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Topology:
    """Namespaces by name, each the path that `nsenter --net` takes."""

    holders: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def namespace(self, forward: bool = False) -> str:
        holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; exec sleep infinity"],
            stdout=subprocess.PIPE,
            preexec_fn=die_with_parent,
        )
        self.holders.append(holder)
        assert holder.stdout is not None
        holder.stdout.readline()
        path = f"/proc/{holder.pid}/ns/net"
        run(path, "ip link set lo up")
        switch = f"net.ipv4.ip_forward={int(forward)} net.ipv6.conf.all.disable_ipv6=1"
        run(path, f"sysctl -qw {switch} net.ipv4.conf.all.rp_filter=0")
        return path

    def close(self) -> None:
        for holder in self.holders:
            holder.kill()
            holder.wait()


def run(path: str, command: str) -> None:
    """Run a shell line in a network namespace (its /sys and cgroups untouched)."""
    subprocess.run(["nsenter", f"--net={path}", "sh", "-ec", command], check=True)


def join(left: str, left_name: str, right: str, right_name: str) -> None:
    """A veth pair between two namespaces, both ends up."""
    peer = right.split("/")[2]
    run(left, f"ip link add {left_name} type veth peer name {right_name} netns {peer}")
    run(left, f"ip link set {left_name} up")
    run(right, f"ip link set {right_name} up")


def routed_pod(topology: Topology, node: str, name: str, address: str) -> str:
    """A pod as kernel routing joins it: /32, a link-local gateway, a host route, proxy ARP."""
    pod = topology.namespace()
    join(node, name, pod, "eth0")
    run(
        pod,
        f"ip addr add {address}/32 dev eth0; ip route add 169.254.1.1 dev eth0 scope link;"
        "ip route add default via 169.254.1.1",
    )
    run(
        node,
        f"ip route add {address}/32 dev {name};"
        f"sysctl -qw net.ipv4.conf.{name}.proxy_arp=1 net.ipv4.neigh.{name}.proxy_delay=0;"
        f"ip addr add 169.254.1.1/32 dev {name}",
    )
    return pod


def two_nodes(topology: Topology) -> tuple[str, str]:
    """Two nodes on one bridge, as the lab's are."""
    middle = topology.namespace()
    run(middle, "ip link add br0 type bridge; ip link set br0 up")
    nodes: list[str] = []
    for index in (1, 2):
        node = topology.namespace(forward=True)
        join(node, "eth0", middle, f"port{index}")
        run(middle, f"ip link set port{index} master br0")
        run(node, f"ip addr add 172.31.255.{index}/24 dev eth0")
        nodes.append(node)
    return nodes[0], nodes[1]


@dataclass(frozen=True)
class Pair:
    """A client's and a server's namespace, and the server's address."""

    client: str
    server: str
    address: str


@contextlib.contextmanager
def kernel_pairs() -> Iterator[dict[str, Pair]]:
    """`routing`: one node; `routing2`: two nodes; `vxlan2`: the kernel's vxlan and bridges."""
    topology = Topology()
    try:
        node = topology.namespace(forward=True)
        routing = Pair(
            routed_pod(topology, node, "pod1", "10.1.0.1"),
            routed_pod(topology, node, "pod2", "10.1.0.2"),
            "10.1.0.2",
        )

        one, two = two_nodes(topology)
        routing2 = Pair(
            routed_pod(topology, one, "pod1", "10.1.1.1"),
            routed_pod(topology, two, "pod2", "10.1.2.1"),
            "10.1.2.1",
        )
        run(one, "ip route add 10.1.2.0/24 via 172.31.255.2")
        run(two, "ip route add 10.1.1.0/24 via 172.31.255.1")

        pods: list[str] = []
        for index, node in enumerate(two_nodes(topology), 1):
            remote = f"172.31.255.{3 - index}"
            pod = topology.namespace()
            join(node, "pod", pod, "eth0")
            run(
                node,
                "ip link add br0 type bridge; ip link set br0 up; ip link set pod master br0;"
                f"ip link add vx0 type vxlan id 42 dstport 8472 remote {remote} dev eth0;"
                "ip link set vx0 mtu 1450 master br0; ip link set vx0 up",
            )
            run(pod, f"ip link set eth0 mtu 1450; ip addr add 10.1.3.{index}/24 dev eth0")
            pods.append(pod)
        vxlan2 = Pair(pods[0], pods[1], "10.1.3.2")
        yield {"routing": routing, "routing2": routing2, "vxlan2": vxlan2}
    finally:
        topology.close()
