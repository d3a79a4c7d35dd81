"""Programs, links and test runs: what bpf(2) does besides maps.

Thin on purpose: each function is one command, takes descriptors and gives back descriptors or
frozen descriptions. `BpfMap` and the error predicates are re-exported, so that callers need this
module only.
"""

# ruff: noqa: PT028  (test_run is the command's name, not a test)

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from fimbria.kernel.errors import (
    BpfError,
    is_exists,
    is_full,
    is_gone,
    is_not_found,
    is_unsupported,
)
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.syscall import (
    AttachType,
    Cmd,
    MapFlags,
    MapType,
    ProgType,
    UpdateMode,
    address,
    bpf,
    info,
    open_pin,
    pin,
    readable,
    writable,
)

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "AttachType",
    "BpfError",
    "BpfMap",
    "LinkInfo",
    "MapFlags",
    "MapType",
    "ProgInfo",
    "ProgType",
    "TestRun",
    "UpdateMode",
    "attached",
    "bind_map",
    "btf_load",
    "is_exists",
    "is_full",
    "is_gone",
    "is_not_found",
    "is_unsupported",
    "link_create",
    "link_detach",
    "link_info",
    "link_update",
    "open_pin",
    "pin",
    "prog_by_id",
    "prog_info",
    "prog_load",
    "run_syscall",
    "test_run",
    "unpin",
]

LINK_TYPE_TCX = 11
_PROG_INFO_SIZE = 232
_TEST_RUN = struct.Struct("=IIIIQQIIIIQQIII")
_QUERY = struct.Struct("=IIIIQIxxxxQQQQ")
_QUERY_MAX = 64  # programs that the kernel runs on one side of a device
_F_REPLACE = 1 << 2
_LOAD = struct.Struct("=IIQQIIQII16sIIIIQIIQI")


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """What the kernel says about a program; `verified_insns` is the verifier's work on it."""

    id: int
    type: int
    name: str
    tag: str
    map_ids: tuple[int, ...]
    verified_insns: int
    xlated_len: int
    jited_len: int


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """A link; for TCX `ifindex` is 0 once its device is gone."""

    id: int
    type: int
    prog_id: int
    ifindex: int
    attach_type: int


class TestRun(NamedTuple):
    """Outcome of a test run: the program's return value, packet and context as it left them."""

    retval: int
    data: bytes
    ctx: bytes
    duration_ns: int  # per repetition, on average

    __test__ = False  # not a test class, whatever its name


