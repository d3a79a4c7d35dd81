"""Runs inside a pod: try to reach others, all at once, and print what became of each attempt.

Its source is handed to the pod's `python3 -c` with the attempts as JSON in the first argument:
`[{"kind": "tcp"|"udp"|"icmp", "address": …, "port": …, "timeout": seconds}, …]`. It prints one
JSON list in the same order: `{"result": "reached"|"refused"|"timeout"|"unreachable", "saw": …}`;
`saw` is the address that the other end saw us with. Standard library only, any Python since 3.10.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


def tcp(attempt: dict[str, Any], family: int) -> str | None:
    with socket.socket(family, socket.SOCK_STREAM) as connection:
        connection.settimeout(attempt["timeout"])
        connection.connect((attempt["address"], attempt["port"]))
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while True:
            data = connection.recv(4096)
            if not data:
                break
            answer += data
    return json.loads(answer.partition(b"\r\n\r\n")[2])["saw"]


def udp(attempt: dict[str, Any], family: int) -> str | None:
    with socket.socket(family, socket.SOCK_DGRAM) as endpoint:
        endpoint.connect((attempt["address"], attempt["port"]))
        answer = repeat(endpoint, lambda: endpoint.send(b"?"), attempt["timeout"])
    return json.loads(answer)["saw"]


def icmp(attempt: dict[str, Any], family: int) -> str | None:
    request, reply, protocol = (8, 0, 1) if family == socket.AF_INET else (128, 129, 58)
    with socket.socket(family, socket.SOCK_RAW, protocol) as endpoint:
        endpoint.connect((attempt["address"], 0))
        ident = int.from_bytes(os.urandom(2), "big")
        packet = struct.pack("!BBHHH", request, 0, 0, ident, 1) + b"probe..."
        if family == socket.AF_INET:
            packet = packet[:2] + struct.pack("!H", checksum(packet)) + packet[4:]

        def ours(data: bytes) -> bool:
            data = data[(data[0] & 15) * 4 :] if family == socket.AF_INET else data
            return data[0] == reply and data[4:6] == struct.pack("!H", ident)

        repeat(endpoint, lambda: endpoint.send(packet), attempt["timeout"], ours)
    return None


def repeat(
    endpoint: socket.socket,
    send: Callable[[], int],
    timeout: float,
    ours: Callable[[bytes], bool] = lambda data: True,
) -> bytes:
    """Send three times in `timeout`, return the first answer that is ours."""
    endpoint.settimeout(timeout / 3)
    for _ in range(3):
        send()
        try:
            while True:
                data = endpoint.recv(4096)
                if ours(data):
                    return data
        except TimeoutError:
            pass
    raise TimeoutError


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def run(attempt: dict[str, Any], results: list[Any], index: int) -> None:
    family = socket.AF_INET6 if ":" in attempt["address"] else socket.AF_INET
    try:
        saw = {"tcp": tcp, "udp": udp, "icmp": icmp}[attempt["kind"]](attempt, family)
        results[index] = {"result": "reached", "saw": saw}
    except TimeoutError:
        results[index] = {"result": "timeout"}
    except ConnectionRefusedError:
        results[index] = {"result": "refused"}
    except OSError as error:
        results[index] = {"result": "unreachable", "error": str(error)}


def main() -> None:
    attempts: list[dict[str, Any]] = json.loads(sys.argv[1])
    results: list[Any] = [None] * len(attempts)
    threads = [
        threading.Thread(target=run, args=(attempt, results, index))
        for index, attempt in enumerate(attempts)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
