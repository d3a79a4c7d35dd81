"""A client of the container runtime interface: the calls that a kubelet makes for a pod.

CRI is gRPC over a unix socket: HTTP/2, with five bytes in front of each message. curl speaks the
HTTP/2; messages are encoded here, by tables of the fields that the tests use. The numbers are those
of `runtime.v1` in Kubernetes' cri-api.
"""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote

if TYPE_CHECKING:
    from pathlib import Path

Message = dict[str, Any]
Table = dict[str, tuple[int, Any]]

# name: (number, type). Types: str, bytes, int, a table for a message, [type] for a repeated field.
_METADATA: Table = {"name": (1, str), "uid": (2, str), "namespace": (3, str), "attempt": (4, int)}
_PORT: Table = {"protocol": (1, int), "container_port": (2, int), "host_port": (3, int)}
_SANDBOX: Table = {
    "metadata": (1, _METADATA),
    "hostname": (2, str),
    "port_mappings": (5, [_PORT]),
    "labels": (6, [{"key": (1, str), "value": (2, str)}]),
}
_CONTAINER: Table = {
    "metadata": (1, {"name": (1, str), "attempt": (2, int)}),
    "image": (2, {"image": (1, str)}),
    "command": (3, [str]),
}
_NETWORK: Table = {"ip": (1, str), "additional_ips": (2, [{"ip": (1, str)}])}
_SANDBOX_ID: Table = {"pod_sandbox_id": (1, str)}
_CONDITION: Table = {"type": (1, str), "status": (2, int), "message": (4, str)}
METHODS: dict[str, tuple[Table, Table]] = {
    "Status": ({}, {"status": (1, {"conditions": (1, [_CONDITION])})}),
    "RunPodSandbox": ({"config": (1, _SANDBOX)}, _SANDBOX_ID),
    "PodSandboxStatus": (_SANDBOX_ID, {"status": (1, {"network": (5, _NETWORK)})}),
    "ListPodSandbox": ({}, {"items": (1, [{"id": (1, str), "metadata": (2, _METADATA)}])}),
    "StopPodSandbox": (_SANDBOX_ID, {}),
    "RemovePodSandbox": (_SANDBOX_ID, {}),
    "CreateContainer": (
        _SANDBOX_ID | {"config": (2, _CONTAINER), "sandbox_config": (3, _SANDBOX)},
        {"container_id": (1, str)},
    ),
    "StartContainer": ({"container_id": (1, str)}, {}),
    "ExecSync": (
        {"container_id": (1, str), "cmd": (2, [str]), "timeout": (3, int)},
        {"stdout": (1, bytes)},
    ),
}
"""Method -> the fields of its request and of its answer."""
_VARINT, _BYTES = 0, 2


class CriError(Exception):
    """The runtime refused, or does not answer; the message is its own."""


@dataclass(frozen=True)
class Cri:
    """A runtime by its socket."""

    socket: Path

    def call(self, method: str, /, *, patience: float = 60, **fields: Any) -> Message:
        """One call, which may take `patience` seconds; gives the answer. Raises CriError."""
        request, response = METHODS[method]
        body = encode(request, fields)
        # Trailers, where gRPC says how it went, come out with the headers.
        command = [
            "curl", "-sS", "-m", str(patience), "--http2-prior-knowledge",
            "--unix-socket", str(self.socket), "-D", "/dev/stderr", "--data-binary", "@-",
            "-H", "Content-Type: application/grpc", "-H", "TE: trailers",
            f"http://localhost/runtime.v1.RuntimeService/{method}",
        ]  # fmt: skip
        frame = b"\0" + struct.pack(">I", len(body)) + body
        done = subprocess.run(command, input=frame, capture_output=True, check=False)
        said = done.stderr.decode()
        headers = dict(line.split(": ", 1) for line in said.splitlines() if ": " in line)
        if done.returncode or headers.get("grpc-status") != "0":
            raise CriError(f"{method}: {unquote(headers.get('grpc-message', said))}")
        return decode(response, done.stdout[5:])


def encode(table: Table, message: Message) -> bytes:
    """A message by its table; KeyError for a field that the table does not have."""
    data = b""
    for name, value in message.items():
        number, kind = table[name]
        for one in value if isinstance(kind, list) else [value]:
            data += _field(number, kind[0] if isinstance(kind, list) else kind, one)
    return data


def _field(number: int, kind: Any, value: Any) -> bytes:
    if kind is int:
        return _varint(number << 3 | _VARINT) + _varint(value)
    data: bytes = encode(cast("Table", kind), value) if isinstance(kind, dict) else value
    if kind is str:
        data = str(value).encode()
    return _varint(number << 3 | _BYTES) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def decode(table: Table, data: bytes) -> Message:
    """The message in data, absent fields empty; those that the table lacks are left out."""
    fields = {number: (name, kind) for name, (number, kind) in table.items()}
    message = {name: _empty(kind) for name, (_, kind) in table.items()}
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        raw: Any
        raw, at = _read_varint(data, at)
        if tag & 7 == _BYTES:
            raw, at = data[at : at + raw], at + raw
        if tag >> 3 in fields:
            name, kind = fields[tag >> 3]
            if isinstance(kind, list):
                message[name].append(_value(kind[0], raw))
            else:
                message[name] = _value(kind, raw)
    return message


def _empty(kind: Any) -> Any:
    if isinstance(kind, list):
        return []
    return decode(cast("Table", kind), b"") if isinstance(kind, dict) else kind()


def _value(kind: Any, raw: Any) -> Any:
    if isinstance(kind, dict):
        return decode(cast("Table", kind), raw)
    return raw.decode() if kind is str else raw


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value, shift, at = value | (byte & 0x7F) << shift, shift + 7, at + 1
        if byte < 0x80:
            return value, at
