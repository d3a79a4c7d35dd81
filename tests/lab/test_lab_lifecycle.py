"""A lab comes, and goes without a trace: also when it is killed, and beside others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fimbria.lab import cgroups
from fimbria.lab.client import Lab
from fimbria.lab.launch import is_up
from fimbria.lab.spec import LabError

pytestmark = pytest.mark.root

MANIFEST = """
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec: {containers: [{name: c, image: fimbria/sleep}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: echo}
spec:
  replicas: 2
  selector: {matchLabels: {app: echo}}
  template:
    metadata: {labels: {app: echo}}
    spec: {containers: [{name: c, image: fimbria/echo, ports: [{containerPort: 8080}]}]}
---
apiVersion: v1
kind: Service
metadata: {name: echo}
spec: {selector: {app: echo}, ports: [{port: 8080}]}
"""
MakeLab = Callable[..., Lab]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for a condition to give something true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.02)
    return found


def links() -> list[str]:
    done = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True, check=True)
    return sorted(line.split(":")[1].strip() for line in done.stdout.splitlines())


def pids(lab: Lab) -> set[int]:
    """All processes whose control group is the lab's, and those that the status names."""
    found: set[int] = set()
    group = cgroups.hierarchy()
    if group:
        for path, _, _ in os.walk(group / f"{cgroups.PREFIX}{lab.name}"):
            found.update(cgroups.processes(Path(path)))
    status = lab.status()
    found.add(status["supervisor_pid"])
    found.update(node["agent_pid"] for node in status["nodes"])
    return {pid for pid in found if pid}


def left_behind(lab: Lab, processes: set[int]) -> list[str]:
    """What there still is of a lab that has ended."""
    found = [f"process {pid}" for pid in processes if Path(f"/proc/{pid}").exists()]
    if lab.paths.directory.exists():
        found.append(str(lab.paths.directory))
    group = cgroups.hierarchy()
    if group and (group / f"{cgroups.PREFIX}{lab.name}").exists():
        found.append(f"control group {lab.name}")
    mounts = Path("/proc/self/mountinfo").read_text()
    if lab.name in mounts:
        found.append("mounts")
    return found


def test_up_status_exec_down(make_lab: MakeLab) -> None:
    """Two nodes and their pods come up, can be used as an operator would, and go entirely."""
    before = links()
    lab = make_lab(MANIFEST)
    status = lab.status()
    assert [node["name"] for node in status["nodes"]] == ["node1", "node2"]
    for node in status["nodes"]:
        assert Path(f"/proc/{node['agent_pid']}/cmdline").read_bytes().count(b"agent")
        assert Path(node["netns"]).exists()
        assert Path(node["bpffs"]).is_dir()
        assert Path(node["socket"]).is_socket()
        assert node["addresses"]
    pods = {pod["name"]: pod for pod in status["pods"]}
    assert all(pod["ready"] and pod["addresses"] and pod["netns"] for pod in pods.values())
    echoes = [pod for name, pod in pods.items() if name.startswith("echo-")]
    assert {pod["node"] for pod in echoes} == {"node1", "node2"}
    done = lab.exec("default/client", ["sh", "-c", "hostname; cat; exit 7"], stdin="hello")
    assert (done.returncode, done.stdout) == (7, "client\nhello")
    running = pids(lab)
    assert len(running) >= 8
    lab.down()
    assert left_behind(lab, running) == []
    assert links() == before


def test_kubectl_sees_the_cluster(make_lab: MakeLab) -> None:
    """kubectl works with the printed kubeconfig: nodes Ready, pods with addresses, scaling."""
    lab = make_lab(MANIFEST, nodes=1)
    nodes = json.loads(lab.kubectl("get", "nodes", "-o", "json"))["items"]
    assert [c["status"] for c in nodes[0]["status"]["conditions"]] == ["True"]
    assert "1/1" in lab.kubectl("get", "pods", "-o", "wide")
    lab.kubectl("scale", "deployment/echo", "--replicas=3")
    lab.wait([["Deployment", "default", "echo"]])
    assert len([p for p in lab.status()["pods"] if p["name"].startswith("echo-")]) == 3
    lab.kubectl("delete", "pod", "client", "--wait=true")
    assert "client" not in [pod["name"] for pod in lab.status()["pods"]]
    assert not [p for p in lab.paths.netns("x").parent.iterdir() if "client" in p.name]


def test_names_resolve_by_the_hosts_file(make_lab: MakeLab) -> None:
    """A pod finds pods and services by name, in its own /etc/hosts; the machine's is untouched."""
    mine = Path("/etc/hosts").read_text()
    lab = make_lab(MANIFEST, nodes=1)
    ready = {a for p in lab.status()["pods"] if "echo" in p["name"] for a in p["addresses"]}

    def resolved() -> bool:
        out = lab.exec("client", ["getent", "ahostsv4", "echo.default.svc"]).stdout
        return {line.split()[0] for line in out.splitlines()} == ready

    until(resolved)
    assert Path("/etc/hosts").read_text() == mine


@pytest.mark.parametrize("victim", ["supervisor", "janitor", "both"])
def test_nothing_is_left_after_kill(make_lab: MakeLab, victim: str) -> None:
    """kill -9 of supervisor or janitor ends the whole lab and removes every trace of it."""
    before = links()
    lab = make_lab(MANIFEST, nodes=1)
    running = pids(lab)
    supervisor = lab.status()["supervisor_pid"]
    stat = Path(f"/proc/{supervisor}/stat").read_text()
    janitor = int(stat.rpartition(")")[2].split()[1])
    for pid in {"supervisor": [supervisor], "janitor": [janitor], "both": [janitor, supervisor]}[
        victim
    ]:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not is_up(lab.paths))
    if victim == "both":  # nobody was left to clean up: the next lab command does
        with pytest.raises(LabError, match="there is no lab"):
            Lab("no-such-lab").down()
    until(lambda: left_behind(lab, running | {janitor}) == [])
    assert links() == before


