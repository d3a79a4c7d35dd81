"""The library stays light: what analysis imports, and what it must not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

HEAVY = {"aiohttp", "grpc", "numpy", "rich", "click", "ssl", "http", "asyncio", "scapy"}
"""Modules for networks, terminals and arrays."""

ABOVE = ("kernel", "agent", "cli", "lab", "apiserver", "operator", "cni", "connectivity")
"""Parts of the program that need Linux, or are built on analysis."""

SOURCE = """
from fimbria.analysis import Engine, from_documents
meta = {"name": "a", "namespace": "n"}
world = from_documents([{"apiVersion": "v1", "kind": "Pod", "metadata": meta}])
flow = {"source": "n/a", "destination": "10.0.0.1", "protocol": "TCP", "port": 1}
assert Engine(world).eval(flow).allowed
import fimbria.analysis.lint, fimbria.analysis.report, fimbria.analysis.suiterun
"""

COMMAND = """
import sys
from fimbria.cli.main import root
root(sys.argv[1:], standalone_mode=False)
"""
"""A command, as the `fimbria` script runs it."""


def loaded(source: str, *arguments: str) -> list[str]:
    """The modules that a program has loaded when it ends, whatever it prints before."""
    program = f"""
import atexit, json, sys
atexit.register(lambda: print("\\n" + json.dumps(sorted(sys.modules))))
{source}"""
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True, text=True, check=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def test_a_verdict_needs_no_heavy_module() -> None:
    """Judging, testing and linting import no netlink, BPF, gRPC or web code, and no numpy."""
    modules = loaded(SOURCE)
    assert "fimbria.analysis.engine" in modules
    assert {name.split(".")[0] for name in modules} & HEAVY == set()
    assert [name for name in modules if name.startswith(tuple(f"fimbria.{a}" for a in ABOVE))] == []


@pytest.mark.parametrize("command", ["test", "lint"])
def test_the_commands_need_no_linux(command: str) -> None:
    """What laptops run loads nothing that makes system calls, and no Python module of Unix only."""
    modules = loaded(COMMAND, "policy", command, "docs/examples/shop")
    assert "fimbria.analysis.collect" in modules
    linux = ("fimbria.kernel", "fimbria.agent", "fimbria.lab", "fimbria.cni", "fimbria.apiserver")
    assert [name for name in modules if name.startswith(linux)] == []
    assert {"numpy", "aiohttp", "asyncio"} & set(modules) == set()
