"""PID 1 of a lab: starts everything, restarts what dies, and takes the lab with it when it ends.

apiserver ─► operator, agents (one per node) ─► pods
    └─ watches ─► controllers, kubelets, hosts files ─► control socket
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from fimbria.cni import install
from fimbria.lab import cgroups, namespaces, network
from fimbria.lab.janitor import clean
from fimbria.lab.launch import KEEP, open_log
from fimbria.lab.processes import PYTHON, Place, Processes

if TYPE_CHECKING:
    import socket

    from fimbria.lab.kubelet import Kubelets
    from fimbria.lab.processes import Child
    from fimbria.lab.spec import LabPaths, LabSpec

log = logging.getLogger(__name__)

RESTART_MAX = 5.0
GIVE_UP = 3
"""Ends of an agent or of the API server before it was ready once, after which `lab up` fails."""


@dataclass
class Daemon:
    """A process of the cluster that is kept running."""

    name: str
    command: list[str]
    place: Place
    log: int
    environment: dict[str, str]
    child: Child | None = None
    ends: int = 0
    keep: tuple[int, ...] = ()

    @property
    def pid(self) -> int:
        """The machine's pid, 0 while it is down."""
        return self.child.host_pid if self.child else 0


@dataclass
class Supervisor:
    """The lab's state, as the control socket shows it."""

    spec: LabSpec
    paths: LabPaths
    processes: Processes
    nodes: dict[str, int] = field(default_factory=dict[str, int])
    daemons: dict[str, Daemon] = field(default_factory=dict[str, Daemon])
    ready_nodes: set[str] = field(default_factory=set[str])
    kubelets: Kubelets | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    end: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def host_pid(self) -> int:
        """The machine's pid of this process."""
        return int(os.readlink("self", dir_fd=self.processes.host_proc))

    def notify(self) -> None:
        """Wake up whoever waits for news."""
        self.changed.set()
        self.changed = asyncio.Event()

    async def keep_running(self, daemon: Daemon) -> None:
        """Start a daemon again whenever it ends: at once, with pauses if that happens often."""
        loop = asyncio.get_running_loop()
        delay = 0.0
        while True:
            began = loop.time()
            daemon.child = self.processes.spawn(
                daemon.command,
                place=daemon.place,
                environment=daemon.environment,
                files={1: daemon.log, 2: daemon.log},
                keep=daemon.keep,
            )
            self.notify()
            code = await daemon.child.exited
            daemon.child = None
            daemon.ends += 1
            log.warning("%s ended with %d", daemon.name, code)
            self.notify()
            short = loop.time() - began < 2
            delay = min(max(delay * 2, 0.1), RESTART_MAX) if short else 0.0
            await asyncio.sleep(delay if daemon.ends > 1 else 0.0)


def main(
    spec: LabSpec, paths: LabPaths, host_proc: int, listener: int, caller: int, alive: int
) -> None:
    """Run the lab. `caller` is the socket of `lab up`, `alive` closes when the janitor ends."""
    import socket

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    namespaces.unshare(namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET)
    namespaces.own_mounts()
    namespaces.mount("proc", "/proc", "proc")
    os.umask(0o022)
    supervisor = Supervisor(spec, paths, Processes(host_proc))
    with socket.socket(fileno=caller) as up:
        asyncio.run(_run(supervisor, listener, up, alive))


async def _run(supervisor: Supervisor, listener: int, caller: socket.socket, alive: int) -> None:
    loop = asyncio.get_running_loop()
    supervisor.processes.watch()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.end.set)
    orphaned = asyncio.Event()

    def on_janitor_end() -> None:
        orphaned.set()
        supervisor.end.set()
        loop.remove_reader(alive)

    loop.add_reader(alive, on_janitor_end)
    caller.setblocking(False)
    work = asyncio.create_task(_work(supervisor, listener, caller))
    end = asyncio.create_task(supervisor.end.wait())
    guard = asyncio.create_task(_guard(supervisor, caller))
    await asyncio.wait({work, end, guard}, return_when=asyncio.FIRST_COMPLETED)
    for task in (work, guard):
        error = task.exception() if task.done() else None
        if error is not None:
            log.error("%s", _reason(error), exc_info=error)
            with contextlib.suppress(OSError):
                caller.send(f"failed {_reason(error)}\n".encode())
    if orphaned.is_set():
        _clean(supervisor.paths)
    # Nothing is taken down in order: the end of PID 1 ends everything at once.
    logging.shutdown()
    os._exit(0)


