"""Netlink messages, and a socket that exchanges them with the kernel's routing tables.

Written here rather than taken from a library because the agent's start and each CNI ADD pay for
it: importing the library that would do takes longer than ten pods take to wire. This module knows
bytes only; what links, addresses and routes look like is netrows.py's business.

Formats: netlink(7), rtnetlink(7), include/uapi/linux/netlink.h and rtnetlink.h. Host byte order.
"""

from __future__ import annotations

import errno
import socket
import struct
import threading
from typing import TYPE_CHECKING, NamedTuple

from fimbria.kernel.errors import NetlinkError

if TYPE_CHECKING:
    from collections.abc import Iterator

NLMSG_NOOP, NLMSG_ERROR, NLMSG_DONE = 1, 2, 3
F_REQUEST, F_MULTI, F_ACK, F_DUMP_INTR = 0x1, 0x2, 0x4, 0x10
F_REPLACE, F_EXCL, F_CREATE, F_APPEND = 0x100, 0x200, 0x400, 0x800
F_DUMP = 0x300
F_CAPPED, F_ACK_TLVS = 0x100, 0x200
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

_SOL_NETLINK = 270
_CAP_ACK, _EXT_ACK, _STRICT = 10, 11, 12
_ERROR_TEXT = 1
_HEADER = struct.Struct("=IHHII")
_ATTR = struct.Struct("=HH")
_TYPE_MASK = 0x3FFF  # without the nested and byte-order bits
_NESTED = 0x8000
_BUFFER = 1 << 18


class Message(NamedTuple):
    """One message: its type, flags, and what follows the header."""

    type: int
    flags: int
    payload: bytes


def attr(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return _ATTR.pack(len(value) + 4, kind) + value + bytes(-len(value) % 4)


def attr_u32(kind: int, value: int) -> bytes:
    """An attribute holding a 32-bit number."""
    return attr(kind, struct.pack("=I", value))


def attr_text(kind: int, value: str) -> bytes:
    """An attribute holding a zero-terminated string."""
    return attr(kind, value.encode() + b"\0")


def nested(kind: int, *attributes: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attr(kind | _NESTED, b"".join(attributes))


def attrs(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by type, the last of a type winning; ValueError if they are cut short."""
    found: dict[int, bytes] = {}
    end = len(data)
    while offset + 4 <= end:
        length, kind = _ATTR.unpack_from(data, offset)
        if length < 4 or offset + length > end:
            raise ValueError(f"attribute {kind} of length {length} at {offset} of {end}")
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def u32(value: bytes) -> int:
    """The number in an attribute's first four bytes."""
    return struct.unpack_from("=I", value)[0]


def text(value: bytes) -> str:
    """The string in an attribute."""
    return value.split(b"\0", 1)[0].decode(errors="replace")


def messages(data: bytes) -> Iterator[tuple[Message, int]]:
    """Messages of a datagram with their sequence numbers; ValueError if one is cut short."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < 16 or offset + length > len(data):
            raise ValueError(f"message {kind} of length {length} at {offset} of {len(data)}")
        yield Message(kind, flags, data[offset + 16 : offset + length]), sequence
        offset += (length + 3) & ~3


class RtnlSocket:
    """A NETLINK_ROUTE socket; belongs to the network namespace its thread had when it opened it,
    whichever thread uses it later. Threads take turns, one exchange each.
    """

    def __init__(self, groups: int = 0) -> None:
        """`groups`: bit mask of multicast groups to hear."""
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        for option in (_CAP_ACK, _EXT_ACK, _STRICT):
            self.socket.setsockopt(_SOL_NETLINK, option, 1)
        self.socket.bind((0, groups))
        self._sequence = 0
        self._turn = threading.Lock()

    def close(self) -> None:
        """Closes the socket."""
        self.socket.close()

    def request(self, kind: int, flags: int, payload: bytes, what: str) -> None:
        """One change; returns when the kernel has acknowledged it, raises NetlinkError if not."""
        with self._turn:
            self._send(kind, flags | F_REQUEST | F_ACK, payload)
            for _ in self._answers(what):
                pass

    def get(self, kind: int, payload: bytes, what: str) -> Message:
        """One object; NetlinkError (ENODEV, ENOENT, …) if there is none."""
        with self._turn:
            self._send(kind, F_REQUEST, payload)
            for message in self._answers(what):
                return message
        raise NetlinkError(errno.EPROTO, what, "an acknowledgement where an object was due")

    def dump(self, kind: int, payload: bytes, what: str) -> list[Message]:
        """All objects; asks again if the tables changed while they were read."""
        while True:
            with self._turn:
                self._send(kind, F_REQUEST | F_DUMP, payload)
                found = list(self._answers(what))
            if not any(message.flags & F_DUMP_INTR for message in found):
                return found

    def _send(self, kind: int, flags: int, payload: bytes) -> None:
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        header = _HEADER.pack(16 + len(payload), kind, flags, self._sequence, 0)
        self.socket.send(header + payload)

    def _answers(self, what: str) -> Iterator[Message]:
        """What the kernel answers to the last request, until it is complete."""
        while True:
            data = self.socket.recv(_BUFFER)
            for message, sequence in messages(data):
                if sequence != self._sequence:
                    continue  # left over from a request that failed half-way
                if message.type == NLMSG_ERROR:
                    self._check(message, what)
                    return
                if message.type == NLMSG_DONE:
                    (code,) = struct.unpack_from("=i", message.payload)
                    if code < 0:
                        raise NetlinkError(-code, what, "")
                    return
                yield message
                if not message.flags & F_MULTI:
                    return

    @staticmethod
    def _check(message: Message, what: str) -> None:
        (code,) = struct.unpack_from("=i", message.payload)
        if code == 0:
            return
        reason = ""
        if message.flags & F_ACK_TLVS:
            # behind the code stands the request's header, and the request unless it was capped
            skip = 16 if message.flags & F_CAPPED else u32(message.payload[4:8])
            extra = attrs(message.payload, 4 + ((skip + 3) & ~3))
            reason = text(extra.get(_ERROR_TEXT, b""))
        raise NetlinkError(-code, what, reason)
