"""The lab's outermost process: makes the namespaces, forks the supervisor, cleans up after it.

It stays in the machine's namespaces, where it can remove what the kernel does not end with the
supervisor: control groups and the run directory. Supervisor and janitor watch each other: the
supervisor ends the lab when the pipe to the janitor closes.

Started by `launch` as `python -m fimbria.lab.janitor`; the specification comes on stdin, numbers
of inherited descriptors as arguments: lock, listening socket of the API server, caller.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys

from fimbria.lab import cgroups, namespaces
from fimbria.lab.spec import LabPaths, LabSpec


def clean(paths: LabPaths) -> None:
    """Remove what a lab leaves in the machine's namespaces; none of its processes lives any more.

    Bind mounts of the lab existed in its own mount namespace only; here are plain files.
    """
    cgroups.remove_lab(paths.name)  # with what `lab exec` may have left in it
    shutil.rmtree(paths.directory, ignore_errors=True)
    with contextlib.suppress(OSError):  # other labs are there
        paths.root.rmdir()
        paths.root.parent.rmdir()


def main(arguments: list[str]) -> None:
    """Fork the supervisor into its namespaces, wait for its end, clean up."""
    if os.fork():
        os._exit(0)  # so that the caller has no child left, and we no parent to be missed by
    lock, listener, caller = map(int, arguments)
    spec = LabSpec.load(sys.stdin.read())
    paths = LabPaths(spec.name)
    os.chdir("/")
    os.umask(0o077)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    host_proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    alive, watched = os.pipe()  # closes here when the janitor ends
    namespaces.unshare(namespaces.CLONE_NEWPID)  # holds for the child
    pid = os.fork()
    if pid == 0:
        os.close(watched)
        # Loaded here: the janitor stays small.
        from fimbria.lab import supervisor

        for fd in (lock, listener, caller):
            os.set_inheritable(fd, False)
        supervisor.main(spec, paths, host_proc, listener, caller, alive)
        os._exit(0)
    os.close(alive)
    os.close(listener)
    os.close(caller)
    os.waitpid(pid, 0)
    clean(paths)


if __name__ == "__main__":
    main(sys.argv[1:])
