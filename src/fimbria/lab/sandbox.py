"""A pod's namespaces: network, mounts with its own /etc/hosts, host name; and the CNI plugin.

A short-lived child makes the namespaces; descriptors and a bind mount keep them. The plugin is
called as any runtime calls it: executed, with its variables, the configuration on stdin.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fimbria.lab import namespaces, objects
from fimbria.lab.processes import Place

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fimbria.lab.objects import Document
    from fimbria.lab.processes import Processes

INTERFACE = "eth0"


class CniFailure(Exception):
    """The plugin reported an error."""


@dataclass(frozen=True)
class Sandbox:
    """What holds a pod's namespaces. `path` is the network namespace's bind mount, if its own."""

    container_id: str
    net: int
    mnt: int
    uts: int
    path: Path | None

    def place(self, cgroup: Path | None) -> Place:
        """Where the pod's processes run."""
        return Place(self.net, self.mnt, self.uts, cgroup)

    def close(self) -> None:
        """Give the namespaces up; they end with their last process."""
        for fd in {self.mnt, self.uts} | ({self.net} if self.path else set[int]()):
            os.close(fd)
        if self.path:
            namespaces.unmount(self.path)
            self.path.unlink(missing_ok=True)


def create(pod: Document, path: Path | None, hosts: Path, node_net: int) -> Sandbox:
    """Make a pod's namespaces; `path` None: it uses its node's network. Blocks for some ms."""
    flags = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWUTS
    if path is not None:
        flags |= namespaces.CLONE_NEWNET
    name = str(pod["spec"].get("hostname") or pod["metadata"]["name"])
    failure, report = os.pipe()
    release, hold = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(failure)
        os.close(hold)
        _prepare(flags, name, hosts, path is not None, report, release)
    os.close(report)
    os.close(release)
    try:
        error = os.read(failure, 4096)
        if error != b".":
            raise OSError(f"pod sandbox: {error.decode() or 'its process was killed'}")
        kinds = ("net", "mnt", "uts") if path else ("mnt", "uts")
        fds = {
            kind: os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY | os.O_CLOEXEC) for kind in kinds
        }
        if path is not None:
            namespaces.bind(f"/proc/{pid}/ns/net", path)
    finally:
        os.close(failure)
        os.close(hold)
    container_id = hashlib.sha256(os.urandom(32)).hexdigest()
    return Sandbox(container_id, fds.get("net", node_net), fds["mnt"], fds["uts"], path)


def _prepare(
    flags: int, name: str, hosts: Path, own_network: bool, report: int, release: int
) -> None:
    """In the child: make the namespaces, say so, wait until they are held. Never returns."""
    import socket

    try:
        namespaces.unshare(flags)
        namespaces.mount("none", "/", flags=namespaces.MS_SLAVE | namespaces.MS_REC)
        namespaces.mount(str(hosts), "/etc/hosts", flags=namespaces.MS_BIND)
        socket.sethostname(name[:63])
        if own_network:
            namespaces.loopback_up()
        os.write(report, b".")
        os.read(release, 1)
    except BaseException as error:  # this copy of the supervisor must not go on, whatever happened
        os.write(report, str(error).encode())
    finally:
        os._exit(0)


@dataclass(frozen=True)
class Cni:
    """How one node's kubelet calls the plugin."""

    processes: Processes
    plugin: Path
    config: Mapping[str, object]
    place: Place

    async def add(self, pod: Document, sandbox: Sandbox) -> list[str]:
        """ADD; gives the addresses, without prefix lengths. Raises CniFailure."""
        result = await self._call("ADD", pod, sandbox, str(sandbox.path))
        return [str(ip["address"]).partition("/")[0] for ip in objects.parts(result, "ips")]

    async def delete(self, pod: Document, sandbox: Sandbox) -> None:
        """DEL. Raises CniFailure."""
        await self._call("DEL", pod, sandbox, str(sandbox.path))

    async def _call(self, command: str, pod: Document, sandbox: Sandbox, net: str) -> Document:
        meta = pod["metadata"]
        arguments = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": meta["namespace"],
            "K8S_POD_NAME": meta["name"],
            "K8S_POD_INFRA_CONTAINER_ID": sandbox.container_id,
            "K8S_POD_UID": meta["uid"],
        }
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": sandbox.container_id,
            "CNI_NETNS": net,
            "CNI_IFNAME": INTERFACE,
            "CNI_PATH": str(self.plugin.parent),
            "CNI_ARGS": ";".join(f"{name}={value}" for name, value in arguments.items()),
        }
        given, said, log = (os.memfd_create(name) for name in ("config", "result", "stderr"))
        try:
            os.write(given, json.dumps(self.config).encode())
            os.lseek(given, 0, os.SEEK_SET)
            child = self.processes.spawn(
                [str(self.plugin)],
                place=self.place,
                environment=environment,
                files={0: given, 1: said, 2: log},
            )
            code = await child.exited
            output, errors = os.pread(said, 1 << 20, 0), os.pread(log, 4096, 0)
        finally:
            for fd in (given, said, log):
                os.close(fd)
        return _result(code, output, errors)


def _result(code: int, output: bytes, errors: bytes) -> Document:
    try:
        document: Any = json.loads(output) if output.strip() else {}
    except ValueError:
        document = {}
    if code:
        message = document.get("msg") or errors.decode(errors="replace").strip()[-300:]
        detail = f" ({document['details']})" if document.get("details") else ""
        raise CniFailure(f"{message or f'exit code {code}'}{detail}")
    return document
