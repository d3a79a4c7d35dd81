"""The system calls that make the lab's namespaces: unshare, setns, mount, and their constants.

Python 3.11 has none of them. Everything here works on the calling process, which is why the lab
calls it between fork and exec, or in the supervisor before its loop starts.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_BIND = 0x1000
MS_REC = 0x4000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MNT_DETACH = 2
PR_SET_PDEATHSIG = 1
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Move the caller into new namespaces; CLONE_NEWPID holds for its children only."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kind: int = 0) -> None:
    """Move the caller into the namespace that fd refers to."""
    _check(_libc.setns(fd, kind), "setns")


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2); OSError names the target."""
    result = _libc.mount(
        source.encode(), os.fsencode(target), kind.encode() or None, flags, data.encode() or None
    )
    _check(result, f"mount {target}")


def unmount(target: Path | str) -> None:
    """umount2(2), at once even if something still looks at it."""
    _check(_libc.umount2(os.fsencode(target), MNT_DETACH), f"umount {target}")


def hang_on_parent(signal_number: int) -> None:
    """Have the kernel send a signal to the caller when its parent ends."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def own_mounts() -> None:
    """Keep mounts to ourselves: the machine's come in, ours do not go out, but to our children."""
    mount("none", "/", flags=MS_SLAVE | MS_REC)
    mount("none", "/", flags=MS_SHARED | MS_REC)


def bind(source: str, target: Path) -> None:
    """Bind-mount a file (also a namespace's, by /proc/…/ns/… or /proc/…/fd/…) onto a new file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.touch()
    mount(source, target, flags=MS_BIND)


def loopback_up() -> None:
    """Bring the loopback device of the caller's network namespace up."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as handle:
        request = struct.pack("16sh14x", b"lo", 0)
        flags: int = struct.unpack("16sh14x", fcntl.ioctl(handle, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(handle, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
