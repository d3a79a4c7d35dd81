"""The agent is killed after each change that an ADD or a DEL makes, one after another."""

from __future__ import annotations

import http.client
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.agent.faultnode import Faults, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

PROGRAM = Path(__file__).with_name("dyingagent.py")
MOST = 60
"""More changes than an ADD or a DEL makes."""


class Dying(Faults):
    """A node whose agent can be told to die."""

    def command(self, **keys: str) -> list[str]:
        words = super().command(**keys)
        start = words.index("-m")
        return [*words[:start], str(PROGRAM), str(self.dir / "armed"), *words[start + 2 :]]

    def dies(self, after: int, command: str) -> bool:
        """Run a CNI command for pod three; whether the agent died of it. Then one runs again."""
        (self.dir / "next").write_text(str(after))
        (self.dir / "next").rename(self.dir / "armed")
        try:
            status, answer = self.call(command, "three")
            assert status == 200, answer
            self.kill()  # it counts still
            return False
        except (OSError, http.client.HTTPException):
            assert self.agent is not None
            self.agent.wait()
            return True
        finally:
            (self.dir / "armed").unlink(missing_ok=True)
            self.start()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dying]:
    made = Dying(tmp_path_factory.mktemp("node"))
    try:
        made.start()
        made.add("one")
        made.add("two")
        made.create("three")
        yield made
    finally:
        made.close()


def traces(world: Dying) -> dict[str, object]:
    """Everything that a pod leaves in a node: devices, links, state files, map elements."""
    names = [line.split()[0] for line in world.inside("ip", "-br", "link").stdout.splitlines()]
    maps = {
        name: world.ask("GET", f"/v1/map/{name}")[1]["entries"]
        for name in ("cilium_lxc", "cilium_devices")
    }
    return {
        "devices": sorted(name for name in names if name.startswith("lxc")),
        "links": world.inside("ls", str(world.dir / "bpf/fimbria/links")).stdout,
        "files": world.inside("find", str(world.dir / "state"), "-type", "f").stdout,
        "endpoints": len(world.ask("GET", "/v1/endpoint")[1]),
        **maps,
    }


def agreed(world: Dying) -> None:
    """Device, link, file and map rows are there for each endpoint, and for nothing else."""
    found = traces(world)
    count = found["endpoints"]
    assert len(found["devices"]) == count, found  # pyright: ignore[reportArgumentType]
    assert str(found["files"]).count("endpoint.json\n") == count, found
    assert len(found["cilium_devices"]) == count, found  # pyright: ignore[reportArgumentType]
    assert str(found["links"]).count("lxc") == count, found
    assert world.reaches("one", "two")


def fresh(world: Dying) -> None:
    """Give pod three a namespace that nobody has touched."""
    world.pods["three"] = world.pod()


def test_killed_in_an_add(world: Dying) -> None:
    """The next agent finds no half pod; DEL, as a runtime sends it then, leaves no trace."""
    before = traces(world)
    for after in range(1, MOST):
        fresh(world)
        died = world.dies(after, "ADD")
        agreed(world)
        status, answer = world.call("DEL", "three")
        assert status == 200, (after, answer)
        until(lambda: traces(world) == before)
        if not died:
            break
    else:
        raise AssertionError(f"an ADD makes more than {MOST} changes")
    assert after > 10, "too few changes were seen"


def test_killed_in_a_del(world: Dying) -> None:
    """The pod is there still, or gone; DEL once more ends it, and no trace is left."""
    before = traces(world)
    for after in range(1, MOST):
        fresh(world)
        status, answer = world.call("ADD", "three")
        assert status == 200, answer
        died = world.dies(after, "DEL")
        agreed(world)
        status, answer = world.call("DEL", "three")
        assert status == 200, (after, answer)
        until(lambda: traces(world) == before)
        if not died:
            break
    else:
        raise AssertionError(f"a DEL makes more than {MOST} changes")
    assert after > 4, "too few changes were seen"
