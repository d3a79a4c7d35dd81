"""A pod with raw sockets: what it forges is dropped at its own device, and no other pod sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN

from fimbria.cli import maptext
from fimbria.datapath.abi import DropReason, Identity
from fimbria.lab.spec import UNDERLAY4
from fimbria.sources import files
from tests.lab.hostlab import until
from tests.lab.load import ready

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fimbria.lab.client import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

PORT = 5353
PODS = "\n---\n".join(
    f"""
{{kind: Pod, apiVersion: v1, metadata: {{name: {name}, labels: {{app: {name}}}}},
 spec: {{nodeName: {node}, containers: [{{name: main, image: fimbria/sleep}}]}}}}"""
    for name, node in (("forger", "node1"), ("near", "node1"), ("far", "node2"))
)

SEND = """
import json, socket, sys
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
    raw.bind(("eth0", 0))
    for frame in json.load(sys.stdin):
        raw.send(bytes.fromhex(frame))
"""

# Everything that arrives, as hex of whole frames, until somebody says that it is enough.
LISTEN = """
import select, socket, sys
raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
raw.bind(("eth0", 3))
print("ready", flush=True)
while True:
    able, _, _ = select.select([raw, sys.stdin], [], [])
    if raw in able:
        data, address = raw.recvfrom(65536)
        if address[2] != 4:  # PACKET_OUTGOING
            print(data.hex(), flush=True)
    elif sys.stdin in able:
        break
"""


ASK = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    one.sendto(b"x", (sys.argv[1], 9))
"""


