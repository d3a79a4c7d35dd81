"""A kubelet's container runtime calls the plugin: containerd, over its CRI, with portmap behind us.

containerd calls ADD once and DEL twice, the second time without a network namespace and without the
result of before; it tells the pod in CNI_ARGS, and ports in the capitals of Go.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.lab.client import Lab
from fimbria.lab.spec import LabError
from tests.lab.hostlab import until
from tests.real import containerd
from tests.real.containerd import BUSYBOX, NODE, PLUGINS, POLICIES, Containerd
from tests.real.cri import CriError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("containerd") is None, reason="needs Debian's containerd"),
    pytest.mark.skipif(
        not (PLUGINS / "portmap").exists(), reason="needs Debian's containernetworking-plugins"
    ),
    pytest.mark.skipif(not BUSYBOX, reason="needs Debian's busybox-static"),
]
OTHER = """
import signal, sys
from tests.real import containerd
with containerd.runtime(sys.argv[1], ipv6=True) as node:
    node.create("web")
    print(node.run("web", {8088: 80}).name, flush=True)
    signal.pause()
"""
POLICY = {
    "apiVersion": "cilium.io/v2",
    "kind": "CiliumNetworkPolicy",
    "metadata": {"name": "friends"},
    "spec": {
        "endpointSelector": {"matchLabels": {"app": "web"}},
        "ingress": [{"fromEndpoints": [{"matchLabels": {"app": "friend"}}]}],
    },
}


@pytest.fixture(scope="module")
def runtime() -> Iterator[Containerd]:
    """The module's node with a containerd."""
    with containerd.runtime(f"containerd-{os.getpid()}", ipv6=True) as found:
        yield found


@pytest.fixture
def node(runtime: Containerd) -> Iterator[Containerd]:
    """The node without pods; after the test it must be as it was before."""
    until(lambda: not any("tentative" in line for line in runtime.traces()), "no address")
    before = runtime.traces()
    yield runtime
    until(lambda: answers(runtime), "there is no agent")
    runtime.clear()
    with suppress(AssertionError):
        until(lambda: runtime.traces() == before, "something is left")
    assert sorted(runtime.traces() ^ before) == []


def of_pod(node: Containerd, name: str) -> list[dict[str, Any]]:
    """The agent's endpoints of a pod."""
    return [one for one in node.endpoints() if one["pod"] == name]


def test_pods_reach_each_other_as_policy_says(node: Containerd) -> None:
    """Addresses from the node's ranges, identities from the pods' labels, policy by both."""
    for name, app in (("web", "web"), ("friend", "friend"), ("stranger", "stranger")):
        node.create(name, app=app)
    web, friend, stranger = (node.run(name) for name in ("web", "friend", "stranger"))
    _, found = node.lab.api("GET", f"/apis/cilium.io/v2/ciliumnodes/{NODE}")
    ranges = [ipaddress.ip_network(one) for one in found["spec"]["ipam"]["podCIDRs"]]
    for pod in (web, friend, stranger):
        assert all(
            ipaddress.ip_address(address) in one
            for address, one in zip(pod.addresses, ranges, strict=True)
        )
        (endpoint,) = of_pod(node, pod.name)
        assert endpoint["container-id"] == pod.sandbox
        assert f"k8s:app={pod.name}" in endpoint["identity"]["labels"]
        assert list(endpoint["networking"]["addressing"][0].values()) == pod.addresses
    for address in web.addresses:
        assert node.asks(friend, address) == node.asks(stranger, address) == "web"
    assert node.lab.api("POST", POLICIES, POLICY)[0] == 201
    node.lab.cli("policy", "wait", node=NODE)
    for address in web.addresses:
        assert node.asks(friend, address) == "web"
        assert node.asks(stranger, address) == ""


