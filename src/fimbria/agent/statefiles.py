"""What the agent must remember over its own death, as small JSON files written atomically.

`<state dir>/<endpoint id>/endpoint.json` per endpoint, `<state dir>/node.json` for the node and
`trial.json` for policies on trial. A file is written beside its place, synced, renamed, and its
folder synced: after a crash there is the old one or the new one. An endpoint's file has a copy,
because a pod without it would lose its network.
A file that cannot be read is named and moved aside (`*.malformed`), and the others are used.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FORMAT = 1
ENDPOINT_FILE = "endpoint.json"
NODE_FILE = "node.json"
TRIAL_FILE = "trial.json"
COPY = ".copy"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
MALFORMED = ".malformed"

log = logging.getLogger(__name__)


class StateFileError(Exception):
    """A state file that is not what was written: truncated, edited, or of another version."""


class EndpointFile(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An endpoint as it is remembered. Addresses and MACs as text, labels as source:key=value."""

    format: int = FORMAT
    id: int
    container_id: str
    container_ifname: str
    namespace: str
    pod: str
    pod_uid: str = ""
    netns: str = ""
    ifname: str
    ifindex: int
    mac: str
    node_mac: str
    ipv4: str = ""
    ipv6: str = ""
    identity: int = 0
    labels: tuple[str, ...] = ()
    named_ports: tuple[tuple[str, int, str], ...] = ()
    audit: bool = False


class NodeFile(msgspec.Struct, frozen=True, kw_only=True):
    """What the node needs to come up while the API is away."""

    format: int = FORMAT
    node_name: str
    pod_cidrs: tuple[str, ...] = ()
    overrides: dict[str, str] = {}


class TrialFile(msgspec.Struct, frozen=True, kw_only=True):
    """A trial as it is remembered. `deadline` is CLOCK_BOOTTIME in seconds, `until` jiffies."""

    format: int = FORMAT
    boot_id: str
    deadline: float
    until: int
    confirmed: bool = False
    documents: list[dict[str, Any]]


S = TypeVar("S", EndpointFile, NodeFile, TrialFile)


def write(path: Path, value: msgspec.Struct) -> None:
    """Write `value` to `path` so that a crash leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n")


def replace_file(path: Path, data: bytes, mode: int = 0o640) -> None:
    """Write bytes to `path` atomically and durably."""
    temporary = path.with_name(f".{path.name}.tmp")  # the next writer takes what a crash left
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def read(path: Path, kind: type[S]) -> S:
    """Read a state file; StateFileError naming file and field, FileNotFoundError."""
    try:
        data = path.read_bytes()
    except (IsADirectoryError, PermissionError) as error:
        raise StateFileError(f"{path}: {error.strerror}") from error
    try:
        value = msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise StateFileError(f"{path}: {error}") from error
    if value.format != FORMAT:
        raise StateFileError(f"{path}: format is {value.format}, this version reads {FORMAT}")
    return value


def endpoint_path(state_dir: Path, endpoint_id: int) -> Path:
    """Return where the endpoint's file is."""
    return state_dir / str(endpoint_id) / ENDPOINT_FILE


def write_endpoint(state_dir: Path, endpoint: EndpointFile) -> None:
    """Remember an endpoint."""
    path = endpoint_path(state_dir, endpoint.id)
    write(path, endpoint)
    # Against damage, not against a crash: unsynced, which costs the ADD nothing.
    copy = path.with_name(path.name + COPY)
    copy.unlink(missing_ok=True)
    copy.write_bytes(path.read_bytes())


def remove_endpoint(state_dir: Path, endpoint_id: int) -> None:
    """Forget an endpoint; none is no error."""
    path = endpoint_path(state_dir, endpoint_id)
    # First the file, so that a crash in between leaves an empty folder and not an endpoint.
    path.unlink(missing_ok=True)
    shutil.rmtree(path.parent, ignore_errors=True)


def endpoints(state_dir: Path) -> Iterator[EndpointFile]:
    """Yield the remembered endpoints by id; malformed files are logged and moved aside."""
    folders = [f for f in state_dir.iterdir() if f.name.isdigit()] if state_dir.is_dir() else []
    for folder in sorted(folders, key=lambda f: int(f.name)):
        path = folder / ENDPOINT_FILE
        try:
            yield _read_endpoint(path)
        except FileNotFoundError:
            # Left by a crash between making the folder and writing, or during removal.
            if not path.with_name(path.name + MALFORMED).exists():
                shutil.rmtree(folder, ignore_errors=True)
        except StateFileError as error:
            log.error("%s; moved aside to %s%s", error, path.name, MALFORMED)
            with contextlib.suppress(OSError):
                path.rename(path.with_name(path.name + MALFORMED))
            with contextlib.suppress(OSError, StateFileError):
                endpoint = _read_endpoint(path.with_name(path.name + COPY))
                log.warning("endpoint %d: its copy is used", endpoint.id)
                write(path, endpoint)
                yield endpoint


def room(state_dir: Path) -> int:
    """Return how many more bytes fit into the state directory; 0 also if no file can be made."""
    found = os.statvfs(state_dir)
    if found.f_flag & os.ST_RDONLY or (found.f_files and not found.f_favail):
        return 0
    return found.f_bavail * found.f_frsize


def lost_endpoints(state_dir: Path) -> list[int]:
    """Return the endpoints whose file was malformed, and so was its copy."""
    return sorted(
        int(path.parent.name)
        for path in state_dir.glob(f"[0-9]*/{ENDPOINT_FILE}{MALFORMED}")
        if path.parent.name.isdigit() and not path.with_name(ENDPOINT_FILE).exists()
    )


def _read_endpoint(path: Path) -> EndpointFile:
    endpoint = read(path, EndpointFile)
    if str(endpoint.id) != path.parent.name:
        raise StateFileError(f"{path}: id is {endpoint.id}, its folder {path.parent.name}")
    check_endpoint(endpoint, path)
    return endpoint


def check_endpoint(endpoint: EndpointFile, path: Path) -> None:
    """Raise StateFileError, naming the field, for a value that no endpoint has."""
    from ipaddress import IPv4Address, IPv6Address

    if not 1 <= endpoint.id <= 4095:
        raise StateFileError(f"{path}: id {endpoint.id} is not in 1 to 4095")
    for name in ("container_id", "container_ifname", "ifname"):
        if not getattr(endpoint, name):
            raise StateFileError(f"{path}: {name} is empty")
    if not 0 < endpoint.ifindex < 1 << 31:
        raise StateFileError(f"{path}: ifindex {endpoint.ifindex} is none")
    if not 0 <= endpoint.identity < 1 << 24:
        raise StateFileError(f"{path}: identity {endpoint.identity} is not in 24 bits")
    if not endpoint.ipv4 and not endpoint.ipv6:
        raise StateFileError(f"{path}: has neither ipv4 nor ipv6")
    for name, kind in (("ipv4", IPv4Address), ("ipv6", IPv6Address)):
        text = getattr(endpoint, name)
        try:
            if text:
                kind(text)
        except ValueError as error:
            raise StateFileError(f"{path}: {name}: {error}") from error
    for name in ("mac", "node_mac"):
        try:
            if len(mac_bytes(getattr(endpoint, name))) != 6:
                raise ValueError
        except ValueError:
            raise StateFileError(f"{path}: {name} is no MAC address") from None


def mac_bytes(text: str) -> bytes:
    """Return "02:00:…" as bytes; ValueError if it is no hexadecimal text."""
    return bytes.fromhex(text.replace(":", ""))


def mac_text(mac: bytes) -> str:
    """Return six bytes as "02:00:…"."""
    return mac.hex(":")


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
