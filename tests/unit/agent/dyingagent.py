"""An agent that kills itself: after the n-th change to kernel or disk from the moment it is armed.

Run as `python dyingagent.py FILE agent …`. FILE holds n; it is taken away when it is read. Counted
are bpf(2) commands that change something, netlink requests, and renames and removals of files.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import signal
import sys
import threading
from typing import Any

from fimbria.kernel import rtnl, syscall
from fimbria.kernel.syscall import Cmd

CHANGES = {
    Cmd.MAP_UPDATE_ELEM,
    Cmd.MAP_DELETE_ELEM,
    Cmd.MAP_UPDATE_BATCH,
    Cmd.MAP_DELETE_BATCH,
    Cmd.MAP_CREATE,
    Cmd.OBJ_PIN,
    Cmd.LINK_CREATE,
    Cmd.LINK_DETACH,
}


class Countdown:
    """How many changes are left; 0 while it is not armed."""

    def __init__(self, file: pathlib.Path) -> None:
        self._file = file
        self._left = 0
        self._lock = threading.Lock()

    def changed(self) -> None:
        """A change was made."""
        with self._lock:
            if not self._left and os.path.exists(self._file):
                with open(self._file) as file:
                    self._left = int(file.read())
                os.remove(self._file)
            if self._left:
                self._left -= 1
                if not self._left:
                    os.kill(os.getpid(), signal.SIGKILL)


def watch(countdown: Countdown) -> None:
    """Count from now on; before anything else of the agent is imported."""

    def after(function: Any) -> Any:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            try:
                return function(*arguments, **options)
            finally:
                countdown.changed()

        return wrapped

    call = syscall.bpf

    def counted(cmd: Cmd, attr: bytearray, what: str) -> int:
        result = call(cmd, attr, what)
        if cmd in CHANGES:
            countdown.changed()
        return result

    syscall.bpf = counted
    rtnl.RtnlSocket.request = after(rtnl.RtnlSocket.request)
    pathlib.Path.rename = after(pathlib.Path.rename)
    pathlib.Path.unlink = after(pathlib.Path.unlink)
    pathlib.Path.write_bytes = after(pathlib.Path.write_bytes)
    shutil.rmtree = after(shutil.rmtree)


if __name__ == "__main__":
    watch(Countdown(pathlib.Path(sys.argv.pop(1))))
    from fimbria.cli.main import main

    main()
