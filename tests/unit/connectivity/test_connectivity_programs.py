"""The programs that run inside the test's pods, run here on loopback."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.connectivity.places import source_of

if TYPE_CHECKING:
    from collections.abc import Iterator


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def ports() -> Iterator[tuple[int, int]]:
    """A server on a TCP and a UDP port."""
    tcp, udp = free_port(socket.SOCK_STREAM), free_port(socket.SOCK_DGRAM)
    argv = [sys.executable, "-c", source_of("server"), f"udp:{udp}", f"tcp:{tcp}"]
    with subprocess.Popen(argv) as server:
        try:
            while True:
                try:
                    socket.create_connection(("127.0.0.1", tcp), timeout=5).close()
                    break
                except ConnectionRefusedError:
                    assert server.poll() is None
            yield tcp, udp
        finally:
            server.kill()


def probe(*attempts: dict[str, Any]) -> list[dict[str, Any]]:
    argv = [sys.executable, "-c", source_of("probe"), json.dumps(attempts)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def attempt(kind: str, port: int, address: str = "127.0.0.1") -> dict[str, Any]:
    return {"kind": kind, "address": address, "port": port, "timeout": 5.0}


def test_reached(ports) -> None:
    """TCP and UDP are answered with the address that was seen; results keep their order."""
    tcp, udp = ports
    results = probe(attempt("udp", udp), attempt("tcp", tcp))
    assert results == [{"result": "reached", "saw": "127.0.0.1"}] * 2


def test_refused(ports) -> None:
    """A closed TCP port is an answer of its own."""
    assert probe(attempt("tcp", free_port(socket.SOCK_STREAM)))[0]["result"] == "refused"


def test_silence() -> None:
    """Who does not answer is a timeout, after the time given."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        one = {**attempt("udp", silent.getsockname()[1]), "timeout": 0.05}
        assert probe(one) == [{"result": "timeout"}]


@pytest.mark.root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_ping(address: str) -> None:
    """ICMP and ICMPv6 echo."""
    assert probe(attempt("icmp", 0, address)) == [{"result": "reached", "saw": None}]