class Pod:
    """Addresses of a pod as a sender needs them."""

    def __init__(self, lab: Lab, name: str) -> None:
        found = lab.pod(name)
        self.netns: str = found["netns"]
        self.ip4, self.ip6 = sorted(found["addresses"], key=lambda text: ":" in text)
        shown = json.loads(self.run("ip", "-j", "link", "show", "eth0"))
        self.mac: str = shown[0]["address"]

    def run(self, *command: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["nsenter", f"--net={self.netns}", *command],
            input=stdin, check=True, capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    def send(self, *frames: Any) -> None:
        """Send whole frames from eth0."""
        self.run(sys.executable, "-c", SEND, stdin=json.dumps([bytes(f).hex() for f in frames]))


@contextmanager
def heard(pod: Pod) -> Generator[Callable[[], list[Any]]]:
    """What arrives at a pod; the callable ends it and gives the frames."""
    process = subprocess.Popen(
        ["nsenter", f"--net={pod.netns}", sys.executable, "-c", LISTEN],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

        def frames() -> list[Any]:
            output, _ = process.communicate(timeout=30)
            return [Ether(bytes.fromhex(line)) for line in output.split()]

        yield frames
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def spoofed(lab_pool: Callable[[str], Lab], tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = lab_pool("tunnel")
    file = tmp_path_factory.mktemp("pods") / "pods.yaml"
    file.write_text(PODS)
    lab.wait(lab.apply(files.read([file])), timeout=60)
    for node in ("node1", "node2"):
        ready(lab, node)
    return lab


@pytest.fixture(scope="module")
def pods(spoofed: Lab) -> dict[str, Pod]:
    return {name: Pod(spoofed, name) for name in ("forger", "near", "far")}


def dropped(lab: Lab, reason: DropReason) -> int:
    """How many packets node1 dropped for a reason."""
    rows = json.loads(lab.cli("bpf", "metrics", "list", "-o", "json", node="node1"))
    return sum(row["packets"] for row in rows if row["reason"] == maptext.reason(reason))


def router(pods: dict[str, Pod]) -> str:
    """The MAC that the forger's packets go to: its first hop's."""
    pod = pods["forger"]
    route = json.loads(pod.run("ip", "-j", "route", "show", "default"))
    pod.run(sys.executable, "-c", ASK, pods["near"].ip4)

    def known() -> str:
        rows = json.loads(pod.run("ip", "-j", "neigh", "show", route[0]["gateway"]))
        return rows[0].get("lladdr", "") if rows else ""

    until(lambda: bool(known()), "no neighbour")
    return known()


def marked(frames: list[Any], text: bytes) -> list[Any]:
    """Those frames that carry a payload."""
    return [frame for frame in frames if text in bytes(frame)]


@pytest.mark.parametrize("target", ["near", "far"])
def test_an_address_that_is_not_the_pods_is_dropped(
    spoofed: Lab, pods: dict[str, Pod], target: str
) -> None:
    """Of another pod, the other node's pod, the router, the node, the world; both families."""
    forger, victim = pods["forger"], pods[target]
    mac = router(pods)
    others4 = [pods["near"].ip4, pods["far"].ip4, "192.0.2.1", "127.0.0.1"]
    others6 = [pods["near"].ip6, pods["far"].ip6, "2001:db8::1", "::1"]
    before = dropped(spoofed, DropReason.INVALID_SIP)
    head = Ether(src=forger.mac, dst=mac)
    with heard(victim) as frames:
        for source in others4:
            forger.send(head / IP(src=source, dst=victim.ip4) / UDP(dport=PORT) / b"forged")
        for source in others6:
            forger.send(head / IPv6(src=source, dst=victim.ip6) / UDP(dport=PORT) / b"forged")
        forger.send(head / IP(src=forger.ip4, dst=victim.ip4) / UDP(dport=PORT) / b"honest")
        forger.send(head / IPv6(src=forger.ip6, dst=victim.ip6) / UDP(dport=PORT) / b"honest")
        until(lambda: dropped(spoofed, DropReason.INVALID_SIP) >= before + 8, "not counted")
        seen = frames()
    assert not marked(seen, b"forged")
    assert len(marked(seen, b"honest")) == 2


@pytest.mark.parametrize("target", ["near", "far"])
def test_a_mac_that_is_not_the_pods_reaches_nobody(pods: dict[str, Pod], target: str) -> None:
    """Who a sender is follows from its device: no MAC that it chooses is seen by others."""
    forger, victim = pods["forger"], pods[target]
    mac = router(pods)
    with heard(victim) as frames:
        for source in (pods["near"].mac, "02:de:ad:be:ef:01"):
            for destination in (mac, victim.mac, "ff:ff:ff:ff:ff:ff"):
                head = Ether(src=source, dst=destination)
                forger.send(head / IP(src=forger.ip4, dst=victim.ip4) / UDP(dport=PORT) / b"mac")
                forger.send(head / ARP(op=2, hwsrc=source, psrc=pods["far"].ip4, pdst=victim.ip4))
        honest = Ether(src=forger.mac, dst=mac)
        forger.send(honest / IP(src=forger.ip4, dst=victim.ip4) / UDP(dport=PORT) / b"honest")
        seen = frames()
    assert marked(seen, b"honest")
    assert not [frame for frame in seen if frame.src == "02:de:ad:be:ef:01"]
    assert not [frame for frame in seen if frame.haslayer(ARP) and frame[ARP].op == 2]


def test_an_identity_in_a_tunnel_header_is_dropped(spoofed: Lab, pods: dict[str, Pod]) -> None:
    """Packets to the overlay's port do not leave a pod, whatever they carry."""
    forger, victim = pods["forger"], pods["far"]
    mac = router(pods)
    addresses = [str(UNDERLAY4[index + 2]) for index in range(2)]
    inner = (
        Ether(src=pods["near"].mac, dst=victim.mac)
        / IP(src=pods["near"].ip4, dst=victim.ip4) / UDP(dport=PORT) / b"tunnelled"
    )  # fmt: skip
    before = dropped(spoofed, DropReason.ENCAP_PROHIBITED)
    sent = 0
    with heard(victim) as frames:
        for address in addresses:
            for identity in (Identity.HOST, Identity.REMOTE_NODE, Identity.HEALTH, 300):
                outer = IP(src=forger.ip4, dst=address) / UDP(sport=40000, dport=8472)
                forger.send(Ether(src=forger.mac, dst=mac) / outer / VXLAN(vni=identity) / inner)
                sent += 1
        honest = Ether(src=forger.mac, dst=mac) / IP(src=forger.ip4, dst=victim.ip4)
        forger.send(honest / UDP(dport=PORT) / b"honest")
        until(lambda: dropped(spoofed, DropReason.ENCAP_PROHIBITED) >= before + sent, "not counted")
        seen = frames()
    assert marked(seen, b"honest")
    assert not marked(seen, b"tunnelled")


def test_the_agents_api_is_not_on_the_network(spoofed: Lab) -> None:
    """The agent listens on no address: what is not in a pod's file system, it does not reach."""
    node = spoofed.node("node1")
    inodes = set[str]()
    for fd in os.listdir(f"/proc/{node['agent_pid']}/fd"):
        try:
            target = os.readlink(f"/proc/{node['agent_pid']}/fd/{fd}")
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            inodes.add(target.removeprefix("socket:[").rstrip("]"))
    listening = list[str]()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/{node['agent_pid']}/net/{table}") as file:
            rows = [line.split() for line in list(file)[1:]]
        listening += [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
    for table in ("udp", "udp6"):
        with open(f"/proc/{node['agent_pid']}/net/{table}") as file:
            rows = [line.split() for line in list(file)[1:]]
        listening += [row[1] for row in rows if row[9] in inodes]
    assert listening == []
