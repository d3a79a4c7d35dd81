"""One rule, three judges: the semantics, the lookup over exact map bytes, and the C in the kernel.

FIMBRIA_CASES is the number of (policies, endpoints, packet) cases; the nightly size is 1,000,000.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from fimbria.compile.ids import Ids
from fimbria.compile.node import Compiler
from fimbria.compile.state import NodeConfig
from fimbria.datapath.abi import Direction
from tests.property.judges import Gathered, judge
from tests.property.strategies import PodRow
from tests.property.worlds import Packet, World, worlds

if TYPE_CHECKING:
    from collections.abc import Iterator

CASES = int(os.environ.get("FIMBRIA_CASES", "6000"))
PACKETS = 200


def sized(cases: int) -> settings:
    """Settings for so many cases."""
    return settings(
        max_examples=max(1, cases // PACKETS),
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


POD = PodRow(("k8s:app=web", "k8s:io.kubernetes.pod.namespace=red"), 300, (("http", 6, 53),))
NAMED_BY_PREFIX = World(
    NodeConfig(cidr_match=frozenset({"pods"})),
    [POD, POD],
    local=1,
    init=False,
    policies=[{
        "kind": "CiliumClusterwideNetworkPolicy", "metadata": {"name": "p"},
        "spec": {"endpointSelector": {}, "enableDefaultDeny": {"egress": False}, "egressDeny": [
            {"toCIDR": ["0.0.0.0/0"], "toPorts": [{"ports": [{"port": "http"}]}]}
        ]},
    }],
    packets=[Packet(1, bytes([10, 0, 2, 2]), Direction.EGRESS, 6, 53)],
)  # fmt: skip
"""A rule by CIDR says nothing of ports that pods name, also where it sees pods' addresses."""


@sized(min(CASES, 100_000))
@example(NAMED_BY_PREFIX)
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

    @sized(CASES)
    @given(worlds(packets=PACKETS))
    def gather(world: World) -> None:
        nonlocal asked
        compiler = compiled(world)
        gathered.add(compiler, judge(compiler, world))
        if gathered.full:
            asked += gathered.ask()

    gather()
    assert asked + gathered.ask() >= PACKETS
