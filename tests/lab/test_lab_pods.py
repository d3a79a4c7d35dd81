"""What the lab's kubelet does with pods: probes, restarts, phases, ends."""

from __future__ import annotations

import json
import time
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.lab.spec import LabError
from fimbria.sources import files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.lab.client import Lab

pytestmark = pytest.mark.root
_serial = count()
Document = dict[str, Any]


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait for a condition to give something true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "condition did not come true"
        time.sleep(0.02)
    return found


class Pods:
    """Makes pods in a lab, and removes them in the end."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.names: list[str] = []

    def make(self, *, wait: bool = True, spec: Document | None = None, **container: Any) -> str:
        name = f"p{next(_serial)}"
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {"containers": [{"name": "c", "image": "x", **container}], **(spec or {})},
        }
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps(document))
        wanted = self.lab.apply(files.read([file]))
        self.names.append(name)
        if wait:
            self.lab.wait(wanted, timeout=30)
        return name

    def get(self, name: str) -> Document:
        return json.loads(self.lab.kubectl("get", "pod", name, "-o", "json"))

    def container(self, name: str) -> Document:
        found = self.get(name)["status"].get("containerStatuses") or [{}]
        return found[0]


@pytest.fixture
def pods(lab: Lab, tmp_path: Path) -> Iterator[Pods]:
    made = Pods(lab, tmp_path)
    yield made
    for name in made.names:
        lab.kubectl("delete", "pod", name, "--ignore-not-found", "--wait=false")


def serve(port: int, after: str) -> list[str]:
    """A command that listens once a file is there."""
    return [
        "sh",
        "-c",
        f"until [ -e {after} ]; do sleep 0.02; done; exec python3 -m http.server {port}",
    ]


@pytest.mark.parametrize(
    "probe",
    [
        {},
        {"readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1}},
        {"readinessProbe": {"httpGet": {"path": "/", "port": "web"}, "periodSeconds": 1}},
        {"readinessProbe": {"exec": {"command": ["test", "-e", "GO"]}, "periodSeconds": 1}},
    ],
    ids=["port", "tcp", "http", "exec"],
)
def test_ready_means_that_the_probe_succeeds(pods: Pods, tmp_path: Path, probe: Document) -> None:
    """A pod is Ready when its process listens where a probe says, and not before."""
    go = tmp_path / "go"
    text = json.dumps(probe).replace("GO", str(go))
    name = pods.make(
        wait=False,
        command=serve(8000, str(go)),
        ports=[{"containerPort": 8000, "name": "web"}],
        **json.loads(text),
    )
    until(lambda: "running" in pods.container(name).get("state", {}))
    assert pods.container(name)["ready"] is False
    go.touch()
    pods.lab.wait([["Pod", "default", name]], timeout=30)
    assert pods.container(name)["ready"] is True


def test_a_failing_process_is_restarted(pods: Pods, tmp_path: Path) -> None:
    """restartPolicy Always: a process that ends is started again, and the restarts are counted."""
    mark = tmp_path / "mark"
    script = f"test -e {mark} && exec sleep 1000; touch {mark}; exit 3"
    name = pods.make(wait=False, command=["sh", "-c", script])
    status = until(
        lambda: (c := pods.container(name)).get("restartCount") and c["state"].get("running") and c
    )
    assert status["lastState"]["terminated"]["exitCode"] == 3


@pytest.mark.parametrize(("code", "phase"), [(0, "Succeeded"), (1, "Failed")])
def test_a_pod_that_is_not_restarted_ends(pods: Pods, code: int, phase: str) -> None:
    """restartPolicy Never: the exit code makes the phase."""
    name = pods.make(
        wait=False, command=["sh", "-c", f"exit {code}"], spec={"restartPolicy": "Never"}
    )
    until(lambda: pods.get(name)["status"].get("phase") == phase)


def test_liveness_restarts_a_stuck_process(pods: Pods, tmp_path: Path) -> None:
    """A process whose liveness probe fails is ended and started again."""
    alive = tmp_path / "alive"
    alive.touch()
    probe = {"exec": {"command": ["test", "-e", str(alive)]}, "periodSeconds": 1}
    name = pods.make(command=["sleep", "1000"], livenessProbe=probe | {"failureThreshold": 1})
    alive.unlink()
    until(lambda: pods.container(name)["restartCount"] > 0)


def test_init_containers_come_first(pods: Pods, tmp_path: Path) -> None:
    """Init containers run to their end before the others start, in the same network."""
    file = tmp_path / "file"
    init = {"name": "i", "image": "x", "command": ["sh", "-c", f"ip -o addr > {file}"]}
    name = pods.make(
        command=["sh", "-c", f"test -s {file} && exec sleep 1000"], spec={"initContainers": [init]}
    )
    assert pods.get(name)["status"]["podIP"] in file.read_text()


def test_an_unknown_image_is_told(pods: Pods) -> None:
    """An image that nothing stands in for, without command: the status and an event say why."""
    name = pods.make(wait=False, image="example.com/app:1")
    waiting = until(lambda: pods.container(name).get("state", {}).get("waiting", {}))
    assert "give the container a command" in waiting["message"]
    until(lambda: "give the container a command" in pods.lab.kubectl("describe", "pod", name))
    with pytest.raises(LabError, match="ErrImagePull"):
        pods.lab.wait([["Pod", "default", name]], timeout=0.2)
    pods.lab.kubectl("delete", "pod", name)


def test_a_pod_that_ignores_sigterm_is_killed(pods: Pods) -> None:
    """After its grace everything that the pod started is killed, and its namespaces are gone."""
    name = pods.make(
        command=["sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000; wait"],
        spec={"terminationGracePeriodSeconds": 1},
    )
    before = pods.lab.pod(name)
    assert Path(before["netns"]).exists()
    pods.lab.kubectl("delete", "pod", name)
    until(lambda: not Path(before["netns"]).exists())
    assert not any(Path(f"/proc/{pid}").exists() for pid in before["pids"])


def test_host_network(pods: Pods) -> None:
    """A pod with hostNetwork has its node's addresses."""
    name = pods.make(command=["sleep", "1000"], spec={"hostNetwork": True, "nodeName": "node2"})
    assert pods.lab.pod(name)["addresses"] == pods.lab.node("node2")["addresses"]
