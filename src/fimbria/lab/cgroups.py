"""One cgroup v2 subtree per lab: kills what a pod started in one step, and counts what is left."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

PREFIX = "fimbria-lab-"
KILL_TIMEOUT = 10.0


def hierarchy() -> Path | None:
    """Where the machine's cgroup v2 is mounted, if it can be written to."""
    with open("/proc/self/mountinfo") as file:
        for line in file:
            head, _, tail = line.partition(" - ")
            path = Path(head.split()[4])
            if tail.split()[0] == "cgroup2" and os.access(path, os.W_OK):
                return path
    return None


def create(lab: str) -> Path | None:
    """The lab's own group below the root of the hierarchy; None if there is no hierarchy."""
    root = hierarchy()
    if root is None:
        return None
    group = root / f"{PREFIX}{lab}"
    try:
        group.mkdir(exist_ok=True)
    except OSError:
        return None
    return group


def remove(group: Path) -> bool:
    """Remove a group and those below it; one that holds a process stays. True if it is gone."""
    for path, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(path)
    return not group.exists()


def remove_lab(lab: str) -> None:
    """Remove what `create` made, if it is there, and kill what is in it."""
    root = hierarchy()
    if root is None:
        return
    group = root / f"{PREFIX}{lab}"
    if group.exists():
        kill(group)
    deadline = time.monotonic() + KILL_TIMEOUT
    while not remove(group) and time.monotonic() < deadline:
        time.sleep(0.005)


def kill(group: Path) -> None:
    """SIGKILL to every process in the group."""
    with contextlib.suppress(OSError):
        (group / "cgroup.kill").write_text("1")


def processes(group: Path) -> list[int]:
    """Pids, as the caller's PID namespace numbers them, of the group's processes."""
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []
