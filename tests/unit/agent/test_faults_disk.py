"""The state directory has no room: what runs goes on, what is new is refused in words."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.unit.agent.faultnode import Faults, policy, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

ROOM = "256k"


class Cramped(Faults):
    """A node whose state directory has little room."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        words = f"mount -t tmpfs -o size={ROOM},mode=0750 tmpfs {folder}/state"
        mounted = self.inside(*words.split())
        assert mounted.returncode == 0, mounted.stderr


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    folder = tmp_path_factory.mktemp("node")
    (folder / "state").mkdir()
    with running(Cramped(folder)) as made:
        made.add("one")
        made.add("two")
        yield made


def fill(world: Faults) -> None:
    """Take all the room there is."""
    done = world.inside("dd", "if=/dev/zero", f"of={world.dir}/state/fill", "bs=4k")
    assert "No space left" in done.stderr


def make_room(world: Faults) -> None:
    """Give it back."""
    assert world.inside("rm", f"{world.dir}/state/fill").returncode == 0


def saved(world: Faults, name: str) -> list[str]:
    """The labels in a pod's state file."""
    number = next(e["id"] for e in world.ask("GET", "/v1/endpoint")[1] if e["pod"] == name)
    text = world.inside("cat", f"{world.dir}/state/{number}/endpoint.json").stdout
    return json.loads(text)["labels"]


def test_a_full_state_directory(world: Faults) -> None:
    """ADD fails with the reason and leaves nothing; pods, policy and restart work; it recovers."""
    fill(world)
    line = world.line("State directory")
    assert line["state"] == "failure"
    assert f"{world.dir}/state: full, pods cannot be added; make room there" in line["text"]
    devices = world.inside("ip", "-br", "link").stdout
    folders = world.inside("find", f"{world.dir}/state").stdout
    world.create("three")
    world.pods["three"] = world.pod()
    status, answer = world.call("ADD", "three")
    assert (status, answer["code"]) == (503, 11)
    assert "No space left on device" in answer["msg"]
    assert "make room in --state-dir" in answer["msg"]
    assert world.inside("ip", "-br", "link").stdout == devices
    assert world.inside("find", f"{world.dir}/state").stdout == folders
    assert len(world.ask("GET", "/v1/endpoint")[1]) == 2
    assert world.reaches("one", "two")

    # A pod that is put under quarantine meanwhile is: that its label is not saved does not matter.
    world.enforce(policy("quarantine", "nobody", suspect="yes"))
    label = {"metadata": {"labels": {"suspect": "yes"}}}
    assert world.api("PATCH", "/api/v1/namespaces/default/pods/two", label)[0] == 200
    until(lambda: not world.reaches("one", "two", 0.3))
    assert world.reaches("two", "one")
    until(lambda: "1 endpoints are not saved yet" in world.line("State directory")["text"])

    world.kill()
    world.start()
    until(lambda: world.line("State directory")["state"] == "failure")
    assert not world.reaches("one", "two", 0.3)
    assert world.reaches("two", "one")

    make_room(world)
    until(lambda: world.line("State directory")["state"] == "ok")
    until(lambda: "k8s:suspect=yes" in saved(world, "two"))
    assert world.call("ADD", "three")[0] == 200
    assert world.ask("GET", "/v1/healthz")[1]["state"] == "Ok"
