"""Pod to pod, end to end: request/response and connect rate against the kernel's own ways.

Client and server share one CPU (else results are bimodal), and what counts is the time that the two
get of it: on a machine that others use too, rates by the wall clock say little. The ways take short
turns, and medians are compared. Ours runs in two labs: tunnel and native,
both with BPF host routing.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.lab import lab
from bench.row import Row, ratio_at_least
from bench.topology import Pair, die_with_parent, kernel_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator

ROUNDS = 27
MILLISECONDS = 100
PORT = 5201
CPU = "0"
HERE = Path(__file__).resolve().parent

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  nodeName: node1
  containers: [{name: main, image: fimbria/sleep}]
---
apiVersion: v1
kind: Pod
metadata: {name: near, labels: {app: server}}
spec:
  nodeName: node1
  containers: [{name: main, image: fimbria/sleep}]
---
apiVersion: v1
kind: Pod
metadata: {name: far, labels: {app: server}}
spec:
  nodeName: node2
  containers: [{name: main, image: fimbria/sleep}]
"""


def compiled(folder: Path, name: str) -> Path:
    """One of the tools beside this file, compiled into `folder`."""
    tool = folder / name
    command = [sys.executable, "-m", "ziglang", "cc", "-O2", "-o", str(tool)]
    subprocess.run([*command, str(HERE / f"{name}.c")], check=True)
    return tool


def inside(path: str, *command: str) -> list[str]:
    return ["nsenter", f"--net={path}", "taskset", "-c", CPU, *command]


@contextlib.contextmanager
def serving(tool: Path, pairs: dict[str, Pair]) -> Iterator[dict[str, int]]:
    """Servers' process ids by way."""
    servers = {
        way: subprocess.Popen(
            inside(pair.server, str(tool), "serve", str(PORT)), preexec_fn=die_with_parent
        )
        for way, pair in pairs.items()
    }
    try:
        for pair in pairs.values():
            wait = f"until {tool} rr {pair.address} {PORT} 1 >/dev/null 2>&1; do sleep 0.02; done"
            subprocess.run(inside(pair.client, "sh", "-c", wait), check=True, timeout=10)
        yield {way: server.pid for way, server in servers.items()}
    finally:
        for server in servers.values():
            server.kill()
            server.wait()


def spent(pid: int) -> float:
    """Seconds of CPU time that a process has had."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def turn(command: list[str], server: int) -> float:
    """A client's round trips per second of CPU time, its own and its server's together."""
    before = spent(server)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        done = json.loads(client.stdout.read())
        _, status, usage = os.wait4(client.pid, 0)
        client.returncode = os.waitstatus_to_exitcode(status)
    if client.returncode:
        raise subprocess.CalledProcessError(client.returncode, command)
    seconds = spent(server) - before + usage.ru_utime + usage.ru_stime
    return done["rate"] * MILLISECONDS / 1e3 / seconds


def measure(
    tool: Path, pairs: dict[str, Pair], servers: dict[str, int]
) -> dict[tuple[str, str], float]:
    """(way, rr|crr) -> median rate per second of CPU time."""
    samples: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for kind in ("rr", "crr"):
            for name, pair in pairs.items():
                command = [str(tool), kind, pair.address, str(PORT), str(MILLISECONDS)]
                rate = turn(inside(pair.client, *command), servers[name])
                samples.setdefault((name, kind), []).append(rate)
    return {key: statistics.median(rates) for key, rates in samples.items()}


def rows() -> list[Row]:
    with (
        tempfile.TemporaryDirectory() as folder,
        kernel_pairs() as pairs,
        lab(MANIFEST, routing="tunnel") as tunnel,
        lab(MANIFEST, routing="native") as native,
    ):
        tool = compiled(Path(folder), "netlat")
        pairs = dict(pairs)
        pairs["near"] = tunnel.pair("client", "near")
        pairs["tunnel2"] = tunnel.pair("client", "far")
        pairs["native2"] = native.pair("client", "far")
        with serving(tool, pairs) as servers:
            rate = measure(tool, pairs, servers)
    compared = (
        ("same node", "near", "routing", "kernel routing", {"rr": 1.05, "crr": 1.0}),
        ("two nodes, native", "native2", "routing2", "kernel routing", {"rr": 1.0, "crr": 1.0}),
        ("two nodes, VXLAN", "tunnel2", "vxlan2", "vxlan + bridge", {"rr": 1.0, "crr": 1.0}),
    )
    words = {"rr": "request/response", "crr": "connect+request"}
    return [
        ratio_at_least(
            f"{title}: {words[kind]}",
            rate[ours, kind],
            "/CPU s",
            rate[base, kind],
            base_name,
            least,
        )
        for title, ours, base, base_name, leasts in compared
        for kind, least in leasts.items()
    ]