def _clean(paths: LabPaths) -> None:
    """The janitor's last work, where it cannot do it: all processes, mounts, groups and files."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with open("/proc/self/mountinfo") as file:
        mounts = [line.split()[4] for line in file]
    for mount in reversed(mounts):
        if mount.startswith(f"{paths.directory}/"):
            namespaces.unmount(mount)
    clean(paths)


def _reason(error: BaseException) -> str:
    inner: tuple[BaseException, ...] = getattr(error, "exceptions", ())
    if inner:
        return _reason(inner[0])
    return str(error) or type(error).__name__


async def _guard(supervisor: Supervisor, caller: socket.socket) -> None:
    """End the lab if `lab up` ends before it said that the lab may stay."""
    loop = asyncio.get_running_loop()
    try:
        said = await loop.sock_recv(caller, 64)
    except OSError:
        said = b""
    if said != KEEP:
        return
    await supervisor.end.wait()


async def _work(supervisor: Supervisor, listener: int, caller: socket.socket) -> None:
    spec, paths, processes = supervisor.spec, supervisor.paths, supervisor.processes
    group = cgroups.create(spec.name)
    namespaces.loopback_up()
    token = paths.token.read_text().partition(",")[0].strip()
    paths.agent_kubeconfig.write_text(_kubeconfig(paths, token))
    paths.agent_kubeconfig.chmod(0o600)
    async with asyncio.TaskGroup() as tasks:
        api = Daemon(
            "apiserver",
            [
                *PYTHON, "apiserver", "--data", str(paths.directory / "api.db"),
                "--listen", f"fd:{listener}", "--listen", f"unix:{paths.api_socket}",
                "--token-file", str(paths.token), "--kubeconfig-out", str(paths.kubeconfig),
                *_real_api(spec),
            ],
            Place(cgroup=_below(group, "apiserver")),
            open_log(paths.log("apiserver")),
            _environment(),
            keep=(listener,),
        )  # fmt: skip
        supervisor.daemons["apiserver"] = api
        tasks.create_task(supervisor.keep_running(api))
        paths.plugins.mkdir(exist_ok=True)
        namespaces.mount("tmpfs", paths.plugins, "tmpfs", data="mode=755")
        install.install(paths.plugins)
        supervisor.nodes = await network.build(spec, paths, processes)
        _operator(supervisor, tasks, _below(group, "operator"))
        for name in spec.node_names():
            _agent(supervisor, tasks, name, _below(group, name))

        # Loaded while the others start: this is what takes longest here.
        from fimbria.lab import control
        from fimbria.lab.kubelet import Kubelets

        supervisor.kubelets = Kubelets(supervisor, group)
        tasks.create_task(control.serve(supervisor))
        tasks.create_task(supervisor.kubelets.run())
        tasks.create_task(control.announce(supervisor, caller))


def _real_api(spec: LabSpec) -> list[str]:
    """The options that make the API server a real one."""
    options = (("--kube-apiserver", spec.kube_apiserver), ("--etcd", spec.etcd))
    return [word for option in options if option[1] for word in option]


def _operator(supervisor: Supervisor, tasks: asyncio.TaskGroup, group: Any) -> None:
    paths = supervisor.paths
    directory = paths.directory / "operator"
    _write_config(directory, supervisor.spec.agent_config("", paths))
    daemon = Daemon(
        "operator",
        [*PYTHON, "operator", "--config-dir", str(directory)],
        Place(cgroup=group),
        open_log(paths.log("operator")),
        _environment(),
    )
    supervisor.daemons["operator"] = daemon
    tasks.create_task(supervisor.keep_running(daemon))


def _agent(supervisor: Supervisor, tasks: asyncio.TaskGroup, name: str, group: Any) -> None:
    paths = supervisor.paths
    bpffs = paths.bpffs(name)
    bpffs.mkdir(parents=True, exist_ok=True)
    namespaces.mount("bpf", bpffs, "bpf", data="mode=700")
    (paths.node(name) / "state").mkdir(exist_ok=True)
    directory = paths.node(name) / "config"
    _write_config(directory, supervisor.spec.agent_config(name, paths))
    daemon = Daemon(
        name,
        [*PYTHON, "agent", "--config-dir", str(directory)],
        Place(net=supervisor.nodes[name], cgroup=group),
        open_log(paths.agent_log(name)),
        _environment(),
    )
    supervisor.daemons[name] = daemon
    tasks.create_task(supervisor.keep_running(daemon))


def _environment() -> dict[str, str]:
    """Ours, without what would configure an agent: a lab is what its options say."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CILIUM_")}


def _below(group: Any, name: str) -> Any:
    if group is None:
        return None
    path = group / name
    path.mkdir(exist_ok=True)
    return path


def _write_config(directory: Any, keys: dict[str, str]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in keys.items():
        (directory / name).write_text(value)


def _kubeconfig(paths: LabPaths, token: str) -> str:
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "lab", "cluster": {"server": f"unix://{paths.api_socket}"}}],
        "users": [{"name": "lab", "user": {"token": token}}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
        "current-context": "lab",
    }
    return json.dumps(document, indent=2) + "\n"
