"""Every program loads in every configuration, and stays far from the verifier's limits."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bench.testnode import PROGRAMS, Node

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

SWITCHES = ("cfg_ipv4", "cfg_ipv6", "cfg_tunnel", "cfg_host_routing", "cfg_endpoint_routes")
# instructions that the verifier may walk; its own limit is a million
LIMIT = 60_000


@pytest.fixture(scope="module")
def base() -> Iterator[Node]:
    made = Node()
    yield made
    made.close()


@pytest.mark.parametrize("trace", [0, 3])
@pytest.mark.parametrize(
    "values",
    list(itertools.product((0, 1), repeat=len(SWITCHES))),
    ids=lambda v: "".join(map(str, v)),
)
def test_loads_everywhere(
    base: Node, values: tuple[int, ...], trace: int, record_property: pytest.RecordProperty
) -> None:
    """All combinations of switches, with and without aggregation, within the limit."""
    base.constants |= dict(zip(SWITCHES, values, strict=True)) | {"cfg_trace": trace}
    for name in PROGRAMS:
        with base.load_apart(name) as loaded:
            walked = loaded.programs[name].info().verified_insns
        record_property(name, walked)
        assert walked <= LIMIT, f"{name}: {walked} instructions walked"


def test_every_program_is_covered() -> None:
    """The gate knows of every program there is."""
    sources = Path(__file__).resolve().parents[2] / "bpf"
    assert {p.name.removesuffix(".bpf.c") for p in sources.glob("*.bpf.c")} == set(PROGRAMS)
