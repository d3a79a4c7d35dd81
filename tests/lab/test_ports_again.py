"""The same ports again, between real kernels: after an orderly end, and after none at all."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.lab.load import CLIENT_AND_SERVERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.lab.client import Lab

pytestmark = pytest.mark.root

# answers pass only as answers: the server may open nothing, the client accept nothing
MANIFEST = (
    CLIENT_AND_SERVERS
    + """\
apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: {name: one-way, namespace: default}
specs:
  - endpointSelector: {matchLabels: {app: server}}
    ingress:
      - fromEndpoints: [{matchLabels: {app: client}}]
        toPorts: [{ports: [{port: "7000", protocol: TCP}]}]
    egress: [{}]
  - endpointSelector: {matchLabels: {app: client}}
    ingress: [{}]
    egress:
      - toEndpoints: [{matchLabels: {app: server}}]
        toPorts: [{ports: [{port: "7000", protocol: TCP}]}]
"""
)

SERVER = """
import socket
listener = socket.create_server(("", 7000), backlog=64)
print("ready", flush=True)
held = []
while True:
    held.append(listener.accept()[0])
    held[-1].sendall(b"hello")
    if held[-1].recv(1) == b"q":
        held.pop().close()
"""

CLIENT = """
import socket, sys
TCP_REPAIR = 19
def opened(port):
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    client.settimeout(10)
    client.bind(("", port))
    client.connect((sys.argv[1], 7000))
    assert client.recv(5, socket.MSG_WAITALL) == b"hello"
    return client
def end(client):
    client.sendall(b"q")
    assert client.recv(1) == b""  # the server closes first: here the port is free at once
    client.close()
for _ in range(10):
    end(opened(5001))
lost = opened(5002)
lost.sendall(b"x")
lost.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
lost.close()  # and nobody is told
end(opened(5002))
"""


def test_ports_again(make_lab: Callable[..., Lab]) -> None:
    """Ports are used again at once; also those of a connection that the server still believes in.

    Its kernel answers that SYN with a confirmation of the old connection, the client's resets the
    old connection, and the SYN that it sends again is answered.
    """
    lab = make_lab(MANIFEST)
    for name in ("near", "far"):
        server = lab.pod(name)
        target = next(one for one in server["addresses"] if ":" not in one)
        command = ["nsenter", f"--net={server['netns']}", sys.executable, "-c", SERVER]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
                inside = ["nsenter", f"--net={lab.pod('client')['netns']}", sys.executable, "-c"]
                done = subprocess.run(
                    [*inside, CLIENT, target], capture_output=True, text=True, timeout=60
                )
                assert done.returncode == 0, f"{name}: {done.stderr}"
            finally:
                process.kill()
