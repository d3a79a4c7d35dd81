"""Addresses: reserved ones stay, every one is given once, restarts remember."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fimbria.agent.ipam import AddressTaken, Ipam, Pool, PoolExhausted


def test_reserved_addresses_are_never_given_out() -> None:
    """Network, router (the first usable) and broadcast addresses are no pod's."""
    ipam = Ipam(["10.0.1.0/29"])
    given_out = {str(ipam.allocate(str(n)).ipv4) for n in range(5)}
    assert given_out == {f"10.0.1.{n}" for n in range(2, 7)}
    assert str(ipam.router(4)) == "10.0.1.1"
    with pytest.raises(PoolExhausted, match=r"10\.0\.1\.0/29"):
        ipam.allocate("one more")


def test_both_families_or_none() -> None:
    """A pod gets an address of each family; if one family is full, none is taken of the other."""
    ipam = Ipam(["10.0.1.0/29", "fd00::/125"])
    first = ipam.allocate("a")
    assert (str(first.ipv4), str(first.ipv6)) == ("10.0.1.2", "fd00::2")
    for n in range(3, 7):
        ipam.claim(f"fd00::{n}", "other")
    with pytest.raises(PoolExhausted, match="IPv6"):
        ipam.allocate("b")
    assert ipam.summary() == [(4, 2, 6, "10.0.1.0/29"), (6, 6, 6, "fd00::/125")]


def test_a_second_pod_cidr_is_used_when_the_first_is_full() -> None:
    """More pod CIDRs for the node mean more addresses, in order."""
    ipam = Ipam(["10.0.1.0/30"])
    assert str(ipam.allocate("a").ipv4) == "10.0.1.2"
    ipam.extend(["10.0.1.0/30", "10.0.2.0/30"])
    assert str(ipam.allocate("b").ipv4) == "10.0.2.2"


def test_claims_of_a_restart() -> None:
    """Addresses from state files are in use; twice the same, or a foreign one, is an error."""
    ipam = Ipam(["10.0.1.0/24"])
    ipam.claim("10.0.1.7", "a")
    ipam.claim("10.0.1.7", "a")
    for address, words in (
        ("10.0.1.7", "belongs to a"),
        ("10.0.1.1", "not for pods"),
        ("10.0.1.0", "not for pods"),
        ("10.0.1.255", "not for pods"),
        ("10.0.2.7", "no pod CIDR"),
    ):
        with pytest.raises(AddressTaken, match=words):
            ipam.claim(address, "b")
    assert str(ipam.allocate("c").ipv4) == "10.0.1.8"


def test_a_released_address_comes_back_last() -> None:
    """The rest of the cluster may hold on to an address for a moment after its pod is gone."""
    ipam = Ipam(["10.0.1.0/29"])
    first = ipam.allocate("a").ipv4
    assert first is not None
    assert ipam.release(first)
    assert not ipam.release(first)
    assert not ipam.release("10.0.1.1")
    following = [ipam.allocate(str(n)).ipv4 for n in range(5)]
    assert following[-1] == first


def test_a_cidr_without_room_is_refused() -> None:
    """A /31 has no address for a pod."""
    with pytest.raises(ValueError, match="too small"):
        Pool(ip_network("10.0.0.0/31"))


@given(st.lists(st.one_of(st.just("add"), st.integers(0, 20)), max_size=80))
def test_no_address_is_ever_had_twice(steps: list[str | int]) -> None:
    """Whatever is allocated and released in whatever order, owners and addresses are one to one."""
    ipam = Ipam(["10.0.0.0/28"])
    held: list[str] = []
    for step in steps:
        if step == "add":
            try:
                address = str(ipam.allocate("x").ipv4)
            except PoolExhausted:
                assert len(held) == 13
                continue
            assert address not in held
            assert ip_address(address) in ip_network("10.0.0.0/28")
            held.append(address)
        elif held:
            assert isinstance(step, int)
            ipam.release(held.pop(step % len(held)))
    assert ipam.summary()[0][1] == len(held) + 1
