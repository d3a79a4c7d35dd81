"""Probes: is a container alive, is it ready? Asked as a kubelet asks, from the node's network.

A container with a TCP or UDP containerPort and no readiness probe is ready once it listens there;
that is looked up in its namespace and sends no packets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimbria.kernel import netns
from fimbria.lab import objects

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Document = dict[str, Any]
FIRST_PERIOD = 0.05
"""Seconds between probes until the first success: a lab should not idle for a whole period."""


@dataclass(frozen=True)
class Probe:
    """One probe of a container, with Kubernetes' fields; times in seconds."""

    kind: str
    detail: Document
    delay: float
    period: float
    timeout: float
    success: int
    failure: int

    @classmethod
    def of(cls, document: Document | None) -> Probe | None:
        """The probe in a manifest, None if there is none or none of a known kind."""
        if not document:
            return None
        for kind in ("exec", "httpGet", "tcpSocket"):
            if kind in document:
                return cls(
                    kind,
                    document[kind],
                    float(document.get("initialDelaySeconds") or 0),
                    float(document.get("periodSeconds") or 10),
                    float(document.get("timeoutSeconds") or 1),
                    int(document.get("successThreshold") or 1),
                    int(document.get("failureThreshold") or 3),
                )
        return None


@dataclass(frozen=True)
class Target:
    """What probes are sent to: the pod's first address, from the node's network namespace."""

    node_net: int
    address: str
    ports: dict[str, int]
    execute: Callable[[list[str]], Awaitable[int]]

    def port(self, value: object) -> int:
        """A port by number or name; 0 if there is none of that name."""
        return self.ports.get(str(value), 0) if not str(value).isdigit() else int(str(value))


async def ask(probe: Probe, target: Target) -> bool:
    """Whether one probe succeeds."""
    try:
        async with asyncio.timeout(probe.timeout):
            if probe.kind == "exec":
                return await target.execute([str(w) for w in probe.detail["command"]]) == 0
            host = str(probe.detail.get("host") or target.address)
            port = target.port(probe.detail.get("port"))
            if probe.kind == "tcpSocket":
                (await connect(target.node_net, host, port)).close()
                return True
            return 200 <= await _http(probe.detail, target.node_net, host, port) < 400
    except (OSError, TimeoutError, ValueError):
        return False


async def connect(net: int, host: str, port: int) -> socket.socket:
    """A TCP connection from a network namespace."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET

    def make() -> socket.socket:
        return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)

    connection = netns.run_in(net, make)
    try:
        await asyncio.get_running_loop().sock_connect(connection, (host, port))
    except BaseException:
        connection.close()
        raise
    return connection


async def _http(detail: Document, net: int, host: str, port: int) -> int:
    loop = asyncio.get_running_loop()
    with contextlib.closing(await connect(net, host, port)) as connection:
        headers = {one["name"]: one["value"] for one in objects.parts(detail, "httpHeaders")}
        headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1", **headers}
        lines = [f"GET {detail.get('path') or '/'} HTTP/1.0"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await loop.sock_sendall(connection, "\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n" not in answer and len(answer) < 4096:
            chunk = await loop.sock_recv(connection, 4096)
            if not chunk:
                break
            answer += chunk
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else 0


def listens(pid: int, port: int, protocol: str) -> bool:
    """Whether something listens on a port in the network namespace of process `pid`."""
    listening = "0A" if protocol == "tcp" else "07"
    for name in (protocol, f"{protocol}6"):
        try:
            lines = Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            fields = line.split()
            if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == listening:
                return True
    return False
