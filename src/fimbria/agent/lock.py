"""One agent per state directory and one per node: locks that the kernel gives back at its end.

Two agents of one node would take each other's devices for leftovers, whatever their directories
are. A node is a network namespace, so that lock is a name in it: an abstract unix socket. Anybody
in the namespace can take such a name, so one that root does not hold is no lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

NODE_NAME = b"\0fimbria-agent"
_PATIENCE = 1.0
_CREDENTIALS = struct.Struct("=iII")

log = logging.getLogger(__name__)


class AlreadyRunning(Exception):
    """Another agent holds the lock; the message names its process."""


def take_node() -> socket.socket:
    """Return what holds the lock of the caller's network namespace; keep it open.

    Raises AlreadyRunning.
    """
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        held.bind(NODE_NAME)
        held.listen()
    except OSError as error:
        pid, uid = _holder()
        if uid:
            log.error("process %d of user %d has the name of the node's lock: end it", pid, uid)
            return held
        held.close()
        raise AlreadyRunning(
            f"this node has an agent already (process {pid or 'unknown'}): stop it first, or run "
            "this one in a network namespace of its own"
        ) from error
    return held


def _holder() -> tuple[int, int]:
    """Process and user that listen under the node's name; process 0 if that cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_PATIENCE)
        try:
            asking.connect(NODE_NAME)
            raw = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return 0, 0
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return pid, uid


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
    # The number is for whoever is refused: a full disk must not keep an agent from starting.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