def test_a_port_of_the_node_leads_to_the_pod(node: Containerd) -> None:
    """portmap works behind us, in both families."""
    node.create("web")
    node.run("web", {8088: 80})
    outside = f"--net={node.lab.status()['netns']}"
    for address in node.lab.node(NODE)["addresses"]:
        command = ["nsenter", outside, BUSYBOX, "nc", "-w", "1", address, "8088"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.stdout == "web\n", (address, done.stderr)


def test_ending_twice_is_no_error(node: Containerd) -> None:
    """StopPodSandbox and RemovePodSandbox may be repeated; the pod may then come again."""
    node.create("web")
    first = node.run("web", {8088: 80})
    for _ in range(2):
        node.cri.call("StopPodSandbox", pod_sandbox_id=first.sandbox)
    assert of_pod(node, "web") == []
    for _ in range(2):
        node.cri.call("RemovePodSandbox", pod_sandbox_id=first.sandbox)
    second = node.run("web", {8088: 80})
    (endpoint,) = of_pod(node, "web")
    assert endpoint["container-id"] == second.sandbox != first.sandbox


def test_many_at_once(node: Containerd) -> None:
    """Eight pods start at the same time, and end at the same time."""
    names = [f"pod{number}" for number in range(8)]
    for name in names:
        node.create(name)
    with ThreadPoolExecutor(len(names)) as threads:
        ports = [{8000 + number: 80} for number in range(len(names))]
        pods = list(threads.map(node.run, names, ports))
        assert len({address for pod in pods for address in pod.addresses}) == 2 * len(names)
        asked = threads.map(node.asks, reversed(pods), [pod.addresses[0] for pod in pods])
        assert list(asked) == names
        list(threads.map(node.remove, [pod.sandbox for pod in pods]))
    assert node.endpoints() == []


@contextmanager
def agent_away(node: Containerd) -> Iterator[None]:
    """Kill the agent; none starts, as none finds its kubeconfig, until the block ends."""
    kubeconfig = node.lab.paths.agent_kubeconfig
    aside = kubeconfig.with_name("aside")
    kubeconfig.rename(aside)
    try:
        kill_agent(node)
        yield
    finally:
        aside.rename(kubeconfig)
        until(lambda: answers(node), "no agent comes back", 60)


def kill_agent(node: Containerd) -> None:
    """Kill the agent; returns when it is gone."""
    pid = node.lab.node(NODE)["agent_pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: node.lab.node(NODE)["agent_pid"] != pid, "the agent does not end")


def answers(node: Containerd) -> bool:
    """Whether there is an agent."""
    try:
        node.endpoints()
    except LabError:
        return False
    return True


def test_the_agent_is_away_when_pods_start(node: Containerd) -> None:
    """containerd hears why, and its next try works; so does one that waits for a restart."""
    node.create("web")
    node.create("client")
    with agent_away(node):
        with pytest.raises(CriError, match="the node's agent does not answer: see that `fimbria"):
            node.run("web")
        assert node.sandboxes() == []
    web = node.run("web")
    kill_agent(node)
    client = node.run("client")
    for address in web.addresses:
        assert node.asks(client, address) == "web"


def test_the_agent_is_away_when_pods_end(node: Containerd) -> None:
    """The runtime is not held up, and the next agent does what was left."""
    for name in ("first", "second"):
        node.create(name)
    first, second = node.run("first"), node.run("second", {8088: 80})
    with agent_away(node):
        node.remove(first.sandbox, second.sandbox)
        assert node.sandboxes() == []
        assert len(node.deletions()) == 2  # two containers, each of them deleted twice
    until(lambda: not node.endpoints(), "the deletions are not made up for")
    assert node.deletions() == []


def test_the_agent_dies_at_work(node: Containerd) -> None:
    """Killed with ADD before it, or half way through: what it made goes, and the next try works."""
    node.create("web")
    state = node.lab.paths.node(NODE) / "state"
    files = len(list(state.glob("*.json")))
    moments: tuple[Callable[[], bool], ...] = (
        lambda: bool(node.plugins()),
        lambda: len(list(state.glob("*.json"))) > files,
    )
    for moment in moments:
        with ThreadPoolExecutor() as threads:
            asked = threads.submit(node.run, "web")
            while not asked.done() and not moment():
                pass
            kill_agent(node)
            with suppress(CriError):  # or the plugin met the next agent, or had its answer
                asked.result()
        until(lambda: answers(node), "no agent comes back")
        node.remove(*node.sandboxes())
        assert node.endpoints() == []
        web = node.run("web")
        assert [one["container-id"] for one in node.endpoints()] == [web.sandbox]
        node.remove(web.sandbox)


def killed(node: Containerd, work: Callable[[], object], moment: Callable[[], bool]) -> None:
    """Have containerd die in its work, as soon as the moment has come; it does not come back."""

    def until_killed() -> None:
        with suppress(CriError):
            work()

    with ThreadPoolExecutor() as threads:
        asked = threads.submit(until_killed)
        while not asked.done() and not moment():
            pass
        node.kill()


def test_containerd_dies_in_the_middle(node: Containerd) -> None:
    """Whenever it dies, its pod gets a sandbox when it is back, and nothing stays of the first."""
    node.create("web")
    node.create("client")
    client = node.run("client")
    state = node.lab.paths.node(NODE) / "state"
    moments: tuple[Callable[[], bool], ...] = (
        lambda: bool(node.plugins()),
        lambda: len(list(state.glob("*.json"))) > files,
        lambda: len(node.shims()) > 1,
    )
    for moment in moments:
        files = len(list(state.glob("*.json")))
        killed(node, lambda: node.run("web"), moment)
        node.start()
        node.remove(*(one for one in node.sandboxes() if one != client.sandbox))
        web = node.run("web")
        assert [one["container-id"] for one in of_pod(node, "web")] == [web.sandbox]
        for address in web.addresses:
            assert node.asks(client, address) == "web"
        killed(node, partial(node.remove, web.sandbox), lambda: bool(node.plugins()))
        node.start()
        node.remove(*(one for one in node.sandboxes() if one != client.sandbox))
        assert of_pod(node, "web") == []


def test_a_start_that_was_given_up(node: Containerd) -> None:
    """containerd and the plugin die while a busy agent has ADD before it; DEL ends it."""
    node.create("web")
    agent = node.lab.node(NODE)["agent_pid"]
    os.kill(agent, signal.SIGSTOP)
    try:
        killed(node, lambda: node.run("web"), lambda: bool(node.plugins()))
        for pid in node.plugins():
            os.kill(pid, signal.SIGKILL)
        until(lambda: not node.plugins(), "the plugin does not end")
        node.start()
        (sandbox,) = node.sandboxes()
        with ThreadPoolExecutor() as threads:
            stopped = threads.submit(node.cri.call, "StopPodSandbox", pod_sandbox_id=sandbox)
            until(lambda: bool(node.plugins()), "the plugin is not called again")
            os.kill(agent, signal.SIGCONT)
            stopped.result()
    finally:
        os.kill(agent, signal.SIGCONT)
    assert node.endpoints() == []


def test_two_at_once_and_one_killed(node: Containerd) -> None:
    """Of a test that is killed nothing stays, and another's node does not notice."""
    node.create("web")
    node.create("client")
    web, client = node.run("web", {8088: 80}), node.run("client")
    other = Containerd(Lab(f"{node.lab.name}-other"))
    with subprocess.Popen(
        [sys.executable, "-c", OTHER, other.lab.name],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "web\n"
            files = other.group.rglob("cgroup.procs")
            # containerd, a shim, the sandbox, the container
            assert len([pid for file in files for pid in file.read_text().split()]) > 3
        finally:
            process.kill()
    until(lambda: not other.lab.paths.directory.exists(), "the lab does not end")
    assert not other.group.exists()  # a group that holds a process cannot be removed
    for address in web.addresses:
        assert node.asks(client, address) == "web"
