"""Devices and the BPF file system are taken away under a running agent: it puts them right."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.unit.agent.faultnode import Faults, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with running(Faults(tmp_path_factory.mktemp("node"))) as made:
        made.add("one")
        made.add("two")
        until(lambda: made.line("Node")["state"] == "ok")
        yield made


def links(world: Faults) -> dict[str, int]:
    """The node's devices by name."""
    shown = json.loads(world.inside("ip", "-j", "link").stdout)
    return {link["ifname"]: link["ifindex"] for link in shown}


def put_right(world: Faults, command: str, words: str) -> None:
    """Do something behind the agent's back; wait until it says that it put that right."""

    def told() -> list[str]:
        return [line for line in world.log().splitlines() if "guard: put right" in line]

    before = len(told())
    done = world.inside(*command.split())
    assert done.returncode == 0, done.stderr
    until(lambda: any(words in line for line in told()[before:]))
    until(lambda: words in world.line("Node")["text"].partition("put right: ")[2])
    until(lambda: world.ask("GET", "/v1/healthz")[1]["state"] == "Ok")
    assert world.line("Node")["state"] == "ok"
    assert world.reaches("one", "two")
    assert world.reaches("two", "one")


@pytest.mark.parametrize("device", ["cilium_host", "cilium_net", "cilium_vxlan"])
def test_a_device_of_ours_that_is_deleted_is_made_again(world: Faults, device: str) -> None:
    """Another one of its name, with its programs and the routes over it."""
    before = links(world)
    routes = world.inside("ip", "route").stdout
    put_right(world, f"ip link delete {device}", f"{device} was deleted")
    after = links(world)
    assert after.keys() == before.keys()
    assert after[device] != before[device]
    assert world.inside("ip", "route").stdout == routes
    pins = world.inside("ls", str(world.dir / "bpf/fimbria/links")).stdout
    assert f"{device}_ingress" in pins
    assert world.reaches("one", "two")


@pytest.mark.parametrize("device", ["cilium_host", "cilium_vxlan"])
def test_a_device_of_ours_that_is_renamed_or_set_down_comes_back(
    world: Faults, device: str
) -> None:
    """It is the same device under its name, and up."""
    before = links(world)
    put_right(world, f"ip link set {device} name elsewhere", f"{device} was renamed to elsewhere")
    assert links(world) == before
    put_right(world, f"ip link set {device} down", f"{device} was set down")
    assert links(world) == before


def test_a_network_device_that_is_renamed_is_followed(world: Faults) -> None:
    """The node's own name for it is what counts."""
    put_right(world, "ip link set eth0 name net0", "eth0 was renamed to net0")
    assert world.line("Devices")["text"].startswith("net0 ")
    put_right(world, "ip link set net0 name eth0", "net0 was renamed to eth0")


def test_the_bpf_file_system_is_unmounted_under_the_agent(world: Faults) -> None:
    """No program is lost, everything is pinned again, and the next agent finds it."""
    before = world.inside("find", str(world.dir / "bpf")).stdout
    put_right(world, f"umount -l {world.dir}/bpf", "was unmounted")
    after = world.inside("find", str(world.dir / "bpf")).stdout
    assert sorted(after.split()) == sorted(before.split())
    world.kill()
    assert world.reaches("one", "two")
    world.start()
    assert world.log().splitlines()[-1].endswith("ready for pods")
    assert world.reaches("one", "two")


def test_an_agent_is_started_without_bpf_file_system(world: Faults) -> None:
    """It mounts one, says so, and pods that were there have their network back."""
    world.kill()
    done = world.inside("umount", "-l", str(world.dir / "bpf"))
    assert done.returncode == 0, done.stderr
    world.start()
    assert f"no BPF file system was mounted on {world.dir}/bpf" in world.log()
    assert "the agent mounted" in world.line("Node")["text"]
    assert world.reaches("one", "two")


def test_a_pods_device_that_is_deleted_is_named(world: Faults) -> None:
    """It cannot be made again from outside; others go on, and deleting the pod ends it."""
    world.add("three")
    assert world.inside("ip", "link", "delete", world.device("three")).returncode == 0
    until(lambda: world.line("Node")["state"] == "warning")
    text = world.line("Node")["text"]
    assert "default/three (lxc" in text
    assert "delete these pods" in text
    assert "the device of pod default/three" in world.log()
    assert world.call("CHECK", "three")[1]["code"] == 101
    assert world.reaches("one", "two")
    world.remove("three")
    until(lambda: world.line("Node")["state"] == "ok")
