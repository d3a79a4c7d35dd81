"""Starts a lab, and makes sure that one which did not come up is not left behind.

The caller holds one end of a socket pair. Until it says "keep", the lab ends when that end closes:
so an interrupted or killed `lab up` leaves nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from fimbria.lab.janitor import clean
from fimbria.lab.spec import ROOT, LabError, LabPaths, LabSpec

if TYPE_CHECKING:
    from pathlib import Path

KEEP = b"keep"
GONE_TIMEOUT = 10.0


class Launch:
    """A lab that is coming up. Leaving the `with` block without `keep` takes it down again."""

    def __init__(self, spec: LabSpec, paths: LabPaths, lock: int, caller: socket.socket) -> None:
        self.spec = spec
        self.paths = paths
        self._lock = lock
        self._caller = caller
        self._kept = False

    def __enter__(self) -> Launch:
        return self

    def __exit__(self, *_: object) -> None:
        self._caller.close()
        os.close(self._lock)
        if not self._kept:
            wait_gone(self.paths, GONE_TIMEOUT)

    def keep(self) -> None:
        """Let the lab live on without us."""
        self._caller.sendall(KEEP)
        self._kept = True

    def lines(self) -> list[str]:
        """What the supervisor says next, as text lines; empty when it has ended."""
        data = self._caller.recv(65536)
        return data.decode().splitlines()


def launch(spec: LabSpec) -> Launch:
    """Start the lab's processes; raises LabError if a lab of this name is there already."""
    if os.geteuid() != 0:
        raise LabError("lab up: must be root: it makes namespaces and loads BPF programs")
    sweep()
    paths = LabPaths(spec.name)
    paths.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise LabError(
            f"lab {spec.name!r} is up already: take it down with "
            f"`fimbria lab down --name {spec.name}`, or choose another --name"
        ) from None
    paths.token.write_text(f"{secrets.token_urlsafe(24)},admin\n")
    listener = socket.create_server(("127.0.0.1", 0))
    ours, theirs = socket.socketpair()
    with listener, theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", "fimbria.lab.janitor"]
            + [str(fd) for fd in (lock, listener.fileno(), theirs.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=open_log(paths.log("supervisor")),
            pass_fds=(lock, listener.fileno(), theirs.fileno()),
            start_new_session=True,
        )
        assert process.stdin is not None
        process.stdin.write(spec.dump().encode())
        process.stdin.close()
    process.wait()  # what goes on is its child
    return Launch(spec, paths, lock, ours)


def open_log(path: Path) -> int:
    """A descriptor that appends to a log file."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)


def is_up(paths: LabPaths) -> bool:
    """Whether janitor or supervisor of this lab lives."""
    try:
        lock = os.open(paths.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def names(root: Path = ROOT) -> list[str]:
    """Names of the labs that are up."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(p.name for p in root.iterdir() if is_up(LabPaths(p.name, root)))
    return []


def sweep(root: Path = ROOT) -> None:
    """Remove what is left of labs whose janitor and supervisor were both killed at once."""
    with contextlib.suppress(FileNotFoundError):
        for path in root.iterdir():
            paths = LabPaths(path.name, root)
            if paths.lock.exists() and not is_up(paths):
                clean(paths)


def wait_gone(paths: LabPaths, seconds: float) -> bool:
    """Wait until nothing of a lab is left; False if it takes longer than that."""
    deadline = time.monotonic() + seconds
    try:
        lock = os.open(paths.lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        while True:
            # Removing the run directory, lock and all, is the last thing that the janitor does;
            # what was opened before tells when it is done.
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
    finally:
        os.close(lock)
    sweep(paths.root)
    return True
