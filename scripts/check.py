"""make check: every gate at once, each with its own line; exit 1 if any fails.

Runs side by side, prints the output of what failed only.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"

CHECKS: dict[str, list[str]] = {
    "format": [str(BIN / "ruff"), "format", "--check", "-q", "."],
    "lint": [str(BIN / "ruff"), "check", "-q", "."],
    "types": [str(BIN / "pyright")],
    "import layers": [str(BIN / "lint-imports"), "--no-cache"],
    "generated code": [str(BIN / "python"), "scripts/gen_abi.py", "--check"],
    "reference pages": [str(BIN / "python"), "scripts/gen_reference.py", "--check"],
    "licences": [str(BIN / "python"), "scripts/check_licences.py"],
}


def run(item: tuple[str, list[str]]) -> tuple[str, int, str, float]:
    name, command = item
    started = time.monotonic()
    path = f"{BIN}:{os.environ['PATH']}"
    env = os.environ | {"PATH": path, "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    return name, done.returncode, done.stdout + done.stderr, time.monotonic() - started


def main() -> int:
    failed = 0
    with ThreadPoolExecutor(max_workers=2) as pool:
        for name, code, output, seconds in pool.map(run, CHECKS.items()):
            print(f"{'ok  ' if code == 0 else 'FAIL'} {name} ({seconds:.1f} s)", flush=True)
            if code:
                failed += 1
                print(output.rstrip())
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
