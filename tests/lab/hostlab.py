"""Talking to nodes themselves: who listens and who connects sits in a network namespace by path."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.lab.client import Lab

CONFIG = {"enable-host-firewall": "true"}
SSH, WEB = 2222, 8080
"""Ports of the nodes themselves."""
PATH = "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies"

ECHO = """---
kind: Pod
apiVersion: v1
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  nodeName: {node}
  containers: [{{name: main, image: fimbria/echo, ports: [{{containerPort: 80}}]}}]
"""

SERVE = """
import select, socket, sys, threading
listeners = []
for port in map(int, sys.argv[1:]):
    for family, any in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        one = socket.socket(family)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        one.bind((any, port))
        one.listen(64)
        listeners.append(one)
def serve(connection):
    with connection:
        try:
            connection.sendall(b"hello")
            while data := connection.recv(4096):
                connection.sendall(data)
        except OSError:
            pass
print("ready", flush=True)
while True:
    ready, _, _ = select.select([*listeners, sys.stdin], [], [])
    if sys.stdin in ready:
        break
    for one in ready:
        threading.Thread(target=serve, args=one.accept()[:1], daemon=True).start()
"""

CONNECT = """
import socket, sys
try:
    with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as s:
        sys.exit(0 if s.recv(5) == b"hello" else 2)
except TimeoutError:
    sys.exit(3)
"""

SESSION = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=60) as s:
    s.recv(5)
    print("open", flush=True)
    for line in sys.stdin:
        s.sendall(line.encode())
        got = b""
        while len(got) < len(line):
            got += s.recv(4096)
        print(got.decode().strip(), flush=True)
"""


class Session:
    """A connection that lasts, like a login's: what is typed comes back."""

    def __init__(self, netns: str, address: str, port: int) -> None:
        self.process = subprocess.Popen(
            ["nsenter", f"--net={netns}", sys.executable, "-c", SESSION, address, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "open\n"

    def type(self, word: str) -> None:
        """Send a word."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def comes_back(self, word: str, seconds: float) -> bool:
        """Whether the word that was typed comes back within a time."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        if not ready:
            return False
        assert self.process.stdout.readline() == f"{word}\n"
        return True

    def close(self) -> None:
        """End it, answered or not."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def listening(lab: Lab, node: str, *ports: int) -> Iterator[None]:
    """TCP on ports of a node, all its addresses; who connects is told hello."""
    process = subprocess.Popen(
        ["nsenter", f"--net={lab.node(node)['netns']}", sys.executable, "-c", SERVE]
        + [str(port) for port in ports],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.communicate()


def reaches(netns: str, address: str, port: int, patience: float = 1.0) -> bool:
    """Whether a connection from a namespace is answered; silence is no, anything else an error."""
    done = subprocess.run(
        ["nsenter", f"--net={netns}", sys.executable, "-c", CONNECT, address, str(port),
         str(patience)],
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 3), f"{address} port {port}: {done.returncode}"
    return done.returncode == 0


def echoes(**nodes: str) -> str:
    """Manifests of pods that answer at port 80, by name with their nodes; label app is the name."""
    return "".join(ECHO.format(name=name, node=node) for name, node in nodes.items())


def curl(netns: str, address: str) -> bool:
    """Whether port 80 answers who asks from a namespace; silence is no, anything else an error."""
    url = f"http://[{address}]/" if ":" in address else f"http://{address}/"
    words = ["nsenter", f"--net={netns}", "curl", "-sf", "-m", "1", "-o", "/dev/null", url]
    done = subprocess.run(words, check=False)
    assert done.returncode in (0, 28), f"{url}: {done.returncode}"
    return done.returncode == 0


def until(what: Callable[[], bool], said: str, seconds: float = 20) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, said
        time.sleep(0.05)


def policy(name: str, **spec: Any) -> dict[str, Any]:
    """A policy about the nodes with the label role=guarded."""
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumClusterwideNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"nodeSelector": {"matchLabels": {"role": "guarded"}}, **spec},
    }


def label(lab: Lab, node: str, **labels: str | None) -> None:
    """Give a Node labels, or take them away."""
    status, answer = lab.api("PATCH", f"/api/v1/nodes/{node}", {"metadata": {"labels": labels}})
    assert status < 300, answer


def create(lab: Lab, document: dict[str, Any]) -> None:
    """Create a policy; returns when every node has heard of it and done what it says."""
    status, answer = lab.api("POST", PATH, document)
    assert status < 300, answer
    name = document["metadata"]["name"]
    for node in ("node1", "node2"):
        until(lambda node=node: found(lab, node, name) is not None, f"{node} has not heard")
        lab.cli("policy", "wait", node=node)


def remove(lab: Lab, name: str) -> None:
    """Delete a policy; returns when no node has it any more."""
    status, answer = lab.api("DELETE", f"{PATH}/{name}")
    assert status < 300, answer
    for node in ("node1", "node2"):
        until(lambda node=node: found(lab, node, name) is None, f"{node} has it still")
        lab.cli("policy", "wait", node=node)


def found(lab: Lab, node: str, name: str) -> dict[str, Any] | None:
    """A policy as a node shows it; None if it has none of that name."""
    policies = json.loads(lab.cli("policy", "list", "-o", "json", node=node))
    return next((one for one in policies["policies"] if one["name"] == name), None)
