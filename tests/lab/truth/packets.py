"""Packets that open a connection, each with a number in it that its answer brings back.

TCP is a SYN whose sequence number is the number; UDP, ICMP and SCTP (an INIT) carry it behind a
mark. A port that nobody listens on answers TCP with a reset and ICMP with an echo, both of them the
kernel's own; UDP and SCTP are answered by `answer`, because not every kernel has SCTP.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import ip_address

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
NAMES = {ICMP: "ICMP", TCP: "TCP", UDP: "UDP", ICMPV6: "ICMPV6", SCTP: "SCTP"}
MARK = b"truth?"
REPLY = b"truth!"
ECHO = {8: 0, 128: 129}
"""Types of ICMP that the kernel answers, with the answer's type."""
SYN, RST, ACK = 0x02, 0x04, 0x10
INIT, INIT_ACK = 1, 2


@dataclass(frozen=True)
class Probe:
    """One packet: `port` is the destination port, for ICMP the type.

    `own_port` is 0 for one that no probe to the same place has had lately. A `silent` one is not
    answered by its receiver.
    """

    number: int
    source: str
    destination: str
    protocol: int
    port: int
    own_port: int = 0
    silent: bool = False

    @property
    def source_port(self) -> int:
        """Where it is sent from: a port that no probe goes to."""
        return self.own_port or 33000 + self.number % 27000

    @property
    def answered(self) -> bool:
        """Whether its receiver answers it."""
        if self.protocol in (ICMP, ICMPV6):
            return self.port in ECHO
        return not self.silent

    def __str__(self) -> str:
        return f"{self.source} to {self.destination} {NAMES[self.protocol]} {self.port}"


def _sum(data: bytes, total: int = 0) -> int:
    if len(data) % 2:
        data += b"\0"
    total += sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _pseudo(source: str, destination: str, protocol: int, size: int) -> int:
    ends = ip_address(source).packed + ip_address(destination).packed
    return _sum(ends, protocol + size)


def _crc32c_table() -> list[int]:
    table: list[int] = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc32c_table()


def _crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ _CRC[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


def _sctp(source_port: int, port: int, tag: int, kind: int, number: int) -> bytes:
    chunk = struct.pack("!BBHIIHHI", kind, 0, 20, number, 65536, 1, 1, number)
    head = struct.pack("!HHI", source_port, port, tag)
    crc = _crc32c(head + bytes(4) + chunk)
    return head + struct.pack("<I", crc) + chunk


def _udp(source: str, destination: str, source_port: int, port: int, payload: bytes) -> bytes:
    size = 8 + len(payload)
    head = struct.pack("!HHHH", source_port, port, size, 0)
    check = ~_sum(head + payload, _pseudo(source, destination, UDP, size)) & 0xFFFF
    return head[:6] + struct.pack("!H", check or 0xFFFF) + payload


def opening(probe: Probe) -> bytes:
    """A probe's packet without its IP header; the kernel fills in ICMPv6's checksum."""
    ends = probe.source, probe.destination
    ports = probe.source_port, probe.port
    number = struct.pack("!I", probe.number)
    if probe.protocol == TCP:
        head = struct.pack("!HHIIBBHHH", *ports, probe.number, 0, 5 << 4, SYN, 65535, 0, 0)
        check = ~_sum(head, _pseudo(*ends, TCP, len(head))) & 0xFFFF
        return head[:16] + struct.pack("!H", check) + head[18:]
    if probe.protocol == UDP:
        return _udp(*ends, *ports, MARK + number)
    if probe.protocol == SCTP:
        return _sctp(*ports, 0, INIT, probe.number)
    ident = struct.pack("!HH", probe.source_port, probe.number & 0xFFFF)
    rest = ident + MARK + number
    check = 0 if probe.protocol == ICMPV6 else ~_sum(bytes([probe.port, 0]) + rest) & 0xFFFF
    return struct.pack("!BBH", probe.port, 0, check) + rest


def seen(protocol: int, data: bytes) -> tuple[int, bool] | None:
    """The number in a packet and whether it is an answer; None for packets of others.

    An echo's answer and a packet of that type that nobody asked for look alike: whoever knows the
    probe knows which it is.
    """
    if protocol == TCP and len(data) >= 20:
        sequence, acknowledged = struct.unpack_from("!II", data, 4)
        flags = data[13]
        if flags == SYN:
            return sequence, False
        if flags & ACK and flags & (SYN | RST):
            return (acknowledged - 1) & 0xFFFFFFFF, True
    if protocol == UDP and data[8:14] in (MARK, REPLY) and len(data) >= 18:
        return struct.unpack_from("!I", data, 14)[0], data[8:14] == REPLY
    if protocol == SCTP and len(data) >= 20 and data[12] in (INIT, INIT_ACK):
        tag = struct.unpack_from("!I", data, 4 if data[12] == INIT_ACK else 16)[0]
        return tag, data[12] == INIT_ACK
    if protocol in (ICMP, ICMPV6) and data[8:14] == MARK and len(data) >= 18:
        return struct.unpack_from("!I", data, 14)[0], data[0] in ECHO.values()
    return None


def answer(probe: Probe) -> bytes | None:
    """What a receiver sends back, the other way round; None where its kernel does."""
    if probe.protocol == UDP and not probe.silent:
        ends = probe.destination, probe.source
        return _udp(*ends, probe.port, probe.source_port, REPLY + struct.pack("!I", probe.number))
    if probe.protocol == SCTP:
        return _sctp(probe.port, probe.source_port, probe.number, INIT_ACK, probe.number)
    return None
