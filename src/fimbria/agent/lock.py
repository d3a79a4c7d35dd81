"""One agent per state directory: a lock that the kernel gives back when its holder dies."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class AlreadyRunning(Exception):
    """Another agent holds the lock; the message names its process."""


def take(path: Path) -> int:
    """Return the descriptor that holds the lock at `path`; keep it open. Raises AlreadyRunning."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(fd, 32).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise AlreadyRunning(
            f"{path} is held by another agent (process {holder}): stop it, or give this one its "
            "own --state-dir and --socket-path"
        ) from error
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
