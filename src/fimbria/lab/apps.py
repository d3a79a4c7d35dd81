"""The built-in applications that stand in for images: they run inside pods, as a plain script.

    apps.py sleep
    apps.py echo     tcp:80 udp:53 …   HTTP that says who answers and whom it saw; datagrams echoed
    apps.py lines    tcp:7 udp:7       TCP and UDP echo, byte for byte
    apps.py starwars tcp:80            the API of the Death Star

Standard library only and few modules of it: a pod must be Ready some milliseconds after it is
started. Who it is comes from the environment: FIMBRIA_POD, FIMBRIA_NAMESPACE, FIMBRIA_NODE.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading

LIMIT = 65536
Request = tuple[str, str, bytes]
Answer = tuple[int, str, bytes]


def who() -> dict[str, object]:
    """This pod, as its environment names it."""
    keys = ("pod", "namespace", "node")
    return {key: os.environ.get(f"FIMBRIA_{key.upper()}", "") for key in keys}


def plain(address: str) -> str:
    """An address without the prefix of mapped IPv4."""
    return address.removeprefix("::ffff:")


def listen(kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket for both families, or for IPv4 where there is no IPv6."""
    try:
        server = socket.socket(socket.AF_INET6, kind)
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        host = "::"
    except OSError:
        server = socket.socket(socket.AF_INET, kind)
        host = "0.0.0.0"
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.bind((host, port))
    if kind == socket.SOCK_STREAM:
        server.listen(1024)
    return server


def read_request(stream: socket.socket, rest: bytes) -> tuple[Request | None, bytes]:
    """One HTTP request (method, path, body) and what came behind it; None at the end."""
    while b"\r\n\r\n" not in rest:
        chunk = stream.recv(LIMIT)
        if not chunk or len(rest) > LIMIT:
            return None, b""
        rest += chunk
    head, _, rest = rest.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    method, path, _ = (lines[0] + "  ").split(" ", 2)
    fields = dict(line.lower().split(":", 1) for line in lines[1:] if ":" in line)
    length = fields.get("content-length", "0").strip()
    size = int(length) if length.isdigit() else 0
    while len(rest) < size <= LIMIT:
        chunk = stream.recv(LIMIT)
        if not chunk:
            return None, b""
        rest += chunk
    return (method, path, rest[:size]), rest[size:]


def echo(request: Request, local: tuple[str, int], client: tuple[str, int]) -> Answer:
    """Who answered, and whom it saw."""
    seen = {
        "method": request[0],
        "path": request[1],
        "client": {"address": plain(client[0]), "port": client[1]},
        "server": {"address": plain(local[0]), "port": local[1]},
    }
    return 200, "application/json", json.dumps(who() | seen).encode() + b"\n"


def starwars(request: Request, local: tuple[str, int], client: tuple[str, int]) -> Answer:
    """The Death Star: ships land, and one port should not be touched."""
    method, path, _ = request
    if (method, path) == ("POST", "/v1/request-landing"):
        return 200, "text/plain", b"Ship landed\n"
    if (method, path) == ("PUT", "/v1/exhaust-port"):
        return 503, "text/plain", b"Panic: deathstar exploded\n"
    if method == "GET" and path in ("/", "/v1", "/v1/"):
        document = {
            "name": "Death Star",
            "hostname": who()["pod"],
            "routes": ["GET /v1/", "POST /v1/request-landing", "PUT /v1/exhaust-port"],
        }
        return 200, "application/json", json.dumps(document).encode() + b"\n"
    return 404, "text/plain", b"no such route\n"


def serve_http(stream: socket.socket, app: str) -> None:
    """Answer requests on one connection until the client is done."""
    handler = starwars if app == "starwars" else echo
    with stream:
        rest = b""
        try:
            local, client = stream.getsockname()[:2], stream.getpeername()[:2]
            while True:
                request, rest = read_request(stream, rest)
                if request is None:
                    return
                status, kind, body = handler(request, local, client)
                head = f"HTTP/1.1 {status} -\r\nContent-Type: {kind}\r\nServer: {who()['pod']}\r\n"
                head += f"Content-Length: {len(body)}\r\n\r\n"
                stream.sendall(head.encode() + body)
        except OSError:
            return


def serve_lines(stream: socket.socket) -> None:
    """Send back what comes, on one connection."""
    with stream:
        try:
            while chunk := stream.recv(LIMIT):
                stream.sendall(chunk)
        except OSError:
            return


def serve_tcp(port: int, app: str) -> None:
    """Serve a TCP port, one thread per connection."""
    server = listen(socket.SOCK_STREAM, port)
    while True:
        stream, _ = server.accept()
        if app == "lines":
            work = threading.Thread(target=serve_lines, args=(stream,), daemon=True)
        else:
            work = threading.Thread(target=serve_http, args=(stream, app), daemon=True)
        work.start()


def serve_udp(port: int) -> None:
    """Send every datagram back to where it came from."""
    server = listen(socket.SOCK_DGRAM, port)
    while True:
        data, peer = server.recvfrom(LIMIT)
        server.sendto(data, peer)


def _leave(number: int, frame: object) -> None:
    os._exit(0)


def main(arguments: list[str]) -> None:
    """Run one application until SIGTERM."""
    app, *ports = arguments
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _leave)
    for word in ports:
        kind, _, port = word.partition(":")
        if kind == "tcp":
            work = threading.Thread(target=serve_tcp, args=(int(port), app), daemon=True)
        else:
            work = threading.Thread(target=serve_udp, args=(int(port),), daemon=True)
        work.start()
    while True:
        signal.pause()


if __name__ == "__main__":
    main(sys.argv[1:])
