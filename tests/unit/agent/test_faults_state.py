"""A pod's state file and its copy are both unreadable: the kernel knows enough to go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fimbria.agent.rebuild import ALIAS_MAX, alias
from tests.unit.agent.faultnode import Faults, policy, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with running(Faults(tmp_path_factory.mktemp("node"))) as made:
        for name in ("one", "two", "three"):
            made.add(name)
        made.enforce(policy("only-one", "one", app="two"))
        until(lambda: not made.reaches("three", "two", 0.3))
        yield made


def damage(world: Faults, name: str) -> None:
    """Make both of a pod's files unreadable; the agent must not run."""
    number = next(
        folder.name
        for folder in (world.dir / "state").iterdir()
        if folder.is_dir() and f'"{name}"' in (folder / "endpoint.json").read_text()
    )
    for file in ("endpoint.json", "endpoint.json.copy"):
        (world.dir / "state" / number / file).write_bytes(b"\0" * 100)


@pytest.mark.root
def test_the_endpoint_is_rebuilt(world: Faults) -> None:
    """Same address, identity and policy; labels are followed again; DEL ends it."""
    before = world.ask("GET", "/v1/endpoint/container-id:two")[1]
    world.kill()
    damage(world, "two")
    world.start()
    assert "rebuilt from what the kernel knows: default/two" in world.log()
    after = world.ask("GET", "/v1/endpoint/container-id:two")[1]
    for key in ("id", "pod", "namespace", "networking", "identity"):
        assert after[key] == before[key], key
    assert world.reaches("one", "two")
    assert not world.reaches("three", "two", 0.3)
    label = {"metadata": {"labels": {"app": "open"}}}
    assert world.api("PATCH", "/api/v1/namespaces/default/pods/two", label)[0] == 200
    until(lambda: world.reaches("three", "two", 0.3))
    assert world.call("CHECK", "two")[0] == 200
    device = world.device("two")
    world.remove("two")
    assert device not in world.inside("ip", "-br", "link").stdout
    world.kill()
    world.start()
    assert len(world.ask("GET", "/v1/endpoint")[1]) == 2


@pytest.mark.root
def test_with_the_pins_lost_too_the_pod_stays_closed(world: Faults) -> None:
    """The agent starts, others go on; the pod neither sends nor gets, and DEL ends it."""
    device = world.device("two")
    world.kill()
    damage(world, "two")
    assert world.inside("umount", "-l", str(world.dir / "bpf")).returncode == 0
    world.start()
    names = [one["pod"] for one in world.ask("GET", "/v1/endpoint")[1]]
    assert sorted(names) == ["one", "three"]
    assert world.reaches("one", "three")
    assert not world.reaches("one", "two", 0.3)
    assert not world.reaches("two", "one", 0.3)
    assert f"device {device}: kept" in world.log()
    assert f"{device}_ingress" in world.inside("ls", str(world.dir / "bpf/fimbria/links")).stdout
    world.remove("two")
    assert device not in world.inside("ip", "-br", "link").stdout


def test_an_alias_fits() -> None:
    """The pod is left out where the kernel has no room for it; the container never is."""
    assert alias("abc", "eth0", "ns", "pod") == "abc/eth0/ns/pod"
    assert alias("abc", "eth0", "", "") == "abc/eth0"
    long = alias("a" * 200, "eth0", "n" * 63, "p" * 253)
    assert long == "a" * 200 + "/eth0"
    assert len(long) <= ALIAS_MAX
