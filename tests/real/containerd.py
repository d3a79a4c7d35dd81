"""A containerd of our own in a lab's node, and the part of a kubelet that talks to it.

Everything of it is inside the lab: its processes in the lab's PID namespace and below the lab's
control group, its files on a tmpfs in the lab's mounts. What it writes to fixed places
(/run/containerd, /var/lib/cni) goes to file systems that only the lab sees. So it ends with the
lab, and the lab ends with the process that made it, however that ends.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fimbria.lab import cgroups
from fimbria.lab.client import Lab
from fimbria.lab.launch import launch
from fimbria.lab.spec import LabPaths, LabSpec
from tests.lab.hostlab import until
from tests.real.cri import Cri, CriError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PLUGINS = Path("/usr/lib/cni")
NODE = "node1"
IMAGE = "localhost/busybox:1"
BUSYBOX = shutil.which("busybox") or ""
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PODS = "/api/v1/namespaces/default/pods"
POLICIES = "/apis/cilium.io/v2/namespaces/default/ciliumnetworkpolicies"

NETWORK = (
    "ip -o link",
    "ip -o address",
    "ip route show table all",
    "ip -6 route show table all",
)

CONFIG = """
version = 2
root = "{files}/root"
state = "{files}/state"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing"]
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{image}"
# The control group hierarchy of these tests has no controllers, and limits nothing.
disable_cgroup = true
# A lab's root may not go below its own score without CAP_SYS_RESOURCE.
restrict_oom_score_adj = true
# Where the agent sees the mounts: below a folder that both share.
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{files}/bin"
conf_dir = "{networks}"
"""
# Once per lab, in its mounts.
PREPARE = """
for folder in /run/containerd /var/lib/cni $0
do mkdir -p $folder; mount -t tmpfs none $folder; done
mkdir $0/bin
cp $1/fimbria-cni $0/bin
ln -s $2/portmap $2/loopback $0/bin
"""
# runc wants one hierarchy of control groups: it gets the part below its own group, alone. Mounts
# of network namespaces must reach the agent, so all others stay shared with the lab.
START = """
mount --make-rprivate /sys
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
exec containerd --config "$0"
"""


@contextmanager
def passing_lab(spec: LabSpec) -> Iterator[Lab]:
    """A lab that ends with the block, or with this process if that is killed in it."""
    with launch(spec) as start:
        said: list[str] = []
        while "ready" not in said:
            said = start.lines()
            assert said, "the supervisor ended"
            assert not any(line.startswith("failed") for line in said), said
        yield Lab(spec.name)


@contextmanager
def runtime(name: str, **options: Any) -> Iterator[Containerd]:
    """A lab of one node with a containerd on it that runs, whose network is ours and portmap's."""
    networks = LabPaths(name).directory / "net.d"
    config = {
        "write-cni-conf-when-ready": str(networks / "05-cilium.conflist"),
        "cni-chaining-mode": "portmap",
    }
    # portmap translates in the kernel's stack, which BPF host routing would go past.
    spec = LabSpec(name, nodes=1, host_routing="legacy", config=config, **options)
    with passing_lab(spec) as lab:
        found = Containerd(lab)
        found.prepare(networks)
        try:
            found.start()
            found.load(image())
            yield found
        finally:
            found.kill()


