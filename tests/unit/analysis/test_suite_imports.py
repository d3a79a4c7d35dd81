"""The library stays light: what analysis imports, and what it must not."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = {"aiohttp", "grpc", "numpy", "rich", "click", "ssl", "http", "asyncio", "scapy"}
"""Modules for networks, terminals and arrays."""

ABOVE = ("kernel", "agent", "cli", "lab", "apiserver", "operator", "cni", "connectivity")
"""Parts of the program that need Linux, or are built on analysis."""

SOURCE = """
import json, sys
from fimbria.analysis import Engine, from_documents
meta = {"name": "a", "namespace": "n"}
world = from_documents([{"apiVersion": "v1", "kind": "Pod", "metadata": meta}])
flow = {"source": "n/a", "destination": "10.0.0.1", "protocol": "TCP", "port": 1}
assert Engine(world).eval(flow).allowed
import fimbria.analysis.lint, fimbria.analysis.report, fimbria.analysis.suiterun
print(json.dumps(sorted(sys.modules)))
"""


def test_a_verdict_needs_no_heavy_module() -> None:
    """Judging, testing and linting import no netlink, BPF, gRPC or web code, and no numpy."""
    done = subprocess.run(
        [sys.executable, "-c", SOURCE], capture_output=True, text=True, check=True, timeout=60
    )
    modules = json.loads(done.stdout)
    assert "fimbria.analysis.engine" in modules
    assert {name.split(".")[0] for name in modules} & HEAVY == set()
    assert [name for name in modules if name.startswith(tuple(f"fimbria.{a}" for a in ABOVE))] == []
