"""What a pod's flood of SYNs costs the others: their latency beside it, against an idle node's.

The flood runs on one CPU, whoever is measured on the other; rounds with and without it take turns.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.endtoend import MANIFEST, PORT, compiled, inside, serving
from bench.lab import lab
from bench.row import Row

if TYPE_CHECKING:
    from bench.topology import Pair

ROUNDS = 7
MILLISECONDS = 1000
RATE = 50_000  # SYNs a second
FLOOD_CPU = "1"
ATTACKER = """---
apiVersion: v1
kind: Pod
metadata: {name: attacker, labels: {app: client}}
spec:
  nodeName: node1
  containers: [{name: main, image: fimbria/sleep}]
"""
KINDS = {"rr": "request/response", "crr": "connect+request"}


def p99(tool: Path, kind: str, pair: Pair) -> float:
    """Microseconds of the slowest hundredth."""
    command = inside(pair.client, str(tool), kind, pair.address, str(PORT), str(MILLISECONDS))
    done = subprocess.run(command, check=True, capture_output=True, timeout=30)
    return json.loads(done.stdout)["p99"]


def flooded(tool: Path, attack: Pair, netlat: Path, kind: str, pair: Pair) -> float:
    """The same while the attacker floods the server that is asked."""
    words = [str(tool), "flood", attack.address, str(PORT + 1), str(RATE), "2"]
    flood = subprocess.Popen(
        ["nsenter", f"--net={attack.client}", "taskset", "-c", FLOOD_CPU, *words],
        stdout=subprocess.DEVNULL,
    )
    try:
        return p99(netlat, kind, pair)
    finally:
        flood.kill()
        flood.wait()


def rows() -> list[Row]:
    samples: dict[tuple[str, str, bool], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, lab(MANIFEST + ATTACKER) as cluster:
        netlat, tool = compiled(Path(folder), "netlat"), compiled(Path(folder), "connload")
        pairs = {place: cluster.pair("client", place) for place in ("near", "far")}
        attacks = {place: cluster.pair("attacker", place) for place in ("near", "far")}
        with serving(netlat, pairs):
            for _ in range(ROUNDS):
                for kind in KINDS:
                    for place, pair in pairs.items():
                        idle = p99(netlat, kind, pair)
                        busy = flooded(tool, attacks[place], netlat, kind, pair)
                        samples.setdefault((place, kind, False), []).append(idle)
                        samples.setdefault((place, kind, True), []).append(busy)
    found: list[Row] = []
    for place, where in (("near", "same node"), ("far", "two nodes, VXLAN")):
        for kind, words in KINDS.items():
            idle, busy = (statistics.median(samples[place, kind, one]) for one in (False, True))
            name = f"p99 of {words} beside a flood, {where}"
            ratio = busy / idle
            found.append(Row(name, busy, "µs", idle, "idle", ratio, "≤ 2", ratio <= 2))
    return found
