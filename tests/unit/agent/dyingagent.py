"""Agents that kill themselves where they are told to: before, in or after one of their changes.

Run as `python dyingagent.py FILE agent …`: for each line on stdin an agent is forked (so that its
start costs no imports), and its process id printed. FILE, which is taken away when it is read, says
what becomes of it: `{}`: note every change from now on in FILE.log, or `{"change": name, "nth": n,
"when": when}`: die at the n-th change of that name. Changes are bpf(2) commands that change
something (in it: half of a batch is done), netlink requests, sysctls, and what is done to files (in
it: half is written). Several threads make changes at once, so a change has a name, not a number.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import signal
import stat
import struct
import sys
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

from fimbria.kernel import rtnl, syscall
from fimbria.kernel.syscall import Cmd

if TYPE_CHECKING:
    from collections.abc import Callable

BATCHES = {Cmd.MAP_UPDATE_BATCH, Cmd.MAP_DELETE_BATCH}
CHANGES = BATCHES | {
    Cmd.MAP_UPDATE_ELEM,
    Cmd.MAP_DELETE_ELEM,
    Cmd.MAP_CREATE,
    Cmd.OBJ_PIN,
    Cmd.LINK_CREATE,
    Cmd.LINK_DETACH,
}
COUNT_AT = 32
"""Where a batch's attribute has the number of its elements."""
_VARIABLE = re.compile(r"\b(lxc)?[0-9a-f:.]*[0-9][0-9a-f:./]*\b")


class Fate:
    """What was ordered, and how often each change has been made since."""

    def __init__(self, file: pathlib.Path) -> None:
        self._file = file
        self._log = file.with_name(file.name + ".log")
        self._orders: dict[str, Any] | None = None
        self._seen: Counter[str] = Counter()
        self._lock = threading.Lock()

    def change(
        self, text: str, whole: Callable[[], Any], part: Callable[[], Any] | None = None
    ) -> Any:
        """Make a change, `whole`, unless it is time to die; `part` does half of it."""
        when = self._when(_VARIABLE.sub("*", text), part is not None)
        if when == "in" and part is not None:
            part()
        if when in ("before", "in"):
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return whole()
        finally:
            if when == "after":
                os.kill(os.getpid(), signal.SIGKILL)

    def _when(self, name: str, divisible: bool) -> str:
        with self._lock:
            if os.path.exists(self._file):
                with open(self._file) as file:
                    self._orders = json.load(file)
                self._seen.clear()
                os.remove(self._file)
            if self._orders is None:
                return ""
            self._seen[name] += 1
            if not self._orders:
                with open(self._log, "a") as log:
                    print(json.dumps([name, self._seen[name], divisible]), file=log)
            due = (self._orders.get("change"), self._orders.get("nth")) == (name, self._seen[name])
            return self._orders["when"] if due else ""


def watch(fate: Fate) -> None:
    """Stand in the way of every change; before anything else of the agent is imported."""
    _watch_kernel(fate)
    _watch_files(fate)


def _watch_kernel(fate: Fate) -> None:
    call, request, write = syscall.bpf, rtnl.RtnlSocket.request, os.write

    def bpf(cmd: Cmd, attr: bytearray, what: str) -> int:
        if cmd not in CHANGES:
            return call(cmd, attr, what)
        count = struct.unpack_from("=I", attr, COUNT_AT)[0] if cmd in BATCHES else 0

        def half() -> None:
            struct.pack_into("=I", attr, COUNT_AT, count // 2)
            call(cmd, attr, what)

        return fate.change(what, lambda: call(cmd, attr, what), half if count > 1 else None)

    def netlink(self: Any, kind: int, flags: int, payload: bytes, what: str) -> None:
        fate.change(what, lambda: request(self, kind, flags, payload, what))

    def sysctl(fd: int, data: Any) -> int:
        path = os.readlink(f"/proc/self/fd/{fd}")
        if not path.startswith("/proc/sys/"):
            return write(fd, data)
        return fate.change(f"sysctl {path}", lambda: write(fd, data))

    syscall.bpf = bpf
    rtnl.RtnlSocket.request = netlink
    os.write = sysctl


def _watch_files(fate: Fate) -> None:
    create, sync, write_bytes = os.open, os.fsync, pathlib.Path.write_bytes

    def on_path(function: Any) -> Any:
        def wrapped(path: Any, *arguments: Any, **options: Any) -> Any:
            text = f"{function.__name__} {os.path.basename(path)}"
            return fate.change(text, lambda: function(path, *arguments, **options))

        return wrapped

    def opened(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        def whole() -> int:
            return create(path, flags, *arguments, **options)

        if not flags & os.O_CREAT:
            return whole()
        return fate.change(f"create {os.path.basename(path)}", whole)

    def synced(fd: int) -> None:
        found = os.fstat(fd)
        if stat.S_ISREG(found.st_mode):
            name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
            fate.change(
                f"write {name}", lambda: sync(fd), lambda: os.ftruncate(fd, found.st_size // 2)
            )

    def written(self: pathlib.Path, data: bytes) -> int:
        return fate.change(
            f"write {self.name}",
            lambda: write_bytes(self, data),
            lambda: write_bytes(self, data[: len(data) // 2]),
        )

    for name in ("mkdir", "rmdir", "rename", "unlink"):
        setattr(os, name, on_path(getattr(os, name)))
    os.open, os.fsync, pathlib.Path.write_bytes = opened, synced, written


def breed() -> None:
    """Run an agent for each line on stdin, one after another."""
    import fimbria.agent.main  # noqa: F401 - everything that an agent imports
    from fimbria.cli.main import main

    for _ in sys.stdin:
        child = os.fork()
        if not child:
            os.dup2(os.open(os.devnull, os.O_RDWR), sys.stdout.fileno())
            main()
        print(child, flush=True)
        os.waitpid(child, 0)


if __name__ == "__main__":
    watch(Fate(pathlib.Path(sys.argv.pop(1))))
    breed()
