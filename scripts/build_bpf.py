"""Compiles bpf/*.bpf.c to build/bpf/*.o, and bpf/tests/*.bpf.c to build/bpf/tests/*.o.

The compiler is the one in the ziglang wheel, or the clang that FIMBRIA_CLANG names. A file is
compiled only if its text, a header's, the compiler or the flags have changed since: their hash
stands beside each object. Files are compiled in parallel.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "bpf"
FLAGS = (
    *("-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-function"),
    *("-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-fno-stack-protector"),
)


def compiler() -> tuple[list[str], str]:
    """The command up to the flags that all files share, and what identifies its version."""
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise SystemExit("build_bpf: the ziglang wheel is not installed (make setup)")
    lib = Path(spec.origin).parent / "lib" / "libc" / "include"
    headers = ["-isystem", str(lib / "any-linux-any"), "-isystem", str(lib / "x86-linux-any")]
    clang = os.environ.get("FIMBRIA_CLANG")
    if clang:
        version = subprocess.run([clang, "--version"], check=True, capture_output=True, text=True)
        return [clang, "-target", "bpfel", "-ffreestanding", *headers], version.stdout
    command = [sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding-none"]
    return [*command, *headers], importlib.metadata.version("ziglang")


def compile_file(command: list[str], source: Path, target: Path, digest: str) -> str | None:
    """Compiles one file unless it is up to date. Returns the compiler's complaint, or None."""
    stamp = target.with_suffix(".sha256")
    if target.exists() and stamp.exists() and stamp.read_text() == digest:
        return None
    cache = str(ROOT / "build" / "zig-cache")
    environment = os.environ | {"ZIG_LOCAL_CACHE_DIR": cache, "ZIG_GLOBAL_CACHE_DIR": cache}
    fresh = target.with_suffix(f".{os.getpid()}.o")
    done = subprocess.run(
        [*command, *FLAGS, "-I", str(SOURCES), "-c", str(source), "-o", str(fresh)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )
    if done.returncode:
        fresh.unlink(missing_ok=True)
        return done.stderr
    fresh.replace(target)
    stamp.write_text(digest)
    return None


def build(out: Path) -> list[str]:
    """Compiles everything that is out of date into `out`; returns complaints."""
    command, version = compiler()
    headers = b"".join(path.read_bytes() for path in sorted(SOURCES.rglob("*.h")))
    shared = hashlib.sha256(headers + version.encode() + " ".join(FLAGS).encode())
    jobs: list[tuple[list[str], Path, Path, str]] = []
    for source in sorted(SOURCES.rglob("*.bpf.c")):
        target = out / source.relative_to(SOURCES).with_suffix("").with_suffix(".o")
        target.parent.mkdir(parents=True, exist_ok=True)
        digest = shared.copy()
        digest.update(source.read_bytes())
        jobs.append((command, source, target, digest.hexdigest()))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(compile_file, *job) for job in jobs]
        complaints = [job.result() for job in running]
    return [text for text in complaints if text]


def main() -> int:
    parser = argparse.ArgumentParser(description="Compile the datapath.")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bpf")
    complaints = build(parser.parse_args().out)
    print("\n".join(complaints), end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
