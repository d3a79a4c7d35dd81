"""One rule, three judges: the semantics, the lookup over exact map bytes, and the C in the kernel.

FIMBRIA_CASES is the number of (policies, endpoints, packet) cases; the nightly size is 1,000,000.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from tests.property.judges import Gathered, judge
from tests.property.worlds import World, worlds

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = int(os.environ.get("FIMBRIA_CASES", "6000"))
PACKETS = 200
sized = settings(
    max_examples=max(1, CASES // PACKETS),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=(Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink),
)


def compiled(world: World) -> Compiler:
    """A world's maps."""
    compiler = Compiler(world.state(), Ids())
    compiler.update()
    assert not compiler.problems
    return compiler


@sized
@given(worlds(packets=PACKETS))
def test_two_judges(world: World) -> None:
    """What the rules say of a packet and what the compiled maps say is the same."""
    judge(compiled(world), world)


@pytest.fixture(scope="module")
def gathered() -> Iterator[Gathered]:
    from fimbria.kernel import objects_dir
    from fimbria.kernel.loader import load_object

    with load_object(objects_dir() / "tests" / "judge.o") as loaded:
        yield Gathered(loaded)


@pytest.mark.root
def test_three_judges(gathered: Gathered) -> None:
    """The C gives the same verdict, rule, tier, shape and proxy port as the other two judges."""
    asked = 0

    @sized
    @given(worlds(packets=PACKETS))
    def gather(world: World) -> None:
        nonlocal asked
        compiler = compiled(world)
        gathered.add(compiler, judge(compiler, world))
        if gathered.full:
            asked += gathered.ask()

    gather()
    assert asked + gathered.ask() >= PACKETS
