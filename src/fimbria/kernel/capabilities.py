"""What the kernel lets this process do: capabilities given up for good, at the start.

Each thread has its own (capabilities(7)), and new ones get those of the thread that makes them: so
`keep_only` is called while there is one thread.
"""

from __future__ import annotations

import ctypes
import os
import struct
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_VERSION = 0x20080522
_DATA = struct.Struct("=IIIIII")  # effective, permitted, inheritable; twice 32 bits of each
_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL = 47, 4
_libc = ctypes.CDLL(None, use_errno=True)


class Capability(IntEnum):
    """Numbers of include/uapi/linux/capability.h, as far as used."""

    DAC_OVERRIDE = 1
    NET_ADMIN = 12
    NET_RAW = 13
    SYS_PTRACE = 19
    SYS_ADMIN = 21


def permitted() -> int:
    """Bit mask of the calling thread's permitted capabilities; OSError."""
    return _read()[1]


def missing(wanted: Collection[Capability]) -> list[Capability]:
    """Those of `wanted` that the calling thread does not have."""
    have = permitted()
    return [one for one in wanted if not have >> one & 1]


def keep_only(wanted: Collection[Capability]) -> None:
    """Gives up every capability but `wanted`, for the caller, its threads and all they start.

    Whatever is executed from now on gets no more than that either (no_new_privs). OSError if the
    caller does not have them.
    """
    mask = sum(1 << one for one in wanted)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    for number in range(int(Path("/proc/sys/kernel/cap_last_cap").read_text()) + 1):
        if not mask >> number & 1 and _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
            _check(_libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0), f"drop capability {number}")
    _check(_libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient capabilities")
    low, high = mask & 0xFFFFFFFF, mask >> 32
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION, 0))
    data = ctypes.create_string_buffer(_DATA.pack(low, low, 0, high, high, 0))
    _check(_libc.capset(header, data), "capset")


def _read() -> tuple[int, int, int]:
    """Effective, permitted and inheritable capabilities as bit masks."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _VERSION, 0))
    data = ctypes.create_string_buffer(_DATA.size)
    _check(_libc.capget(header, data), "capget")
    fields = _DATA.unpack(data.raw)
    effective, allowed, inherited = (fields[i] | fields[i + 3] << 32 for i in range(3))
    return effective, allowed, inherited


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
