"""The bpf(2) system call itself: numbers, and one function that makes it.

An attribute is a bytearray laid out like the kernel's `union bpf_attr` for that command; the
kernel writes its answers into the same bytes. Layouts and numbers: include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

from fimbria.kernel.errors import BpfError, UnsupportedKernel

if TYPE_CHECKING:
    from pathlib import Path

_NUMBERS = {"x86_64": 321, "aarch64": 280, "riscv64": 280}
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


class Cmd(IntEnum):
    """enum bpf_cmd, as far as used."""

    MAP_CREATE = 0
    MAP_LOOKUP_ELEM = 1
    MAP_UPDATE_ELEM = 2
    MAP_DELETE_ELEM = 3
    MAP_GET_NEXT_KEY = 4
    PROG_LOAD = 5
    OBJ_PIN = 6
    OBJ_GET = 7
    PROG_TEST_RUN = 10
    PROG_GET_FD_BY_ID = 13
    MAP_GET_FD_BY_ID = 14
    OBJ_GET_INFO_BY_FD = 15
    PROG_QUERY = 16
    BTF_LOAD = 18
    BTF_GET_FD_BY_ID = 19
    MAP_FREEZE = 22
    MAP_LOOKUP_BATCH = 24
    MAP_UPDATE_BATCH = 26
    MAP_DELETE_BATCH = 27
    LINK_CREATE = 28
    LINK_UPDATE = 29
    LINK_DETACH = 34
    PROG_BIND_MAP = 35


class MapType(IntEnum):
    """enum bpf_map_type, as far as the loader knows them."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13
    RINGBUF = 27


PER_CPU = frozenset({MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH})
OF_MAPS = frozenset({MapType.ARRAY_OF_MAPS, MapType.HASH_OF_MAPS})


class MapFlags(IntFlag):
    """Flags of MAP_CREATE, as far as used."""

    NONE = 0
    NO_PREALLOC = 1 << 0
    RDONLY_PROG = 1 << 7
    MMAPABLE = 1 << 10


class UpdateMode(IntEnum):
    """What an update may do: anything, only create, only replace."""

    ANY = 0
    NOEXIST = 1
    EXIST = 2


class ProgType(IntEnum):
    """enum bpf_prog_type, as far as loaded."""

    SCHED_CLS = 3
    XDP = 6
    CGROUP_SOCK_ADDR = 18
    SYSCALL = 31


class AttachType(IntEnum):
    """enum bpf_attach_type, as far as used."""

    CGROUP_INET4_BIND = 8
    CGROUP_INET6_BIND = 9
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    CGROUP_INET4_GETPEERNAME = 29
    CGROUP_INET6_GETPEERNAME = 30
    XDP = 37
    TCX_INGRESS = 46
    TCX_EGRESS = 47


def bpf(cmd: Cmd, attr: bytearray, what: str) -> int:
    """Makes the call; `attr` holds the kernel's answers afterwards.

    Returns what the call returns, a file descriptor where one is made (close-on-exec). Raises
    BpfError, with `what` in its text.
    """
    if _NUMBER is None:
        raise UnsupportedKernel(f"bpf(2) has no known number on {platform.machine()}")
    buffer = (ctypes.c_char * len(attr)).from_buffer(attr)
    result = int(_syscall(_NUMBER, int(cmd), buffer, len(attr)))
    if result < 0:
        raise BpfError(ctypes.get_errno(), what)
    return result


def info(fd: int, size: int) -> bytes:
    """The first `size` bytes of the kernel's description of a map, program or link."""
    buffer = writable(size)
    attr = bytearray(struct.pack("=IIQ", fd, size, address(buffer)))
    bpf(Cmd.OBJ_GET_INFO_BY_FD, attr, "object info")
    return buffer.raw[:size]


def btf_raw(btf_id: int) -> bytes:
    """The BTF blob of that kernel id."""
    attr = bytearray(struct.pack("=III", btf_id, 0, 0))
    fd = bpf(Cmd.BTF_GET_FD_BY_ID, attr, f"open BTF id {btf_id}")
    try:
        size = struct.unpack_from("=I", info(fd, 32), 8)[0]
        blob, described = writable(size), writable(32)
        struct.pack_into("=QI", described, 0, address(blob), size)
        attr = bytearray(struct.pack("=IIQ", fd, 32, address(described)))
        bpf(Cmd.OBJ_GET_INFO_BY_FD, attr, f"read BTF id {btf_id}")
        return blob.raw[:size]
    finally:
        os.close(fd)


def pin(fd: int, path: Path) -> None:
    """Gives a map, program or link a name in a bpffs; BpfError (is_exists) if it is taken."""
    text = readable(os.fsencode(path))
    bpf(Cmd.OBJ_PIN, bytearray(struct.pack("=QII", address(text), fd, 0)), f"pin {path}")


def open_pin(path: Path) -> int:
    """Descriptor of a pinned object; BpfError (is_not_found) if there is no such pin."""
    text = readable(os.fsencode(path))
    return bpf(Cmd.OBJ_GET, bytearray(struct.pack("=QII", address(text), 0, 0)), f"open {path}")


def address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    """Address of a ctypes buffer, for a pointer field of an attribute."""
    return ctypes.addressof(buffer)


def readable(data: bytes | bytearray) -> ctypes.Array[ctypes.c_char]:
    """A buffer the kernel may read: the bytes and a terminating zero."""
    return ctypes.create_string_buffer(bytes(data), len(data) + 1)


def writable(size: int) -> ctypes.Array[ctypes.c_char]:
    """A zeroed buffer that the kernel may fill."""
    return ctypes.create_string_buffer(max(size, 1))


def possible_cpus() -> int:
    """Number of CPUs that per-CPU map values are kept for (also those not online)."""
    with open("/sys/devices/system/cpu/possible") as file:
        ranges = file.read().strip().split(",")
    return int(ranges[-1].split("-")[-1]) + 1


def kernel_version() -> tuple[int, int]:
    """Major and minor version of the running kernel."""
    major, minor = os.uname().release.split("-")[0].split(".")[:2]
    return int(major), int(minor)


_NUMBER = _NUMBERS.get(platform.machine())
