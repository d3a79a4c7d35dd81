"""Pod to pod, end to end: request/response and connect rate against the kernel's own ways.

Client and server share one CPU (else results are bimodal). The ways take short turns, so that
whatever else the machine does falls on all of them, and medians are compared. Ours runs in two labs:
tunnel and native, both with BPF host routing.
"""

from __future__ import annotations

import contextlib
import json
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
def serving(tool: Path, pairs: dict[str, Pair]) -> Iterator[None]:
    servers = [
        subprocess.Popen(
            inside(pair.server, str(tool), "serve", str(PORT)), preexec_fn=die_with_parent
        )
        for pair in pairs.values()
    ]
    try:
        for pair in pairs.values():
            wait = f"until {tool} rr {pair.address} {PORT} 1 >/dev/null 2>&1; do sleep 0.02; done"
            subprocess.run(inside(pair.client, "sh", "-c", wait), check=True, timeout=10)
        yield
    finally:
        for server in servers:
            server.kill()
            server.wait()


def measure(tool: Path, pairs: dict[str, Pair]) -> dict[tuple[str, str], float]:
    """(way, rr|crr) -> median rate per second."""
    samples: dict[tuple[str, str], list[float]] = {}
    for _ in range(ROUNDS):
        for kind in ("rr", "crr"):
            for name, pair in pairs.items():
                command = [str(tool), kind, pair.address, str(PORT), str(MILLISECONDS)]
                done = subprocess.run(
                    inside(pair.client, *command), check=True, capture_output=True, timeout=30
                )
                samples.setdefault((name, kind), []).append(json.loads(done.stdout)["rate"])
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
        with serving(tool, pairs):
            rate = measure(tool, pairs)
    compared = (
        ("same node", "near", "routing", "kernel routing", {"rr": 1.05, "crr": 1.0}),
        ("two nodes, native", "native2", "routing2", "kernel routing", {"rr": 1.0, "crr": 1.0}),
        ("two nodes, VXLAN", "tunnel2", "vxlan2", "vxlan + bridge", {"rr": 1.0, "crr": 1.0}),
    )
    words = {"rr": "request/response", "crr": "connect+request"}
    return [
        ratio_at_least(
            f"{title}: {words[kind]}", rate[ours, kind], "/s", rate[base, kind], base_name, least
        )
        for title, ours, base, base_name, leasts in compared
        for kind, least in leasts.items()
    ]