def prog_load(
    type: ProgType,
    instructions: bytes,
    *,
    name: str,
    license: bytes = b"Dual BSD/GPL",
    attach_type: int = 0,
    flags: int = 0,
    btf_fd: int = 0,
    func_info: bytes = b"",
    line_info: bytes = b"",
    log_size: int = 0,
) -> tuple[int, str]:
    """Loads a program and returns (descriptor, verifier log, empty without `log_size`).

    Raises BpfError; with `log_size` the log is in its attribute `log`.
    """
    code, text = readable(instructions), readable(license)
    funcs, lines, log = readable(func_info), readable(line_info), writable(log_size)
    attr = bytearray(
        _LOAD.pack(
            *(type, len(instructions) // 8, address(code), address(text)),
            *(1 if log_size else 0, log_size, address(log) if log_size else 0, 0, flags),
            *(name.encode()[:15], 0, attach_type, btf_fd),
            *(8, address(funcs), len(func_info) // 8),
            *(16, address(lines), len(line_info) // 16),
        )
    )
    try:
        fd = bpf(Cmd.PROG_LOAD, attr, f"load program {name}")
    except BpfError as error:
        error.log = log.value.decode(errors="replace")
        raise
    return fd, log.value.decode(errors="replace")


def btf_load(raw: bytes) -> int:
    """Hands a BTF blob to the kernel and returns its descriptor; BpfError with `log`."""
    blob, log = readable(raw), writable(1 << 16)
    attr = bytearray(struct.pack("=QQIII", address(blob), address(log), len(raw), 1 << 16, 1))
    try:
        return bpf(Cmd.BTF_LOAD, attr, "load BTF")
    except BpfError as error:
        error.log = log.value.decode(errors="replace")
        raise


def bind_map(prog_fd: int, map_fd: int) -> None:
    """Ties a map to a program that does not use it, so that it is listed and lives with it."""
    bpf(Cmd.PROG_BIND_MAP, bytearray(struct.pack("=III", prog_fd, map_fd, 0)), "bind map")


def prog_info(prog_fd: int) -> ProgInfo:
    """Describes a program."""
    count = struct.unpack_from("=I", info(prog_fd, _PROG_INFO_SIZE), 52)[0]
    ids = writable(4 * count)
    raw = writable(_PROG_INFO_SIZE)
    struct.pack_into("=IQ", raw, 52, count, address(ids))
    attr = bytearray(struct.pack("=IIQ", prog_fd, _PROG_INFO_SIZE, address(raw)))
    bpf(Cmd.OBJ_GET_INFO_BY_FD, attr, "program info")
    kind, number, tag, jited, xlated = struct.unpack_from("=II8sII", raw)
    return ProgInfo(
        id=number,
        type=kind,
        name=raw.raw[64:80].split(b"\0")[0].decode(),
        tag=tag.hex(),
        map_ids=struct.unpack_from(f"={count}I", ids),
        verified_insns=struct.unpack_from("=I", raw, 216)[0],
        xlated_len=xlated,
        jited_len=jited,
    )


def prog_by_id(prog_id: int) -> int:
    """Descriptor of the program of that kernel id; BpfError (is_not_found) if it is gone."""
    attr = bytearray(struct.pack("=III", prog_id, 0, 0))
    return bpf(Cmd.PROG_GET_FD_BY_ID, attr, f"open program id {prog_id}")


def attached(ifindex: int, attach_type: AttachType) -> tuple[int, ...]:
    """Ids of the programs on one side of a device, in the order in which they run (TCX)."""
    ids = writable(4 * _QUERY_MAX)
    attr = bytearray(_QUERY.pack(ifindex, attach_type, 0, 0, address(ids), _QUERY_MAX, 0, 0, 0, 0))
    bpf(Cmd.PROG_QUERY, attr, f"query {attach_type.name.lower()} of {ifindex}")
    count = min(_QUERY.unpack(attr)[5], _QUERY_MAX)
    return struct.unpack_from(f"={count}I", ids)


def link_create(
    prog_fd: int, target: int, attach_type: AttachType, *, expected_revision: int = 0
) -> int:
    """Attaches a program by a link; `target` is an ifindex of the caller's namespace, or a
    cgroup's descriptor.

    `expected_revision` (TCX) makes it fail with ESTALE if others attached meanwhile; 0 any.
    """
    attr = bytearray(
        struct.pack("=IIIIIIQ", prog_fd, target, attach_type, 0, 0, 0, expected_revision)
    )
    return bpf(Cmd.LINK_CREATE, attr, f"attach to {attach_type.name.lower()} of {target}")


def link_update(link_fd: int, prog_fd: int, *, expected_prog_fd: int | None = None) -> None:
    """Replaces a link's program in one step; only if it is `expected_prog_fd`, when given."""
    flags = 0 if expected_prog_fd is None else _F_REPLACE
    attr = bytearray(struct.pack("=IIII", link_fd, prog_fd, flags, expected_prog_fd or 0))
    bpf(Cmd.LINK_UPDATE, attr, "update link")


def link_detach(link_fd: int) -> None:
    """Detaches a link's program now, whoever else holds or pins the link."""
    bpf(Cmd.LINK_DETACH, bytearray(struct.pack("=I", link_fd)), "detach link")


def link_info(link_fd: int) -> LinkInfo:
    """Describes a link."""
    kind, number, prog, ifindex, attach = struct.unpack("=III4xII8x", info(link_fd, 32))
    return LinkInfo(number, kind, prog, ifindex, attach)


def test_run(
    prog_fd: int,
    data: bytes,
    *,
    repeat: int = 1,
    ctx: bytes = b"",
    ctx_out: int | None = None,
    data_out: int | None = None,
) -> TestRun:
    """BPF_PROG_TEST_RUN: runs a program on a packet (and a context, for TC a `__sk_buff`).

    `data_out` bytes are kept for the packet (default: the input and 256 more; 0: none, faster),
    `ctx_out` for the context (default: as many as `ctx`).
    """
    room = len(data) + 256 if data_out is None else data_out
    ctx_room = len(ctx) if ctx_out is None else ctx_out
    packet, packet_out = readable(data), writable(room)
    context, context_out = readable(ctx), writable(ctx_room)
    attr = bytearray(
        _TEST_RUN.pack(
            *(prog_fd, 0, len(data), room, address(packet), address(packet_out) if room else 0),
            *(repeat, 0, len(ctx), ctx_room, address(context) if ctx else 0),
            *(address(context_out) if ctx_room else 0, 0, 0, 0),
        )
    )
    bpf(Cmd.PROG_TEST_RUN, attr, "test run")
    fields = _TEST_RUN.unpack(attr)
    return TestRun(fields[1], packet_out.raw[: fields[3]] if room else b"",
                   context_out.raw[: fields[9]] if ctx_room else b"", fields[7])  # fmt: skip


test_run.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  (pytest's marker)


def run_syscall(prog_fd: int, ctx: bytes) -> tuple[int, bytes]:
    """Runs a SEC("syscall") program; (return value, context as the program left it).

    `ctx` holds up to 65535 bytes.
    """
    context = readable(ctx)
    fields = (prog_fd, 0, 0, 0, 0, 0, 0, 0, len(ctx), 0, address(context), 0, 0, 0, 0)
    attr = bytearray(_TEST_RUN.pack(*fields))
    bpf(Cmd.PROG_TEST_RUN, attr, "run")
    return _TEST_RUN.unpack(attr)[1], context.raw[: len(ctx)]


def unpin(path: Path) -> bool:
    """Removes a pin; False if there was none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True
