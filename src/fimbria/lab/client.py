"""A lab from outside: bring it up, apply manifests, run commands in pods, look at it, end it.

The command line and the tests use this; it needs no event loop and imports little.
"""

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
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimbria.lab import cgroups
from fimbria.lab.launch import is_up, launch, names, sweep, wait_gone
from fimbria.lab.namespaces import hang_on_parent, setns
from fimbria.lab.spec import LabError, LabPaths, LabSpec
from fimbria.sources import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fimbria.sources.files import Manifest

Document = dict[str, Any]
WAITABLE = ("Pod", "Deployment", "ReplicaSet", "DaemonSet")
FIRST_KINDS = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "ConfigMap", "Secret")
UP_TIMEOUT, DOWN_TIMEOUT = 60.0, 20.0


def _quiet(text: str) -> None:
    del text


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True)
class Lab:
    """A lab by name. Methods raise LabError with what to do."""

    name: str

    @property
    def paths(self) -> LabPaths:
        """Its files."""
        return LabPaths(self.name)

    @classmethod
    def up(
        cls,
        spec: LabSpec,
        manifests: Iterable[str | Path] = (),
        *,
        timeout: float = UP_TIMEOUT,
        progress: Callable[[str], None] = _quiet,
    ) -> Lab:
        """Start a lab, apply manifests, wait until all of it is ready; else leave nothing."""
        documents = files.read(manifests)
        lab = cls(spec.name)
        deadline = time.monotonic() + timeout
        with launch(spec) as start:
            wanted: list[list[str]] = []
            ready = False
            while not ready:
                lines = start.lines()
                if not lines:
                    raise LabError(lab._failure("the supervisor ended"))
                for line in lines:
                    word, _, rest = line.partition(" ")
                    if word == "api":
                        wanted = lab.apply(documents)
                        progress("API server is up")
                    elif word == "node":
                        progress(f"{rest} is ready")
                    elif word == "failed":
                        raise LabError(lab._failure(rest))
                    ready = ready or word == "ready"
            lab.wait(wanted, timeout=deadline - time.monotonic(), progress=progress)
            start.keep()
        return lab

    def _failure(self, reason: str) -> str:
        """A reason with the last lines of the log that explains it."""
        name = reason.partition(":")[0]
        logs = (self.paths.agent_log(name), self.paths.log(name), self.paths.log("supervisor"))
        log = next((path for path in logs if path.exists()), logs[-1])
        try:
            last = log.read_text(errors="replace").splitlines()[-8:]
        except OSError:
            last = []
        return "\n  ".join([f"lab {self.name!r} did not come up: {reason}", *last])

    def down(self, *, timeout: float = DOWN_TIMEOUT) -> None:
        """End the lab; returns when nothing of it is left."""
        paths = self.paths
        if not is_up(paths):
            sweep()
            known = f"; there are {', '.join(names())}" if names() else ""
            raise LabError(f"there is no lab {self.name!r}{known}")
        try:
            self._ask({"op": "down"})
        except LabError:
            self._kill()
        if wait_gone(paths, timeout / 2):
            return
        self._kill()
        if not wait_gone(paths, timeout / 2):
            raise LabError(f"lab {self.name!r} does not end: see {paths.log('supervisor')}")

    def _kill(self) -> None:
        """End a supervisor that does not listen: whoever has the lab's lock open."""
        lock = str(self.paths.lock)
        for link in Path("/proc").glob("[0-9]*/fd/*"):
            with contextlib.suppress(OSError):
                if os.readlink(link) == lock:
                    os.kill(int(link.parts[2]), signal.SIGKILL)

    def status(self) -> Document:
        """The status document: nodes, pods, pids, paths."""
        return self._ask({"op": "status"})

    def pod(self, name: str, namespace: str = "default") -> Document:
        """One pod's part of the status."""
        for pod in self.status()["pods"]:
            if (pod["namespace"], pod["name"]) == (namespace, name):
                return pod
        raise LabError(f"lab {self.name!r} has no pod {namespace}/{name}")

    def node(self, name: str) -> Document:
        """One node's part of the status."""
        for node in self.status()["nodes"]:
            if node["name"] == name:
                return node
        raise LabError(f"lab {self.name!r} has no node {name}")

    def wait(
        self,
        wanted: Sequence[Sequence[str]],
        *,
        timeout: float = UP_TIMEOUT,
        progress: Callable[[str], None] = _quiet,
    ) -> None:
        """Wait until objects, each (kind, namespace, name), are ready."""
        deadline = time.monotonic() + timeout
        with self._connect() as connection:
            connection.sendall(json.dumps({"op": "wait", "objects": wanted}).encode() + b"\n")
            rest, last = b"", [str(one) for one in wanted]
            while last:
                left = deadline - time.monotonic()
                connection.settimeout(max(left, 0.001))
                try:
                    chunk = connection.recv(65536)
                except TimeoutError:
                    raise LabError(f"not ready in time: {'; '.join(last)}") from None
                if not chunk:
                    raise LabError(self._failure("the supervisor ended"))
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    now = [str(text) for text in json.loads(line)["pending"]]
                    if now:
                        progress(f"waiting for {'; '.join(now)}")
                    last = now

    def apply(self, manifests: Sequence[Manifest]) -> list[list[str]]:
        """Create or merge-patch objects; gives those that `wait` can wait for."""
        ordered = sorted(manifests, key=lambda m: m.kind not in FIRST_KINDS)
        wanted: list[list[str]] = []
        kinds: dict[str, dict[str, Document]] = {}
        for manifest in ordered:
            version = str(manifest.document["apiVersion"])
            prefix = f"/apis/{version}" if "/" in version else f"/api/{version}"
            if version not in kinds:
                _, found = self.api("GET", prefix)
                listed: list[Document] = found.get("resources", [])
                kinds[version] = {one["kind"]: one for one in listed if "/" not in one["name"]}
            kind = kinds[version].get(manifest.kind)
            if kind is None:
                raise manifest.error("kind", f"the API has no {manifest.kind} in {version}")
            namespace = (manifest.namespace or "default") if kind["namespaced"] else ""
            path = f"{prefix}/namespaces/{namespace}" if namespace else prefix
            path = f"{path}/{kind['name']}"
            status, answer = self.api("POST", path, manifest.document)
            if status == 409:
                status, answer = self.api("PATCH", f"{path}/{manifest.name}", manifest.document)
            if status >= 400:
                raise manifest.error("", str(answer.get("message") or f"HTTP {status}"))
            if manifest.kind in WAITABLE:
                wanted.append([manifest.kind, namespace, manifest.name])
        return wanted

    def api(self, method: str, path: str, body: Document | None = None) -> tuple[int, Document]:
        """One request to the API server; gives status and document."""
        token = self.paths.token.read_text().partition(",")[0].strip()
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
        connection = _UnixConnection(self.paths.api_socket)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except OSError as error:
            raise LabError(f"lab {self.name!r}: API server: {error}") from None
        finally:
            connection.close()

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Run kubectl against the lab; gives what it printed. Raises LabError if it fails."""
        done = subprocess.run(
            ["kubectl", *words],
            env=os.environ | {"KUBECONFIG": str(self.paths.kubeconfig)},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"kubectl {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def cli(self, *words: str, node: str = "") -> str:
        """Run `fimbria …` against one of the lab's nodes; gives what it printed."""
        target = f"{self.name}/{node}" if node else self.name
        done = subprocess.run(
            [sys.executable, "-m", "fimbria.cli.main", "--lab", target, *words],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise LabError(f"fimbria {' '.join(words)}: {done.stderr.strip() or done.stdout}")
        return done.stdout

    def exec(
        self, pod: str, command: Sequence[str], *, stdin: str = "", timeout: float | None = 30
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in [namespace/]pod; gives exit code and output."""
        entry = self.entry(pod)
        return subprocess.run(
            list(command),
            preexec_fn=lambda: self.enter(entry),
            env=pod_environment(entry),
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def entry(self, pod: str) -> Document:
        """The status of [namespace/]pod; LabError if it has no sandbox yet."""
        namespace, _, name = pod.rpartition("/")
        found = self.pod(name, namespace or "default")
        if not found["netns"]:
            raise LabError(f"pod {pod} does not run yet ({found['phase']}): try again")
        return found

    def enter(self, entry: Document) -> None:
        """Fork; the child returns, in a pod's namespaces and control group, the caller never.

        The caller waits for the child and exits as it does. The child is a process of the lab's
        PID namespace, so it ends with the lab; and it ends with the caller.
        """
        group = cgroups.hierarchy()
        if group is not None:
            target = group / f"{cgroups.PREFIX}{self.name}" / entry["cgroup"] / "cgroup.procs"
            if target.exists():
                target.write_text("0")
        paths = [entry[kind] for kind in ("pidns", "netns", "utsns", "mntns")]
        for fd in [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths]:
            setns(fd)
        os.chdir("/")
        pid = os.fork()
        if pid == 0:
            hang_on_parent(signal.SIGKILL)
            return
        os.closerange(3, 1024)  # subprocess waits until nobody but what it started holds these
        for number in (signal.SIGINT, signal.SIGQUIT):  # the terminal sends them to both
            signal.signal(number, signal.SIG_IGN)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        os._exit(code if code >= 0 else 128 - code)

    def _connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(15)
        try:
            connection.connect(str(self.paths.control))
        except OSError as error:
            connection.close()
            known = f"; there are {', '.join(names())}" if names() else ": see `fimbria lab up`"
            if is_up(self.paths):
                raise LabError(f"lab {self.name!r} does not answer: {error}") from None
            raise LabError(f"there is no lab {self.name!r}{known}") from None
        return connection

    def _ask(self, request: Document) -> Document:
        with self._connect() as connection, connection.makefile("rwb") as stream:
            stream.write(json.dumps(request).encode() + b"\n")
            stream.flush()
            try:
                line = stream.readline()
            except TimeoutError:
                raise LabError(f"lab {self.name!r} does not answer") from None
        return json.loads(line) if line else {}


def pod_environment(entry: Document) -> dict[str, str]:
    """The environment of a command that is run in a pod."""
    keep = {k: v for k, v in os.environ.items() if k in ("TERM", "LANG", "LC_ALL", "COLUMNS")}
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return keep | {"PATH": path, "HOME": "/root", "HOSTNAME": str(entry["name"])}
