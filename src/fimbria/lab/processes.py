"""Child processes of PID 1: started into namespaces, reaped centrally, known by the machine's pid.

PID 1 inherits every orphan of its namespace and must reap it, so nothing else here may wait for
children: one SIGCHLD handler takes all of them and tells those who asked. A process is forked by
hand because between fork and exec it has to move into namespaces and a control group.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fimbria.lab import namespaces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where a process runs: namespaces by descriptor (-1: the supervisor's) and control group."""

    net: int = -1
    mnt: int = -1
    uts: int = -1
    cgroup: Path | None = None


@dataclass
class Child:
    """A running child; `exited` gives its exit code, minus the signal's number if killed."""

    pid: int
    host_pid: int
    exited: asyncio.Future[int]

    def signal(self, number: int, *, group: bool = False) -> None:
        """Send a signal to the process, or to all of its session's first process group."""
        if not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(self.pid, number)


class StartError(OSError):
    """The process could not be started; the message names what failed."""


HERE = Place()


@dataclass
class Processes:
    """All children. `host_proc` is a descriptor of the machine's /proc."""

    host_proc: int
    _waiting: dict[int, asyncio.Future[int]] = field(
        default_factory=dict[int, "asyncio.Future[int]"]
    )

    def watch(self) -> None:
        """Reap from now on; the loop must run."""
        asyncio.get_running_loop().add_signal_handler(signal.SIGCHLD, self._reap)

    def spawn(
        self,
        command: Sequence[str],
        *,
        place: Place = HERE,
        environment: Mapping[str, str] | None = None,
        directory: str = "/",
        files: Mapping[int, int] | None = None,
        keep: Sequence[int] = (),
    ) -> Child:
        """Start a command in its own session.

        `files` maps descriptor numbers in the child to ours, /dev/null for 0, 1 and 2 if absent;
        `keep` are ours that stay open under their number. Raises StartError.
        """
        failure, report = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become(command, place, environment, directory, dict(files or {}), keep, report)
        os.close(report)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting[pid] = future
        with os.fdopen(failure, "rb") as pipe:
            error = pipe.read().decode()
        if error:
            raise StartError(error)
        return Child(pid, self.host_pid(pid), future)

    def host_pid(self, pid: int) -> int:
        """The machine's number of one of our processes; 0 if it is gone."""
        try:
            handle = os.pidfd_open(pid)
        except OSError:
            return 0
        try:
            path = f"self/fdinfo/{handle}"
            file = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.host_proc)
            with os.fdopen(file) as lines:
                found = [line.split()[1] for line in lines if line.startswith("Pid:")]
        finally:
            os.close(handle)
        return max(int(found[0]), 0) if found else 0

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            future = self._waiting.pop(pid, None)
            if future is not None and not future.done():
                future.set_result(os.waitstatus_to_exitcode(status))


def _become(
    command: Sequence[str],
    place: Place,
    environment: Mapping[str, str] | None,
    directory: str,
    files: dict[int, int],
    keep: Sequence[int],
    report: int,
) -> None:
    """In the child: move, and exec. Never returns."""
    step = "start"
    try:
        os.setsid()
        if place.cgroup is not None:
            step = str(place.cgroup)
            (place.cgroup / "cgroup.procs").write_text("0")
        for fd in (place.net, place.uts, place.mnt):
            if fd >= 0:
                step = "namespace"
                namespaces.setns(fd)
        # The parent's descriptors may stand where the child's are wanted: move them up first.
        null = os.open(os.devnull, os.O_RDWR)
        wanted = {0: null, 1: null, 2: null} | files
        held = {number: os.dup(ours) for number, ours in wanted.items()}
        spare = {number: _above(fd, 64) for number, fd in held.items()}
        for number, fd in spare.items():
            os.dup2(fd, number, inheritable=True)
        for fd in keep:
            os.set_inheritable(fd, True)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        step = directory
        os.chdir(directory)
        step = command[0]
        env = dict(os.environ if environment is None else environment)
        os.execvpe(command[0], list(command), env)
    except BaseException as error:  # this copy of the supervisor must not go on, whatever happened
        reason = getattr(error, "strerror", None) or str(error)
        os.write(report, f"{step}: {reason}".encode())
    finally:
        os._exit(127)


def _above(fd: int, least: int) -> int:
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, least)


PYTHON = (sys.executable, "-m", "fimbria.cli.main")
"""How the lab starts Fimbria's own commands."""
