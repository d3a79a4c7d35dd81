"""A container runtime that is not ours calls the plugin: podman, in a chain with portmap.

podman runs in a lab's node, with its own storage in the test's folder and its own view of mounts
and control groups, so that nothing of the machine is touched. Its image is one busybox.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from fimbria.cni import install
from fimbria.lab.client import Lab
from fimbria.lab.spec import LabSpec
from fimbria.sources import files

if TYPE_CHECKING:
    from collections.abc import Iterator

PORTMAP = Path("/usr/lib/cni/portmap")
BUSYBOX = shutil.which("busybox")

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("podman") is None, reason="needs Debian's podman"),
    pytest.mark.skipif(not PORTMAP.exists(), reason="needs Debian's containernetworking-plugins"),
    pytest.mark.skipif(BUSYBOX is None, reason="needs Debian's busybox-static"),
]

# A container that is no pod has the identity init, which default deny holds closed: open it.
MANIFEST = """
apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: open-init}
spec:
  endpointSelector: {matchLabels: {"reserved:init": ""}}
  ingress: [{fromEntities: [all]}]
  egress: [{toEntities: [all]}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec: {containers: [{name: c, image: fimbria/sleep}]}
"""
CONTAINERS_CONF = """
[network]
network_backend = "cni"
cni_plugin_dirs = ["{plugins}", "/usr/lib/cni"]
network_config_dir = "{networks}"
default_network = "cilium"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
# Once per lab, in its mounts: what podman writes outside its own folders stays there.
PREPARE = """
for folder in /run/lock /run/netns /var/lib/cni /etc/cni
do mkdir -p $folder; mount -t tmpfs none $folder; done
"""
# podman's crun refuses the mixed control group hierarchy, so it gets one of version 2 only. The
# network namespaces that podman mounts must be seen by the agent, so these mounts stay shared.
START = """
mount --make-rprivate /sys
umount -R /sys/fs/cgroup
mount -t cgroup2 none /sys/fs/cgroup
exec podman "$@"
"""


@dataclass(frozen=True)
class Podman:
    """podman inside node1 of a lab."""

    lab: Lab
    folder: Path

    def __call__(self, *words: str) -> str:
        status = self.lab.status()
        command = [
            "nsenter", f"--target={status['supervisor_pid']}", "--mount", "--pid",
            f"--net={status['nodes'][0]['netns']}", "--",
            "unshare", "--mount", "--propagation", "unchanged", "sh", "-ec", START, "podman",
            "--root", f"{self.folder}/root", "--runroot", f"{self.folder}/run",
            "--tmpdir", f"{self.folder}/tmp", "--storage-driver", "vfs", *words,
        ]  # fmt: skip
        env = os.environ | {"CONTAINERS_CONF": f"{self.folder}/containers.conf"}
        done = subprocess.run(
            command, env=env, capture_output=True, text=True, check=False, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder whose path is short: podman takes no runroot of more than 50 characters."""
    with tempfile.TemporaryDirectory(prefix="fpm-") as name:
        yield Path(name)


@pytest.fixture
def podman(folder: Path) -> Iterator[Podman]:
    """podman with one image, `busybox:1`, whose network is our plugin and portmap behind it."""
    manifest = folder / "manifest.yaml"
    manifest.write_text(MANIFEST)
    # portmap translates in the kernel's stack, which BPF host routing would go past.
    lab = Lab.up(LabSpec(f"podman-{os.getpid()}", nodes=1, host_routing="legacy"))
    try:
        lab.apply(files.read([manifest]))
        lab.wait([["Pod", "default", "client"]])
        inside = ["nsenter", f"--target={lab.status()['supervisor_pid']}", "--mount"]
        subprocess.run([*inside, "sh", "-ec", PREPARE], check=True)
        networks = folder / "net.d"
        document = install.conflist(
            "0.4.0",
            options={"agent-socket": lab.node("node1")["socket"]},
            chained=[{"type": "portmap", "capabilities": {"portMappings": True}}],
        )
        install.install_conflist(networks, document)
        text = CONTAINERS_CONF.format(plugins=lab.paths.plugins, networks=networks)
        (folder / "containers.conf").write_text(text)
        assert BUSYBOX is not None
        with tarfile.open(folder / "image.tar", "w") as image:
            image.add(BUSYBOX, "bin/busybox")
            for name in ("sh", "ip", "httpd", "sleep", "wget"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                image.addfile(link)
        run = Podman(lab, folder)
        run("import", str(folder / "image.tar"), "busybox:1")
        yield run
    finally:
        lab.down()


def test_a_container_gets_its_network_from_us(podman: Podman) -> None:
    """podman runs a container on our network with a published port; rm takes all of it away."""
    lab = podman.lab
    start = "mkdir -p /www && echo served > /www/index.html && httpd -f -p 80 -h /www"
    podman(
        "run", "-d", "--name", "web", "--network", "cilium", "-p", "8088:80",
        "--cgroups=disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096",
        "busybox:1", "/bin/sh", "-c", start,
    )  # fmt: skip
    address = json.loads(podman("inspect", "web"))[0]["NetworkSettings"]["Networks"]["cilium"]
    ip = address["IPAddress"]
    assert address["IPPrefixLen"] == 32
    routes = podman("exec", "web", "/bin/ip", "route")
    assert routes.startswith("default via ")
    # the agent knows the address, and that it belongs to no pod
    endpoints = json.loads(lab.cli("endpoint", "list", "-o", "json", node="node1"))
    assert any(ip in json.dumps(one) and "reserved:init" in json.dumps(one) for one in endpoints)
    done = lab.exec("client", ["curl", "-s", "-m", "5", f"http://{ip}/index.html"])
    assert done.stdout == "served\n", done.stderr
    # the port that portmap published on the node, from the network outside the nodes
    node = lab.node("node1")["addresses"][0]
    outside = [
        "nsenter", f"--net={lab.status()['netns']}", "curl", "-s", "-m", "5",
        f"http://{node}:8088/index.html",
    ]  # fmt: skip
    published = subprocess.run(outside, capture_output=True, text=True, check=False)
    assert published.stdout == "served\n", published.stderr
    podman("rm", "-f", "-t", "0", "web")
    endpoints = json.loads(lab.cli("endpoint", "list", "-o", "json", node="node1"))
    assert not any(ip in json.dumps(one) for one in endpoints)


def test_podman_asks_for_the_version(podman: Podman) -> None:
    """`podman network inspect` reads the list that holds our plugin."""
    (network,) = json.loads(podman("network", "inspect", "cilium"))
    assert network["name"] == "cilium"
