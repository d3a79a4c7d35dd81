"""Traffic that notices every loss: run as a script inside a pod's network namespace.

    traffic.py serve
    traffic.py load SECONDS|until-eof TARGET…

`serve` echoes TCP on ALLOWED and FORBIDDEN and UDP on ALLOWED. `load` runs against each target
until the time is over or standard input ends: one TCP stream, one request/response connection,
new connections (CONNECTS_PER_SECOND over all targets), UDP echo, ping, and connection attempts to
the port that policy forbids. It prints one JSON report: what was sent, and what broke.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import sys
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOWED, FORBIDDEN = 7000, 7002
CONNECTS_PER_SECOND = 600
PATIENCE = 3.0
BLOCK = bytes(range(256)) * 64


class Report:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []

    def count(self, what: str) -> None:
        with self.lock:
            self.counts[what] += 1

    def breakage(self, what: str, target: str, why: object) -> None:
        with self.lock:
            self.counts[f"{what} broken"] += 1
            self.broken.append(f"{time.time():.3f} {what} {target}: {why}")


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def serve() -> None:
    """Echo on both ports and protocols until standard input ends."""

    def echo(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(1 << 16):
                    connection.sendall(data)
            except OSError:
                return

    def accept(listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            threading.Thread(target=echo, args=(connection,), daemon=True).start()

    for port in (ALLOWED, FORBIDDEN):
        listener = socket.create_server(
            ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.bind(("::", ALLOWED))

    def reflect() -> None:
        while True:
            data, sender = datagrams.recvfrom(2048)
            datagrams.sendto(data, sender)

    threading.Thread(target=reflect, daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()


def read_exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        if not more:
            raise ConnectionError("closed by the other end")
        data += more
    return data


def stream(report: Report, target: str, over: threading.Event, block: bytes, name: str) -> None:
    """One connection for the whole run; every byte must come back."""
    try:
        with socket.create_connection((target, ALLOWED), timeout=30) as connection:
            while not over.is_set():
                connection.sendall(block)
                if read_exactly(connection, len(block)) != block:
                    raise ConnectionError("other bytes came back")
                report.count(name)
                if len(block) > 64:
                    time.sleep(0.005)
    except OSError as error:
        report.breakage(name, target, error)


def connects(report: Report, target: str, over: threading.Event, rate: float) -> None:
    """New connections at a steady rate, each with a byte there and back."""
    due = time.monotonic()
    while not over.is_set():
        due += 1 / rate
        time.sleep(max(0.0, due - time.monotonic()))
        try:
            with socket.create_connection((target, ALLOWED), timeout=PATIENCE) as connection:
                connection.sendall(b"x")
                read_exactly(connection, 1)
                reset = struct.pack("ii", 1, 0)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            report.count("connect")
        except OSError as error:
            report.breakage("connect", target, error)


def forbidden(report: Report, target: str, over: threading.Event) -> None:
    """Attempts that policy denies: each must fail."""
    while not over.is_set():
        try:
            with socket.create_connection((target, FORBIDDEN), timeout=0.2):
                report.breakage("forbidden", target, "let through")
        except TimeoutError:
            report.count("forbidden")


def datagrams(report: Report, target: str, over: threading.Event) -> None:
    with socket.socket(family(target), socket.SOCK_DGRAM) as channel:
        channel.connect((target, ALLOWED))
        channel.settimeout(PATIENCE)
        number = 0
        while not over.is_set():
            number += 1
            message = number.to_bytes(8, "big")
            try:
                channel.send(message)
                if channel.recv(64) != message:
                    raise OSError("another datagram came back")
                report.count("udp")
            except OSError as error:
                report.breakage("udp", target, error)
            time.sleep(0.005)


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def ping(report: Report, target: str, over: threading.Event) -> None:
    """ICMP echo by a raw socket, because not every pod may use ping sockets."""
    v6 = ":" in target
    protocol = socket.getprotobyname("ipv6-icmp" if v6 else "icmp")
    request, reply = (128, 129) if v6 else (8, 0)
    ident = (os.getpid() ^ hash(target)) & 0xFFFF
    with socket.socket(family(target), socket.SOCK_RAW, protocol) as channel:
        channel.connect((target, 0))
        number = 0
        while not over.is_set():
            number = (number + 1) & 0xFFFF
            body = struct.pack("!HH16s", ident, number, b"traffic")
            head = struct.pack("!BBH", request, 0, 0)
            sum16 = 0 if v6 else checksum(head + body)
            channel.send(struct.pack("!BBH", request, 0, sum16) + body)
            until = time.monotonic() + PATIENCE
            while True:
                left = until - time.monotonic()
                if left <= 0 or not select.select([channel], [], [], left)[0]:
                    report.breakage("ping", target, f"no answer to number {number}")
                    break
                data = channel.recv(2048)
                icmp = data if v6 else data[(data[0] & 15) * 4 :]
                if icmp[0] == reply and icmp[4:8] == body[:4]:
                    report.count("ping")
                    break
            time.sleep(0.01)


def load(limit: str, targets: list[str]) -> None:
    report, over = Report(), threading.Event()
    rate = CONNECTS_PER_SECOND / len(targets)
    jobs: list[tuple[Callable[..., None], tuple[object, ...]]] = []
    for target in targets:
        jobs += [
            (stream, (target, over, BLOCK, "stream")),
            (stream, (target, over, BLOCK[:32], "request")),
            (connects, (target, over, rate / 2)),
            (connects, (target, over, rate / 2)),
            (forbidden, (target, over)),
            (datagrams, (target, over)),
            (ping, (target, over)),
        ]
    threads = [threading.Thread(target=job, args=(report, *args)) for job, args in jobs]
    for thread in threads:
        thread.start()
    print("running", flush=True)
    if limit == "until-eof":
        sys.stdin.read()
    else:
        time.sleep(float(limit))
    over.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"counts": report.counts, "broken": report.broken[:50]}), flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve()
    else:
        load(sys.argv[2], sys.argv[3:])
