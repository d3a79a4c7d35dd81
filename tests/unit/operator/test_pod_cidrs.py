"""Pod CIDRs: cut from the pools in order, never twice, and named when they run out."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fimbria.operator.cidrs import ClusterPool, NoCidrLeft, valid


def test_the_lowest_free_one_is_given() -> None:
    """Gaps are filled first; CIDRs of other families and foreign sizes are respected."""
    pool = ClusterPool(4, ["10.0.0.0/8"], 24)
    assert str(pool.next_free([])) == "10.0.0.0/24"
    taken = [ip_network(n) for n in ("10.0.0.0/24", "10.0.2.0/24", "fd00::/120", "10.0.3.128/25")]
    assert str(pool.next_free(taken)) == "10.0.1.0/24"
    assert str(pool.next_free([*taken, ip_network("10.0.1.0/24")])) == "10.0.4.0/24"
    assert str(pool.next_free([ip_network("10.0.0.0/16")])) == "10.1.0.0/24"


def test_pools_are_used_one_after_the_other() -> None:
    """When the first pool is full the next is cut; when all are, that is an error with a hint."""
    pool = ClusterPool(6, ["fd00::/119", "fd01::/120"], 120)
    taken = []
    for wanted in ("fd00::/120", "fd00::100/120", "fd01::/120"):
        taken.append(pool.next_free(taken))
        assert str(taken[-1]) == wanted
    with pytest.raises(NoCidrLeft, match="add another pool"):
        pool.next_free(taken)


def test_what_a_node_has() -> None:
    """A node is asked by family; nonsense in an object of the API is no CIDR."""
    pool = ClusterPool(4, ["10.0.0.0/8"], 24)
    assert pool.has(["fd00::/120", "10.0.0.0/24"])
    assert not pool.has(["fd00::/120", "nonsense"])
    assert list(valid(["x", "10.0.0.1/24", "10.0.0.0/24"])) == [ip_network("10.0.0.0/24")]


@given(st.lists(st.integers(0, 15), max_size=16))
def test_no_overlap_ever(freed: list[int]) -> None:
    """Whatever was freed in between, what is given out never overlaps with what is in use."""
    pool = ClusterPool(4, ["10.0.0.0/28"], 30)
    used: list[IPv4Network | IPv6Network] = []
    for number in freed:
        try:
            found = pool.next_free(used)
        except NoCidrLeft:
            assert len(used) == 4
            used.pop(number % 4)
            continue
        assert not any(found.overlaps(other) for other in used)
        used.append(found)