@pytest.mark.parametrize("victim", ["node1", "apiserver", "operator"])
def test_what_dies_is_started_again(make_lab: MakeLab, victim: str) -> None:
    """kill -9 of an agent, the API server or the operator: it is back, and pods can be added."""
    lab = make_lab(nodes=1)
    status = lab.status()
    pid = status.get(f"{victim}_pid") or status["nodes"][0]["agent_pid"]
    os.kill(pid, signal.SIGKILL)

    def back() -> bool:
        now = lab.status()
        new = now.get(f"{victim}_pid") or now["nodes"][0]["agent_pid"]
        return bool(new) and new != pid

    until(back)
    until(lambda: lab.paths.api_socket.exists())
    pod = {"metadata": {"name": "late"}, "spec": {"containers": [{"name": "c", "image": "pause"}]}}
    lab.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "Pod"} | pod))
    lab.wait([["Pod", "default", "late"]])


def test_an_interrupted_up_leaves_nothing(make_lab: MakeLab, tmp_path: Path) -> None:
    """If `lab up` is killed half way, the lab goes too."""
    name = f"cut-{os.getpid()}"
    lab = Lab(name)
    command = [sys.executable, "-m", "fimbria.cli.main", "lab", "up", "--name", name]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as up:
        until(lab.paths.control.exists)
        running = pids(lab)
        up.kill()
    until(lambda: left_behind(lab, running) == [])


def test_two_labs_side_by_side(make_lab: MakeLab) -> None:
    """Labs do not see each other: the same addresses in both, each with its own pods."""
    one, two = make_lab(MANIFEST, nodes=1), make_lab(MANIFEST, nodes=1)
    for lab in (one, two):
        address = next(p for p in lab.status()["pods"] if "echo" in p["name"])["addresses"][0]
        done = lab.exec("client", ["curl", "-s", "-m", "5", f"http://{address}:8080/"])
        names = [pod["name"] for pod in lab.status()["pods"]]
        assert json.loads(done.stdout)["pod"] in names
    assert one.status()["nodes"][0]["addresses"] == two.status()["nodes"][0]["addresses"]
    one.down()
    assert two.exec("client", ["true"]).returncode == 0


def test_a_name_can_be_used_once(make_lab: MakeLab) -> None:
    """A second lab of the same name is refused with what to do; the first is not touched."""
    lab = make_lab(nodes=1)
    command = [sys.executable, "-m", "fimbria.cli.main", "lab", "up", "--name", lab.name]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "is up already" in done.stderr
    assert lab.status()["nodes"][0]["ready"]


def test_a_bad_manifest_is_refused_whole(tmp_path: Path) -> None:
    """A manifest that cannot be read stops `lab up` before anything starts; file and line named."""
    file = tmp_path / "bad.yaml"
    file.write_text("apiVersion: v1\nkind: Pod\nmetadata: {}\n")
    name = f"bad-{os.getpid()}"
    command = [sys.executable, "-m", "fimbria.cli.main", "lab", "up", "--name", name, "-f"]
    done = subprocess.run([*command, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{file}:3" in done.stderr
    assert "metadata.name" in done.stderr
    assert not Lab(name).paths.directory.exists()
