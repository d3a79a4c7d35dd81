"""A kubelet's container runtime calls the plugin: containerd, over its CRI, with portmap behind us.

containerd calls ADD once and DEL twice, the second time without a network namespace and without the
result of before; it tells the pod in CNI_ARGS, and ports in the capitals of Go.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.hostlab import until
from tests.real import containerd
from tests.real.containerd import BUSYBOX, NODE, PLUGINS, POLICIES, Containerd

if TYPE_CHECKING:
    from collections.abc import Iterator


pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(shutil.which("containerd") is None, reason="needs Debian's containerd"),
    pytest.mark.skipif(
        not (PLUGINS / "portmap").exists(), reason="needs Debian's containernetworking-plugins"
    ),
    pytest.mark.skipif(not BUSYBOX, reason="needs Debian's busybox-static"),
]
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
    before = runtime.traces()
    yield runtime
    runtime.clear()
    with suppress(AssertionError):
        until(lambda: runtime.traces() == before, "something is left")
    assert runtime.traces() == before


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
