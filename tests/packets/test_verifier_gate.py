"""Every program loads in every configuration, and stays far from the verifier's limits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.testnode import PROGRAMS, Node

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.root

SWITCHES = ("cfg_ipv4", "cfg_ipv6", "cfg_tunnel", "cfg_host_routing", "cfg_endpoint_routes")
POLICY_SWITCHES = ("cfg_cidr_nodes", "cfg_cidr_pods", "cfg_host_firewall")
# instructions that the verifier may walk; its own limit is a million
LIMIT = 60_000


@pytest.fixture(scope="module")
def base() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


@pytest.fixture
def check(
    base: Node, record_property: Callable[[str, object], None]
) -> Iterator[Callable[[dict[str, int]], None]]:
    """Loads every program with these constants, and looks at what the verifier had to do."""
    before = dict(base.constants)

    def load_all(constants: dict[str, int]) -> None:
        base.constants |= constants
        for name in PROGRAMS:
            with base.load_apart(name) as loaded:
                walked = loaded.programs[name].info().verified_insns
            record_property(name, walked)
            assert walked <= LIMIT, f"{name}: {walked} instructions walked"

    yield load_all
    base.constants = before


@pytest.mark.parametrize("trace", [0, 3])
@pytest.mark.parametrize(
    "values",
    list(itertools.product((0, 1), repeat=len(SWITCHES))),
    ids=lambda v: "".join(map(str, v)),
)
def test_loads_everywhere(
    check: Callable[[dict[str, int]], None], values: tuple[int, ...], trace: int
) -> None:
    """All combinations of switches, with and without aggregation, within the limit."""
    check(dict(zip(SWITCHES, values, strict=True)) | {"cfg_trace": trace})


@pytest.mark.parametrize("tunnel", [0, 1])
@pytest.mark.parametrize(
    "values",
    list(itertools.product((0, 1), repeat=len(POLICY_SWITCHES)))[1:],
    ids=lambda v: "".join(map(str, v)),
)
def test_loads_with_all_of_policy(
    check: Callable[[dict[str, int]], None], values: tuple[int, ...], tunnel: int
) -> None:
    """What rules may see beyond the usual, and where they are judged, with either routing."""
    check(dict(zip(POLICY_SWITCHES, values, strict=True)) | {"cfg_tunnel": tunnel})


def test_every_program_is_covered() -> None:
    """The gate knows of every program there is."""
    sources = Path(__file__).resolve().parents[2] / "bpf"
    assert {p.name.removesuffix(".bpf.c") for p in sources.glob("*.bpf.c")} == set(PROGRAMS)
