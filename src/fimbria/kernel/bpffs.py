"""BPF file systems: where pins live.

`mount` puts one at a path of the caller's mount namespace; `detached` makes one that is mounted
nowhere and goes with its descriptor, for work that must leave nothing behind.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_MAGIC = 0xCAFE4A11
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on all architectures
_CMD_CREATE = 6
_libc = ctypes.CDLL(None, use_errno=True)


def is_bpffs(path: Path) -> bool:
    """Whether a folder is on a BPF file system; False also if it does not exist."""
    buffer = (ctypes.c_long * 32)()  # struct statfs begins with f_type
    if _libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return buffer[0] == _MAGIC


def mount(path: Path) -> None:
    """Mounts a BPF file system on a folder, which is made if need be; OSError."""
    path.mkdir(parents=True, exist_ok=True)
    _check(_libc.mount(b"bpf", os.fsencode(path), b"bpf", 0, b"mode=0700"), f"mount bpf on {path}")


def require(path: Path) -> bool:
    """Sees to it that a folder is on a BPF file system; True if one had to be mounted there.

    Raises OSError if it cannot be, or if the folder is another file system's and not empty.
    """
    path.mkdir(parents=True, exist_ok=True)
    if is_bpffs(path):
        return False
    if any(path.iterdir()):
        raise OSError(errno.ENOTEMPTY, "it is no BPF file system, and not empty")
    mount(path)
    return True


def detached() -> int:
    """Descriptor of a new BPF file system; reach it through `folder`. Close it to end it."""
    context = _check(_libc.syscall(_FSOPEN, b"bpf", 1), "fsopen bpf")
    try:
        _check(_libc.syscall(_FSCONFIG, context, _CMD_CREATE, None, None, 0), "fsconfig bpf")
        return _check(_libc.syscall(_FSMOUNT, context, 1, 0), "fsmount bpf")
    finally:
        os.close(context)


def folder(fd: int) -> Path:
    """The path by which this process reaches a detached file system."""
    return Path(f"/proc/self/fd/{fd}")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result
