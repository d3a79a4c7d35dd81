"""The node's wall clock jumps by years: nothing that forwards or judges looks at it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.unit.agent.faultnode import Faults, policy, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(__file__).with_name("jumpingagent.py")
SOURCES = Path(__file__).resolve().parents[3] / "bpf"
YEARS = 20 * 365 * 86400


class Jumping(Faults):
    """A node whose wall clock the test sets."""

    def command(self, **keys: str) -> list[str]:
        words = super().command(**keys)
        start = words.index("-m")
        return [*words[:start], str(PROGRAM), str(self.dir / "offset"), *words[start + 2 :]]

    def jump(self, seconds: int) -> None:
        """Set the clock off by so much."""
        (self.dir / "next").write_text(str(seconds))
        (self.dir / "next").rename(self.dir / "offset")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jumping]:
    with running(Jumping(tmp_path_factory.mktemp("node"))) as made:
        made.add("one")
        made.add("two")
        yield made


@pytest.mark.root
@pytest.mark.parametrize("seconds", [YEARS, -YEARS, 0])
def test_the_wall_clock_jumps(world: Jumping, seconds: int) -> None:
    """Flows, new pods, a policy that comes and goes, and a restart are as before."""
    world.jump(seconds)
    assert world.reaches("one", "two")
    name = f"new{abs(seconds) + (seconds > 0)}"
    world.add(name)
    assert world.reaches(name, "one")
    world.enforce(policy(name, "one", app="two"))
    until(lambda: not world.reaches(name, "two", 0.3))
    assert world.reaches("one", "two")
    world.kill()
    world.start()
    assert not world.reaches(name, "two", 0.3)
    assert world.reaches("one", "two")
    world.lift(name)
    until(lambda: world.reaches(name, "two", 0.3))
    world.remove(name)
    assert world.ask("GET", "/v1/healthz")[1]["state"] == "Ok"
    assert not world.ask("GET", "/v1/controllers")[1][0]["failing"]


def test_the_datapath_asks_no_clock_that_can_be_set() -> None:
    """The programs use ticks and monotonic clocks only."""
    asked = {
        name
        for path in SOURCES.glob("*.[ch]")
        for name in re.findall(r"\bbpf_(?:ktime_get\w*|jiffies64)\b", path.read_text())
    }
    monotonic = {"bpf_ktime_get_ns", "bpf_ktime_get_coarse_ns", "bpf_ktime_get_boot_ns"}
    assert asked <= {"bpf_jiffies64", *monotonic}
    assert "bpf_jiffies64" in asked
