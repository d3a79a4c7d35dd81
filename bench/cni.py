"""CNI ADD as a runtime sees it, from exec to result, against a real agent in a lab."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

from bench.lab import lab
from bench.row import Row, at_most

DRIVER = Path(__file__).with_name("cni_driver.py")
POD = """
apiVersion: v1
kind: Pod
metadata: {name: model, labels: {app: model}}
spec: {containers: [{name: main, image: fimbria/sleep}]}
"""


def rows() -> list[Row]:
    with lab(POD, "--nodes", "1") as one:
        node = one.status()["nodes"][0]
        config = json.dumps(
            {
                "cniVersion": "1.1.0",
                "name": "cilium",
                "type": "fimbria-cni",
                "agent-socket": node["socket"],
            }
        )
        plugin = Path(node["socket"]).parents[1] / "bin" / "fimbria-cni"
        enter = ["nsenter", "-t", str(node["agent_pid"]), "-m", "-p"]
        done = subprocess.run(
            [*enter, sys.executable, str(DRIVER), str(plugin), config, "default", "model"],
            check=True,
            stdout=subprocess.PIPE,
        )
    found = json.loads(done.stdout)
    floor = statistics.median(found["floor"])
    alone = statistics.median(found["alone"])
    p99 = sorted(found["burst"])[int(len(found["burst"]) * 0.99) - 1]
    rate = len(found["burst"]) / found["seconds"]
    said = f"{floor:.1f} ms an empty python3 -IS"
    return [
        at_most("CNI ADD, idle, median", alone, "ms", 25, said),
        at_most("CNI ADD, burst of 200 with 8 at a time, p99", p99, "ms", 250, said),
        Row("CNI ADD, sustained", rate, "/s", None, "", None, "≥ 50", rate >= 50),
    ]
