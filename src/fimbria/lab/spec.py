"""What a lab is asked to be, and where its files are."""

from __future__ import annotations

import ipaddress
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path("/run/fimbria/lab")
NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?")
MAX_NODES = 64

UNDERLAY4 = ipaddress.IPv4Network("172.18.0.0/24")
UNDERLAY6 = ipaddress.IPv6Network("fd00:ac12::/64")


class LabError(Exception):
    """The lab cannot do what was asked; the message says why and what to do."""


@dataclass(frozen=True)
class LabSpec:
    """The options of `lab up`. `config` is agent configuration, key to value.

    `kube_apiserver` is the path of a kube-apiserver to use instead of the embedded server, `etcd`
    that of its database ("": beside it, or on PATH).
    """

    name: str = "default"
    nodes: int = 2
    routing: str = "tunnel"
    ipv6: bool = False
    host_routing: str = "bpf"
    config: dict[str, str] = field(default_factory=dict[str, str])
    kube_apiserver: str = ""
    etcd: str = ""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise LabError(
                f"name: {self.name!r}: only lower-case letters, digits and '-', 40 at most"
            )
        if not 1 <= self.nodes <= MAX_NODES:
            raise LabError(f"nodes: {self.nodes}: must be 1 to {MAX_NODES}")
        if self.etcd and not self.kube_apiserver:
            raise LabError("etcd: is for a kube-apiserver: name it too")
        for name, path in (("kube-apiserver", self.kube_apiserver), ("etcd", self.etcd)):
            if path and not (os.path.isfile(path) and os.access(path, os.X_OK)):
                raise LabError(f"{name}: {path}: is no program that can be run")
            if path and not os.path.isabs(path):
                raise LabError(f"{name}: {path}: must be an absolute path")

    def node_names(self) -> list[str]:
        """node1, node2, …"""
        return [f"node{number}" for number in range(1, self.nodes + 1)]

    def node_addresses(self, index: int) -> list[str]:
        """The underlay addresses, without prefix length, of the node with this index from 0."""
        addresses = [str(UNDERLAY4[index + 2])]
        if self.ipv6:
            addresses.append(str(UNDERLAY6[index + 2]))
        return addresses

    def agent_config(self, node: str, paths: LabPaths) -> dict[str, str]:
        """The configuration keys of the agent (and, without a node, of the operator)."""
        native = self.routing == "native"
        keys = {
            "routing-mode": self.routing,
            "enable-ipv6": str(self.ipv6).lower(),
            "enable-host-legacy-routing": str(self.host_routing == "legacy").lower(),
            "auto-direct-node-routes": str(native).lower(),
            "k8s-kubeconfig-path": str(paths.agent_kubeconfig),
        }
        if native:
            keys["ipv4-native-routing-cidr"] = "10.0.0.0/8"
        if node:
            keys |= {
                "node-name": node,
                "state-dir": str(paths.node(node) / "state"),
                "socket-path": str(paths.socket(node)),
                "bpf-root": str(paths.bpffs(node)),
            }
        return keys | self.config

    def dump(self) -> str:
        """The specification as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> LabSpec:
        """The inverse of `dump`."""
        values: dict[str, Any] = json.loads(text)
        return cls(**values)


@dataclass(frozen=True)
class LabPaths:
    """Files of one lab, as seen by the lab itself; `outside` gives the machine's view of mounts."""

    name: str
    root: Path = ROOT

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.root / self.name

    @property
    def lock(self) -> Path:
        """Locked by janitor and supervisor as long as either lives."""
        return self.directory / "lock"

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.directory / "lab.sock"

    @property
    def api_socket(self) -> Path:
        """The API server's unix socket."""
        return self.directory / "api.sock"

    @property
    def kubeconfig(self) -> Path:
        """For kubectl, over the machine's loopback."""
        return self.directory / "kubeconfig"

    @property
    def agent_kubeconfig(self) -> Path:
        """For agents and operator, over the unix socket."""
        return self.directory / "kubeconfig.unix"

    @property
    def token(self) -> Path:
        """Bearer token of the API server."""
        return self.directory / "token"

    @property
    def plugins(self) -> Path:
        """CNI plugins; a tmpfs in the lab, because /run often forbids to execute."""
        return self.directory / "bin"

    def log(self, process: str) -> Path:
        """Log of a process of the cluster; an agent's stands in its node's directory."""
        return self.directory / f"{process}.log"

    def node(self, node: str) -> Path:
        """Directory of one node: agent's log, socket, state, configuration."""
        return self.directory / node

    def agent_log(self, node: str) -> Path:
        """The agent's output."""
        return self.node(node) / "agent.log"

    def socket(self, node: str) -> Path:
        """The agent's socket."""
        return self.node(node) / "cilium.sock"

    def bpffs(self, node: str) -> Path:
        """Mount point of the node's BPF file system."""
        return self.node(node) / "bpf"

    def netns(self, name: str) -> Path:
        """Mount point of a network namespace: a node's name, or pod-UID."""
        return self.directory / "netns" / name

    def hosts(self, namespace: str) -> Path:
        """The hosts file of the pods of one Kubernetes namespace."""
        return self.directory / "hosts" / namespace

    @staticmethod
    def outside(path: Path, supervisor: int) -> str:
        """A path below the lab's mounts, for processes outside; supervisor is the machine's pid."""
        return f"/proc/{supervisor}/root{path}"
