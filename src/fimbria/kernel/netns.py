"""Network namespaces: opening them, and doing something inside one without leaving one's own.

A namespace belongs to a thread, so work in another one is done by a thread that exists for that
purpose only and ends with it: nothing has to be restored, and no failure can leave the caller in
the wrong place. Sockets opened that way keep their namespace and may be used by any thread.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703
_libc = ctypes.CDLL(None, use_errno=True)


def open_netns(path: Path) -> int:
    """Descriptor of a namespace by path (a bind mount, or /proc/PID/ns/net); OSError if none.

    What is at the path may be anything: a pipe does not block here. See `is_netns`.
    """
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)


def is_netns(fd: int) -> bool:
    """Whether a descriptor is a network namespace's (ioctl_ns(2))."""
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == CLONE_NEWNET
    except OSError:
        return False


def current_netns() -> int:
    """Descriptor of the calling thread's namespace."""
    return open_netns(Path("/proc/thread-self/ns/net"))


def same_netns(one: int, other: int) -> bool:
    """Whether two descriptors mean the same namespace."""
    return os.path.samestat(os.fstat(one), os.fstat(other))


def enter(fd: int) -> None:
    """Moves the calling thread into a namespace for good; OSError if it is none."""
    _check(_libc.setns(fd, CLONE_NEWNET), "setns")


def unshare() -> int:
    """Makes a new namespace, in which nobody is, and returns its descriptor.

    It exists as long as something refers to it: the descriptor, a mount, a process.
    """

    def inside() -> int:
        _check(_libc.unshare(CLONE_NEWNET), "unshare")
        return current_netns()

    return _in_thread(inside)


def run_in(fd: int, function: Callable[[], T]) -> T:
    """Calls `function` in a thread of namespace `fd`; returns or raises what it does."""

    def inside() -> T:
        enter(fd)
        return function()

    return _in_thread(inside)


def read_sysctl(name: str, netns: int | None = None) -> str:
    """A sysctl by its path below /proc/sys, such as `net/ipv4/ip_forward`."""
    path = Path("/proc/sys") / name
    if netns is None:
        return path.read_text().strip()
    return run_in(netns, path.read_text).strip()


def write_sysctls(values: dict[str, str], netns: int | None = None) -> None:
    """Sets sysctls by their paths below /proc/sys; OSError names the first that cannot be set."""

    def write() -> None:
        for name, value in values.items():
            # no O_CREAT and no buffering: one write, whose error is the kernel's answer
            fd = os.open(f"/proc/sys/{name}", os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, value.encode())
            finally:
                os.close(fd)

    if netns is None:
        write()
    else:
        run_in(netns, write)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _in_thread(function: Callable[[], T]) -> T:
    done: list[T] = []
    failed: list[BaseException] = []

    def body() -> None:
        try:
            done.append(function())
        except BaseException as error:  # handed to the caller below
            failed.append(error)

    thread = threading.Thread(target=body, name="netns")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return done[0]