def image() -> bytes:
    """busybox as a docker archive; without a command it sleeps, so it serves as pause as well."""
    programs = [(f"bin/{name}", "busybox") for name in ("echo", "nc", "sleep")]
    layer = _tar(("bin/busybox", Path(BUSYBOX).read_bytes()), *programs)
    config = {
        "architecture": ARCHITECTURES[os.uname().machine],
        "os": "linux",
        "config": {"Cmd": ["/bin/sleep", "1000000"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]
    return _tar(
        ("manifest.json", json.dumps(manifest).encode()),
        ("config.json", json.dumps(config).encode()),
        ("layer.tar", layer),
    )


def _tar(*entries: tuple[str, bytes | str]) -> bytes:
    """An archive of files, and of symbolic links where there is text instead of bytes."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size, entry.mode = len(content), 0o755
                archive.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def _runs(pid: int, program: str) -> bool:
    """Whether a process is one of a program."""
    try:
        return Path(f"/proc/{pid}/comm").read_text() == f"{program}\n"
    except OSError:
        return False


@dataclass(frozen=True)
class Pod:
    """A pod that runs: its sandbox and container by containerd's names, its addresses."""

    name: str
    sandbox: str
    container: str
    addresses: list[str]


@dataclass
class Containerd:
    """containerd on node1 of a lab."""

    lab: Lab
    process: subprocess.Popen[bytes] | None = None
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    """Pod -> how often a new sandbox was asked for in place of an old one."""

    @property
    def files(self) -> Path:
        """Its folder, in the lab's mounts."""
        return self.lab.paths.directory / "containerd"

    @property
    def cri(self) -> Cri:
        """Its interface for kubelets."""
        return Cri(self.lab.paths.directory / "containerd.sock")

    @property
    def group(self) -> Path:
        """The control group of containerd and all that it starts."""
        root = cgroups.hierarchy()
        assert root is not None
        return root / f"{cgroups.PREFIX}{self.lab.name}" / "containerd"

    def inside(self, *command: str, stdin: bytes = b"") -> str:
        """Run a command in the lab's mounts and processes; gives what it printed."""
        target = f"--target={self.lab.status()['supervisor_pid']}"
        done = subprocess.run(
            ["nsenter", target, "--mount", "--pid", "--", *command],
            input=stdin,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def prepare(self, networks: Path) -> None:
        """Make its folders, and write its configuration."""
        paths = self.lab.paths
        self.inside("sh", "-ec", PREPARE, str(self.files), str(paths.plugins), str(PLUGINS))
        text = CONFIG.format(
            files=self.files, socket=self.cri.socket, networks=networks, image=IMAGE
        )
        (paths.directory / "containerd.toml").write_text(text)
        self.group.mkdir()

    def start(self) -> None:
        """Start it; returns when it takes pods."""
        status = self.lab.status()
        net = self.lab.node(NODE)["netns"]
        command = [
            "nsenter", f"--target={status['supervisor_pid']}", "--mount", "--pid", f"--net={net}",
            "--", "unshare", "--mount", "--cgroup", "--propagation", "unchanged",
            "sh", "-ec", START, str(self.lab.paths.directory / "containerd.toml"),
        ]  # fmt: skip
        procs = self.group / "cgroup.procs"
        log = self.lab.paths.log("containerd")
        with log.open("ab") as output:
            process = self.process = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=lambda: procs.write_text("0") and None,
            )

        def ready() -> bool:
            assert process.poll() is None, log.read_text()[-2000:]
            try:
                conditions = self.cri.call("Status", patience=5)["status"]["conditions"]
            except CriError:
                return False
            return all(one["status"] for one in conditions)

        until(ready, "containerd does not take pods")

    def kill(self) -> None:
        """Kill containerd, and nothing that it started. Returns when it is gone."""
        if self.process is None:
            return
        for pid in cgroups.processes(self.group):
            if _runs(pid, "containerd"):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(timeout=20)
        self.process = None

    def load(self, archive: bytes) -> None:
        """Import an image."""
        socket = str(self.cri.socket)
        self.inside("ctr", "-a", socket, "-n", "k8s.io", "images", "import", "-", stdin=archive)

    def create(self, name: str, **labels: str) -> None:
        """Create a pod's object, bound to the node.

        The lab's own kubelet knows no such image, says so, and leaves the pod to us.
        """
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": IMAGE}]},
        }
        status, answer = self.lab.api("POST", PODS, body)
        assert status == 201, answer

    def config(self, name: str, ports: Mapping[int, int]) -> dict[str, Any]:
        """What a kubelet asks for a pod's next sandbox; `ports`: the node's to the pod's."""
        status, answer = self.lab.api("GET", f"{PODS}/{name}")
        assert status == 200, answer
        uid = answer["metadata"]["uid"]
        attempt = self.attempts[name] = self.attempts.get(name, -1) + 1
        labels = {"name": name, "namespace": "default", "uid": uid}
        return {
            "metadata": {"name": name, "uid": uid, "namespace": "default", "attempt": attempt},
            "hostname": name,
            "labels": [{"key": f"io.kubernetes.pod.{k}", "value": v} for k, v in labels.items()],
            "port_mappings": [
                {"container_port": inner, "host_port": outer} for outer, inner in ports.items()
            ],
        }

    def run(self, name: str, ports: Mapping[int, int] | None = None) -> Pod:
        """Run a pod with one container, which says the pod's name on port 80."""
        config = self.config(name, ports or {})
        sandbox = str(self.cri.call("RunPodSandbox", config=config)["pod_sandbox_id"])
        network = self.cri.call("PodSandboxStatus", pod_sandbox_id=sandbox)["status"]["network"]
        more = [one["ip"] for one in network["additional_ips"]]
        container = self.cri.call(
            "CreateContainer",
            pod_sandbox_id=sandbox,
            config={
                "metadata": {"name": "main"},
                "image": {"image": IMAGE},
                "command": ["/bin/nc", "-ll", "-p", "80", "-e", "/bin/echo", name],
            },
            sandbox_config=config,
        )["container_id"]
        self.cri.call("StartContainer", container_id=container)
        pod = Pod(name, sandbox, container, [network["ip"], *more])
        until(lambda: self.asks(pod, "127.0.0.1") == name, f"{name} does not listen")
        return pod

    def asks(self, client: Pod, address: str) -> str:
        """What the pod at an address says to another pod's container; "" if it says nothing."""
        command = ["/bin/nc", "-w", "1", address, "80"]
        done = self.cri.call("ExecSync", container_id=client.container, cmd=command, timeout=20)
        return done["stdout"].decode().strip()

    def sandboxes(self) -> list[str]:
        """Those that containerd knows."""
        return [one["id"] for one in self.cri.call("ListPodSandbox")["items"]]

    def remove(self, *sandboxes: str) -> None:
        """End sandboxes and what runs in them, as a kubelet does."""
        for sandbox in sandboxes:
            self.cri.call("StopPodSandbox", pod_sandbox_id=sandbox)
            self.cri.call("RemovePodSandbox", pod_sandbox_id=sandbox)

    def clear(self) -> None:
        """End all sandboxes, and delete the objects of pods and policies."""
        self.remove(*self.sandboxes())
        for path in (PODS, POLICIES):
            for one in self.lab.api("GET", path)[1]["items"]:
                self.lab.api("DELETE", f"{path}/{one['metadata']['name']}")
        self.attempts.clear()

    def endpoints(self) -> list[dict[str, Any]]:
        """The agent's."""
        return json.loads(self.lab.cli("endpoint", "list", "-o", "json", node=NODE))

    def plugins(self) -> list[int]:
        """Processes of our plugin that run."""
        return [pid for pid in cgroups.processes(self.group) if _runs(pid, "fimbria-cni")]

    def shims(self) -> list[int]:
        """Processes that hold a sandbox for containerd."""
        return [pid for pid in cgroups.processes(self.group) if _runs(pid, "containerd-shim")]

    def deletions(self) -> list[str]:
        """What the plugin wrote down for the next agent."""
        folder = self.lab.paths.socket(NODE).with_name("deleteQueue")
        return os.listdir(folder) if folder.exists() else []

    def traces(self) -> set[str]:
        """What pods leave in the node's network, in the agent's care and in the API, in lines."""
        lab, paths = self.lab, self.lab.paths.node(NODE)
        net = f"--net={lab.node(NODE)['netns']}"
        found: set[str] = set()
        for command in NETWORK:
            output = subprocess.check_output(["nsenter", net, *command.split()], text=True)
            found.update(f"{command}: {line}" for line in output.splitlines())
        for table in ("cilium_lxc", "cilium_devices", "cilium_ipcache", "cilium_policy_ref"):
            rows = json.loads(lab.cli("map", "get", table, "-o", "json", node=NODE))
            found.update(f"{table}: {row}" for row in rows)
        objects = lab.api("GET", "/apis/cilium.io/v2/ciliumendpoints")[1]["items"]
        found.update(f"CiliumEndpoint {one['metadata']['name']}" for one in objects)
        found.update(str(path) for path in paths.rglob("*.json"))
        found.update(f"endpoint {one['id']} {one['pod']}" for one in self.endpoints())
        return found
