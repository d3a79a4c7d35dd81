"""Runs inside a pod: answer on TCP and UDP ports with the address that was seen.

Its source is handed to the pod's `python3 -c` with the ports as arguments: `tcp:8080 udp:8053 …`.
TCP answers any request with an HTTP response whose body is `{"saw": address}`, UDP with the body
alone. Standard library only, any Python since 3.10.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
from typing import Any


def listen(kind: socket.SocketKind, port: int) -> socket.socket:
    """Return a socket for both families, or for IPv4 where there is no IPv6."""
    try:
        listener = socket.socket(socket.AF_INET6, kind)
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        any_address = "::"
    except OSError:
        listener = socket.socket(socket.AF_INET, kind)
        any_address = "0.0.0.0"
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((any_address, port))
    if kind == socket.SOCK_STREAM:
        listener.listen(128)
    return listener


def body(peer: Any) -> bytes:
    address = peer[0][7:] if peer[0].startswith("::ffff:") else peer[0]
    return json.dumps({"saw": address}).encode()


def answer(connection: socket.socket, peer: Any) -> None:
    with connection:
        connection.settimeout(5)
        try:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n")
            connection.sendall(body(peer))
        except OSError:
            pass


def serve_tcp(listener: socket.socket) -> None:
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=answer, args=(connection, peer), daemon=True).start()


def serve_udp(endpoint: socket.socket) -> None:
    while True:
        _, peer = endpoint.recvfrom(4096)
        endpoint.sendto(body(peer), peer)


def main() -> None:
    threads: list[threading.Thread] = []
    for word in sys.argv[1:]:
        kind, port = word.split(":")
        if kind == "tcp":
            target, listener = serve_tcp, listen(socket.SOCK_STREAM, int(port))
        else:
            target, listener = serve_udp, listen(socket.SOCK_DGRAM, int(port))
        threads.append(threading.Thread(target=target, args=(listener,)))
    for thread in threads:
        thread.start()


if __name__ == "__main__":
    main()
