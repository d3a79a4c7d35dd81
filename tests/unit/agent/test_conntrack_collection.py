"""Conntrack's collection: only what is over goes, and the pace follows the churn."""

from __future__ import annotations

from collections import Counter

import pytest

from fimbria.agent import ctgc
from fimbria.agent.ctgc import Collected, next_interval
from fimbria.datapath.abi import CtEntry, CtKey, EndpointIds
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.syscall import MapType

NOW = (1 << 32) + 1000  # the low half has wrapped


def addr(last: int) -> bytes:
    return bytes(10) + b"\xff\xff" + bytes((10, 0, 0, last))


def key(a: int, b: int, port: int = 1) -> bytes:
    return CtKey(a=addr(a), b=addr(b), port_a=port, port_b=80, protocol=6).pack()


def entry(left: int, opener: int = 0, receiver: int = 0) -> bytes:
    value = CtEntry(expires=(NOW + left) & 0xFFFFFFFF, src_lxc=opener, dst_lxc=receiver)
    return value.pack()


@pytest.mark.root
def test_only_what_is_over_goes() -> None:
    """Expired entries and those of pods that are gone are deleted, over the wrap of the clock."""
    with BpfMap.create(
        MapType.LRU_HASH, key_size=CtKey.SIZE, value_size=CtEntry.SIZE, max_entries=1024, name="ct"
    ) as table:
        table.put(key(1, 2), entry(500))
        table.put(key(1, 3), entry(-1))
        table.put(key(2, 4), entry(-900_000))
        table.put(key(1, 9), entry(500, receiver=9))
        table.put(key(9, 2, 7), entry(500, opener=9, receiver=2))
        table.put(key(3, 2), entry(500, opener=EndpointIds.HOST, receiver=2))
        found = ctgc.collect(table, lambda: NOW, lambda: {2})
        assert found == Collected(6, 4, Counter({2: 1, 4096: 1}))
        assert set(table.items()) == {key(1, 2), key(3, 2)}
        assert ctgc.collect(table, lambda: NOW, lambda: {2}).deleted == 0


@pytest.mark.root
def test_a_pod_that_comes_meanwhile_keeps_its_connections() -> None:
    """Who is there is asked after the table has been read."""
    with BpfMap.create(
        MapType.LRU_HASH, key_size=CtKey.SIZE, value_size=CtEntry.SIZE, max_entries=1024, name="ct"
    ) as table:
        asked: list[int] = []

        def known() -> list[int]:
            table.put(key(5, 6), entry(500, opener=5))
            return asked

        table.put(key(1, 2), entry(500, opener=1))
        asked.append(1)
        assert ctgc.collect(table, lambda: NOW, known).deleted == 0
        assert set(table.items()) == {key(1, 2), key(5, 6)}


@pytest.mark.root
def test_who_uses_the_table() -> None:
    """What stays is counted for the endpoints at its ends, both of them if both are local."""
    with BpfMap.create(
        MapType.LRU_HASH, key_size=CtKey.SIZE, value_size=CtEntry.SIZE, max_entries=1024, name="ct"
    ) as table:
        for port in range(10):
            table.put(key(1, 2, port), entry(500, opener=7))
        table.put(key(1, 3), entry(500, opener=7, receiver=8))
        table.put(key(1, 4), entry(-1, opener=9))
        found = ctgc.collect(table, lambda: NOW, lambda: {7, 8, 9})
        assert found == Collected(12, 1, Counter({7: 11, 8: 1}))


def test_expiry_is_compared_by_signed_difference() -> None:
    """Jiffies wrap: an end shortly after now is in the future, one before it in the past."""
    assert not ctgc.expired(entry(1), NOW)
    assert not ctgc.expired(entry(0), NOW)
    assert ctgc.expired(entry(-1), NOW)
    assert not ctgc.expired(entry(1 << 30), NOW)


def test_the_pace() -> None:
    """Many deletions shorten the interval, few lengthen it, within bounds."""
    assert next_interval(300, Collected(100, 50)) == 150
    assert next_interval(300, Collected(100, 100)) == pytest.approx(30)
    assert next_interval(300, Collected(100, 10)) == 300
    assert next_interval(300, Collected(100, 0)) == 450
    assert next_interval(300, Collected(0, 0)) == 450
    assert next_interval(12, Collected(10, 10)) == 10
    assert next_interval(40_000, Collected(10, 0)) == 43_200
