"""A node for tests that break things: what runs in it, what pods on it reach, what it says."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from typing import TYPE_CHECKING, Any

from fimbria.kernel import netns
from tests.unit.agent.agentnode import UnixConnection, World, fimbria, running, until

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Faults", "policy", "running", "until"]

PORT = 7777
POLICIES = "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies"


class Faults(World):
    """A World with pods `one` and `two`, and questions about them."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.pods: dict[str, int] = {}
        self.addresses: dict[str, str] = {}
        self.server = self.processes[1]
        self.api_socket = "api.sock"

    def api(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Ask the API server."""
        connection = UnixConnection(self.dir / self.api_socket)
        kind = "merge-patch+json" if method == "PATCH" else "json"
        headers = {
            "Authorization": "Bearer only-for-this-test",
            "Content-Type": f"application/{kind}",
        }
        with contextlib.closing(connection):
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())

    def enforce(self, document: dict[str, Any]) -> None:
        """Create a policy."""
        status, answer = self.api("POST", POLICIES, document)
        assert status == 201, answer

    def lift(self, name: str) -> None:
        """Delete a policy."""
        status, answer = self.api("DELETE", f"{POLICIES}/{name}")
        assert status == 200, answer

    def stop_api(self) -> None:
        """Kill the API server; its database stays."""
        self.server.kill()
        self.server.wait()

    def start_api(self, name: str = "api.sock") -> None:
        """Serve the database again; the agent knows "api.sock" only."""
        self.api_socket = name
        (self.dir / name).unlink(missing_ok=True)
        self.server = self.spawn(
            [*fimbria("apiserver"), "--data", self.dir / "db",
             "--listen", f"unix:{self.dir}/{name}",
             "--token-file", self.dir / "tokens"]
        )  # fmt: skip

        def answers() -> bool:
            try:
                return self.api("GET", "/version")[0] == 200
            except OSError:
                return False

        until(answers)

    def create(self, name: str) -> None:
        """Make a Pod object of this node, with the label app=NAME."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {"nodeName": "node", "containers": [{"name": "main", "image": "none"}]},
        }
        status, answer = self.api("POST", "/api/v1/namespaces/default/pods", pod)
        assert status == 201, answer

    def request(self, command: str, name: str) -> tuple[dict[str, str], dict[str, Any]]:
        """Environment and configuration of a CNI command, as a runtime of Kubernetes gives them."""
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": name,
            "CNI_IFNAME": "eth0",
            "CNI_NETNS": f"/proc/{os.getpid()}/fd/{self.pods[name]}",
            "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME={name}",
        }
        return env, {"cniVersion": "1.1.0", "name": "cilium", "type": "fimbria-cni"}

    def call(self, command: str, name: str) -> tuple[int, Any]:
        """Give the agent a CNI command for a pod."""
        env, config = self.request(command, name)
        return self.ask("POST", "/v1/cni", {"env": env, "config": config})

    def add(self, name: str) -> str:
        """Connect a new pod; its IPv4 address."""
        self.create(name)
        self.pods[name] = self.pod()
        status, answer = self.call("ADD", name)
        assert status == 200, answer
        self.addresses[name] = answer["ips"][0]["address"].split("/")[0]
        return self.addresses[name]

    def remove(self, name: str) -> None:
        """Disconnect a pod."""
        status, answer = self.cni("DEL", name)
        assert status == 200, answer
        self.pods.pop(name)
        self.addresses.pop(name)

    def device(self, name: str) -> str:
        """The host side's name of a pod's device."""
        for one in self.ask("GET", "/v1/endpoint")[1]:
            if one["container-id"] == name:
                return one["networking"]["interface-name"]
        raise AssertionError(f"no endpoint {name}")

    def reaches(self, source: str, target: str, seconds: float = 10.0) -> bool:
        """Whether a TCP connection from one pod to another is answered."""
        return exchange(self.pods[source], self.pods[target], self.addresses[target], seconds)

    def line(self, name: str) -> dict[str, Any]:
        """One line of the status."""
        lines = self.ask("GET", "/v1/healthz")[1]["lines"]
        return next(line for line in lines if line["name"] == name)

    def python(self, script: str) -> str:
        """Run a script in the node's namespaces; what it printed."""
        done = self.inside(sys.executable, "-c", script)
        assert done.returncode == 0, done.stderr
        return done.stdout


def policy(name: str, only: str, *, to_ports: Any = None, **labels: str) -> dict[str, Any]:
    """A policy about the pods with these labels: only pods of an app reach them."""
    rule: dict[str, Any] = {"fromEndpoints": [{"matchLabels": {"app": only}}]}
    if to_ports:
        rule["toPorts"] = [{"ports": to_ports}]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"endpointSelector": {"matchLabels": labels}, "ingress": [rule]},
    }


def exchange(source: int, target: int, address: str, seconds: float) -> bool:
    """Whether namespace `source` gets a greeting from a listener in `target` at `address`."""

    def listen() -> socket.socket:
        return socket.create_server((address, PORT))

    def connect() -> bool:
        try:
            with socket.create_connection((address, PORT), timeout=seconds) as connection:
                return connection.recv(5) == b"hello"
        except OSError:
            return False

    listener = netns.run_in(target, listen)
    listener.settimeout(seconds)

    def greet() -> None:
        try:
            with listener.accept()[0] as connection:
                connection.sendall(b"hello")
        except OSError:
            return

    server = threading.Thread(target=greet)
    server.start()
    try:
        return netns.run_in(source, connect)
    finally:
        server.join()
        listener.close()
