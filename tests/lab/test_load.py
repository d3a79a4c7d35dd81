"""Load: many connections at once, many new ones, and floods of openings that nobody means.

Small by default; `make soak` runs the full size (100,000 connections, 5,000 new ones a second for a
minute, beside a flood).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fimbria.datapath import abi
from fimbria.kernel.maps import BpfMap
from tests.lab.load import CLIENT_AND_SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from fimbria.lab.client import Lab

SOURCE = Path(__file__).resolve().parents[2] / "bench" / "connload.c"
PORT, PORTS = 7100, 8
FLOODED = PORT + PORTS - 1  # nobody else's: its queue of half-open sockets is for the flood
SERVERS = ("near", "far")
AT_ONCE = 12_500  # connections of one process: limits of open files may be hard


@dataclass(frozen=True)
class Size:
    """How much load: connections held, new ones a second, SYNs a second, seconds of both."""

    held: int
    rate: int
    flood: int
    seconds: int
    tables: dict[str, str]


SMALL = {"bpf-ct-global-tcp-max": "16384", "bpf-ct-half-open-max": "1024"}
SIZE = (
    Size(100_000, 5_000, 20_000, 60, {})
    if os.environ.get("FIMBRIA_LOAD") == "full"
    else Size(2_000, 300, 10_000, 3, SMALL)
)

PODS = (
    CLIENT_AND_SERVERS
    + """\
{kind: Pod, apiVersion: v1, metadata: {name: attacker, labels: {app: client}},
 spec: {nodeName: node1, containers: [{name: main, image: fimbria/sleep}]}}
"""
)


@pytest.fixture(scope="session")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The load generator, compiled."""
    made = tmp_path_factory.mktemp("load") / "connload"
    command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-o", str(made), str(SOURCE)]
    subprocess.run(command, check=True)
    return made


class Loads:
    """Generators inside pods; all of them end with the test."""

    def __init__(self, lab: Lab, tool: Path) -> None:
        self.lab = lab
        self.tool = tool
        self.running: list[subprocess.Popen[str]] = []

    def start(self, pod: str, *words: object) -> subprocess.Popen[str]:
        """Start a command of the generator in a pod's network namespace."""
        command = ["nsenter", f"--net={self.lab.pod(pod)['netns']}", str(self.tool)]
        process = subprocess.Popen(
            [*command, *map(str, words)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.running.append(process)
        return process

    def address(self, pod: str) -> str:
        """A pod's IPv4 address."""
        return next(one for one in self.lab.pod(pod)["addresses"] if ":" not in one)


@contextmanager
def loads(lab: Lab, tool: Path) -> Generator[Loads]:
    """Both servers are listening."""
    made = Loads(lab, tool)
    try:
        for pod in SERVERS:
            server = made.start(pod, "serve", PORT, PORTS)
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
        yield made
    finally:
        for process in made.running:
            process.kill()
            process.communicate()


def said(process: subprocess.Popen[str]) -> dict[str, float]:
    """The next line that a generator prints."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def everything_alive(process: subprocess.Popen[str]) -> float:
    """Send a byte on every connection that is held; how many gave it back."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return said(process)["alive"]


def between(lab: Lab, one: str, other: str) -> set[bytes]:
    """Keys of established connections between two addresses, on all nodes, with the node's name."""
    ends = {bytes(10) + b"\xff\xff" + ip_address(text).packed for text in (one, other)}
    found: set[bytes] = set()
    for node in lab.status()["nodes"]:
        with BpfMap.open(Path(node["bpffs"]) / "tc/globals/cilium_ct") as table:
            for key in table.keys():  # noqa: SIM118 - a map is no dict
                where = abi.CtKey.unpack(key)
                if {where.a, where.b} == ends:
                    found.add(node["name"].encode() + key)
    return found


@pytest.mark.root
@pytest.mark.timeout(120 + 10 * SIZE.seconds)
def test_a_flood_breaks_and_evicts_nothing(make_lab: Callable[..., Lab], tool: Path) -> None:
    """Beside a flood of SYNs: no held connection loses its entry or breaks, new ones all work."""
    lab = make_lab(PODS, config=SIZE.tables)
    with loads(lab, tool) as made:
        half, client = SIZE.held // 2, made.address("client")
        share = min(half, AT_ONCE)
        holders = [
            made.start("client", "hold", made.address(pod), PORT, PORTS - 1, share)
            for pod in SERVERS
            for _ in range(half // share)
        ]
        for process in holders:
            assert said(process) == {"open": share}
            assert everything_alive(process) == share
        before = {pod: between(lab, client, made.address(pod)) for pod in SERVERS}
        assert [len(before[pod]) for pod in SERVERS] == [half, 2 * half], "far ones on both nodes"
        floods = [
            made.start("attacker", "flood", made.address(pod), FLOODED, SIZE.flood, SIZE.seconds)
            for pod in SERVERS
        ]
        rates = [
            made.start(
                "client", "rate", made.address(pod), PORT, PORTS - 1, SIZE.rate // 2, SIZE.seconds
            )
            for pod in SERVERS
        ]
        for process in rates:
            report = said(process)
            print("new connections:", report)
            assert report["good"] > 0
            assert report["failed"] == 0, report
        for process in floods:
            report = said(process)
            print("flood:", report)
            assert report["sent"] > 5 * int(SIZE.tables.get("bpf-ct-half-open-max", 65536)), report
        for pod in SERVERS:
            assert before[pod] <= between(lab, client, made.address(pod)), "lost from conntrack"
        for process in holders:
            assert everything_alive(process) == share
