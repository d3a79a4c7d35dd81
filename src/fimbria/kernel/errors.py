"""What can go wrong at the kernel's door, as types and predicates instead of strings to match.

Every failed bpf(2) call is a `BpfError`, every refused netlink request a `NetlinkError`; both are
OSErrors with their errno, so that callers ask `is_not_found(error)` rather than compare numbers.
The loader's errors say which file, map or program, and what differs.
"""

from __future__ import annotations

import errno
import os
import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

ENOTSUPP = 524  # kernel-internal, but bpf(2) returns it; errno has no name for it


class BpfError(OSError):
    """A bpf(2) call that the kernel refused: the kernel's `errno`, and `what` was tried.

    `log` is the verifier's or BTF checker's log, where one was asked for.
    """

    def __init__(self, number: int, what: str) -> None:
        reason = "not supported" if number == ENOTSUPP else os.strerror(number)
        super().__init__(number, f"{what}: {reason}")
        self.what = what
        self.log = ""


class NetlinkError(OSError):
    """A change or question that the kernel's routing tables refused, with the kernel's reason."""

    def __init__(self, number: int, what: str, reason: str) -> None:
        detail = f" ({reason})" if reason else ""
        super().__init__(number, f"{what}: {os.strerror(number)}{detail}")
        self.what = what
        self.reason = reason


class ObjectError(Exception):
    """A BPF object file that cannot be used: unreadable, malformed, or beyond what we load."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason


@contextmanager
def undamaged(path: Path) -> Generator[None]:
    """Turns what a parser stumbles over in damaged bytes into an ObjectError for `path`."""
    try:
        yield
    except (struct.error, LookupError, ValueError, OverflowError, RecursionError) as error:
        what = str(error) or type(error).__name__
        raise ObjectError(path, f"not a BPF object file, or a damaged one: {what}") from error


class AbiMismatch(ObjectError):
    """The object was built from another abi.h than datapath/abi.py was generated from."""

    def __init__(self, path: Path, types: tuple[str, ...]) -> None:
        super().__init__(
            path,
            f"built with another layout of {', '.join(types)} than this release expects; "
            "build the datapath and the package from the same source (make abi build)",
        )
        self.types = types


class VerifierError(ObjectError):
    """The verifier refused a program. `log` is the whole log that the kernel gave."""

    def __init__(self, path: Path, program: str, error: OSError, log: str) -> None:
        tail = "\n".join(log.rstrip().splitlines()[-25:])
        super().__init__(
            path, f"program {program} does not load: {os.strerror(error.errno or 0)}\n{tail}"
        )
        self.program = program
        self.errno = error.errno
        self.log = log


class IncompatibleMap(Exception):
    """A map that is already there has another shape than the one asked for."""

    def __init__(self, path: Path | str, field: str, have: object, want: object) -> None:
        super().__init__(
            f"{path}: {field} is {have}, this release needs {want}; it belongs to another version "
            "and is not touched (remove the pin to start empty)"
        )
        self.path = path
        self.field = field
        self.have = have
        self.want = want


class UnsupportedKernel(Exception):
    """The running kernel lacks something that cannot be done without."""


def is_not_found(error: BaseException) -> bool:
    """True for ENOENT (no such key, pin, id, rule) and ESRCH (no such route)."""
    return isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ESRCH)


def is_exists(error: BaseException) -> bool:
    """True for EEXIST: key, pin, link or route is already there."""
    return isinstance(error, OSError) and error.errno == errno.EEXIST


def is_full(error: BaseException) -> bool:
    """True if a map has no room: E2BIG (hash), ENOSPC (LPM trie), ENOMEM (not preallocated)."""
    return isinstance(error, OSError) and error.errno in (
        errno.E2BIG,
        errno.ENOSPC,
        errno.ENOMEM,
    )


def is_gone(error: BaseException) -> bool:
    """True if the device, namespace or link meant by a call no longer exists."""
    return isinstance(error, OSError) and error.errno in (
        errno.ENODEV,
        errno.ENOLINK,
        errno.ENXIO,
    )


def is_unsupported(error: BaseException) -> bool:
    """True if the kernel does not know the call, map operation or attach type."""
    return isinstance(error, OSError) and error.errno in (
        errno.EOPNOTSUPP,
        errno.ENOSYS,
        ENOTSUPP,
    )
