"""A node of its own for tests: namespaces, an API server, an operator, an agent as a process."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, TypeVar

from fimbria.kernel import netns

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODE = """
set -e
mount --make-rprivate /
mkdir -p {dir}/bpf && mount -t bpf bpf {dir}/bpf
ip link set lo up
ip link add eth0 type veth peer name peer0
ip link set eth0 up; ip link set peer0 up
ip addr add 172.31.0.2/24 dev eth0
exec sleep infinity
"""


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("agent", timeout=60)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(60)
        self.sock.connect(str(self.path))


class World:
    """A node (namespaces kept by a sleeping process), an API server, an operator, an agent."""

    operator: tuple[str, ...] = ()
    """Flags of the operator."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder
        self.processes: list[subprocess.Popen[Any]] = []
        self.namespaces: list[int] = []
        self.node = self.spawn(["unshare", "-n", "-m", "sh", "-c", NODE.format(dir=folder)])
        (folder / "tokens").write_text("only-for-this-test,admin\n")
        self.spawn(
            [*fimbria("apiserver"), "--data", folder / "db", "--listen", f"unix:{folder}/api.sock",
             "--token-file", folder / "tokens", "--kubeconfig-out", folder / "kubeconfig"]
        )  # fmt: skip
        until(lambda: (folder / "kubeconfig").exists())
        until(lambda: "eth0" in self.inside("ip", "-br", "addr").stdout)
        flags = ("--k8s-kubeconfig-path", folder / "kubeconfig", *self.operator)
        self.spawn([*fimbria("operator"), *flags])
        self.socket = folder / "agent.sock"
        self.agent: subprocess.Popen[Any] | None = None

    def spawn(self, command: list[Any], **options: Any) -> subprocess.Popen[Any]:
        process = subprocess.Popen([str(part) for part in command], **options)
        self.processes.append(process)
        return process

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--target={self.node.pid}", "--net", "--mount"]
        return subprocess.run([*enter, *command], capture_output=True, text=True, check=False)

    def command(self, **keys: str) -> list[str]:
        settings = {
            "node-name": "node",
            "k8s-kubeconfig-path": str(self.dir / "kubeconfig"),
            "state-dir": str(self.dir / "state"),
            "socket-path": str(self.socket),
            "bpf-root": str(self.dir / "bpf"),
            **{key.replace("_", "-"): value for key, value in keys.items()},
        }
        flags = [part for key, value in settings.items() for part in (f"--{key}", value)]
        return [
            *("nsenter", f"--target={self.node.pid}", "--net", "--mount"),
            *(f"--wd={os.getcwd()}", *fimbria("agent"), *flags),
        ]

    def start(self) -> None:
        with (self.dir / "log").open("ab") as log:
            agent = self.agent = self.spawn(self.command(), stderr=log)

        def ready() -> bool:
            assert agent.poll() is None, self.log()
            return self.status() == 200

        until(ready)

    def kill(self) -> None:
        assert self.agent is not None
        self.agent.send_signal(signal.SIGKILL)
        self.agent.wait()

    def status(self) -> int:
        try:
            return self.cni("STATUS")[0]
        except OSError:
            return 0

    def run(self, **keys: str) -> subprocess.CompletedProcess[str]:
        """Run an agent that is expected to end by itself."""
        return subprocess.run(
            self.command(**keys), capture_output=True, text=True, timeout=60, check=False
        )

    def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = UnixConnection(self.socket)
        with contextlib.closing(connection):
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def cni(
        self, command: str, container: str = "", pod: int | None = None, **config: Any
    ) -> tuple[int, Any]:
        env = {"CNI_COMMAND": command, "CNI_CONTAINERID": container, "CNI_IFNAME": "eth0"}
        if pod is not None:
            env["CNI_NETNS"] = f"/proc/{os.getpid()}/fd/{pod}"
        document = {"cniVersion": "1.1.0", "name": "cilium", **config}
        return self.ask("POST", "/v1/cni", {"env": env, "config": document})

    def pod(self) -> int:
        self.namespaces.append(netns.unshare())
        return self.namespaces[-1]

    def log(self) -> str:
        return (self.dir / "log").read_text()

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        for fd in self.namespaces:
            os.close(fd)


W = TypeVar("W", bound=World)


@contextlib.contextmanager
def running(made: W) -> Iterator[W]:
    """Start the agent of a node that was just made; the node ends with the block."""
    try:
        made.start()
        yield made
    finally:
        made.close()


def fimbria(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fimbria.cli.main", *arguments]


def until(condition: Any, seconds: float = 60.0) -> None:
    """Wait for something that another process brings about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
