"""make demo, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.root
def test_demo() -> None:
    """The demo shows who reaches whom before and after, explains the denial, leaves nothing."""
    name = f"demo-test-{os.getpid()}"
    argv = [sys.executable, "scripts/demo.py", "--name", name]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    for part in (
        "Ship landed",
        "no answer",
        "xx drop (Policy denied)",
        "Final verdict: DENIED",
        "CiliumNetworkPolicy default/rule1",
        "80/TCP",
        "drop reason 133",
    ):
        assert part in done.stdout, part
    assert not (Path("/run/fimbria/lab") / name).exists()
