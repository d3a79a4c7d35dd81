"""What maps do, in the kernel and in the fake alike."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest

from fimbria.datapath.abi import (
    EndpointInfo,
    EndpointKey,
    IpcacheInfo,
    IpcacheKey,
    PolicyEntry,
    PolicyKey,
)
from fimbria.kernel.errors import BpfError, is_exists, is_full, is_not_found
from fimbria.kernel.syscall import UpdateMode

if TYPE_CHECKING:
    from .conftest import Kernel


def endpoint(n: int) -> bytes:
    return EndpointKey(ip=struct.pack("!I", n) + bytes(12), family=1).pack()


def prefix(address: str, length: int) -> bytes:
    raw = bytes(map(int, address.split("."))) + bytes(12)
    return IpcacheKey(prefixlen=32 + length, family=1, ip=raw).pack()


def index(n: int) -> bytes:
    return struct.pack("=I", n)


VALUE = EndpointInfo(ifindex=3, lxc_id=7, sec_id=1000).pack()


def test_write_read_remove(kernel: Kernel) -> None:
    """What is written is read back, and is gone once removed; removing twice is no error."""
    lxc = kernel.bpf.map("probe_lxc")
    assert lxc.get(endpoint(1)) is None
    lxc.put(endpoint(1), VALUE)
    assert lxc.get(endpoint(1)) == VALUE
    assert lxc.items() == {endpoint(1): VALUE}
    assert lxc.delete(endpoint(1))
    assert not lxc.delete(endpoint(1))
    assert lxc.items() == {}


def test_unknown_map(kernel: Kernel) -> None:
    """A map that is not there is `is_not_found`, whatever is asked of it."""
    with pytest.raises(BpfError) as caught:
        kernel.bpf.map("probe_nothing")
    assert is_not_found(caught.value)


def test_wrong_sizes(kernel: Kernel) -> None:
    """A key or value of another length never reaches the map."""
    lxc = kernel.bpf.map("probe_lxc")
    for key, value in ((b"short", VALUE), (endpoint(1), VALUE[:-1]), (endpoint(1), VALUE + b"x")):
        with pytest.raises(ValueError, match="bytes, expected"):
            lxc.put(key, value)
    with pytest.raises(ValueError, match="bytes, expected"):
        lxc.get(b"")
    assert lxc.items() == {}


def test_hash_fills_up(kernel: Kernel) -> None:
    """A full hash map refuses new elements as `is_full`, and still takes writes to known ones."""
    lxc = kernel.bpf.map("probe_lxc")
    lxc.put_many({endpoint(n): VALUE for n in range(16)})
    with pytest.raises(BpfError) as caught:
        lxc.put(endpoint(16), VALUE)
    assert is_full(caught.value)
    with pytest.raises(BpfError) as caught:
        lxc.put_many({endpoint(17): VALUE})
    assert is_full(caught.value)
    lxc.put(endpoint(3), bytes(48))
    assert len(lxc.items()) == 16


def test_update_modes(kernel: Kernel) -> None:
    """NOEXIST only creates, EXIST only replaces."""
    lxc = kernel.bpf.map("probe_lxc")
    with pytest.raises(BpfError) as caught:
        lxc.put(endpoint(1), VALUE, UpdateMode.EXIST)
    assert is_not_found(caught.value)
    lxc.put(endpoint(1), VALUE, UpdateMode.NOEXIST)
    with pytest.raises(BpfError) as caught:
        lxc.put(endpoint(1), VALUE, UpdateMode.NOEXIST)
    assert is_exists(caught.value)


def test_many_at_once(kernel: Kernel) -> None:
    """Bulk writes and removals do what single ones do; missing keys do not stop a removal."""
    cache = kernel.bpf.map("probe_ipcache")
    rows = {prefix(f"10.{n // 256}.{n % 256}.1", 32): IpcacheInfo(n).pack() for n in range(1000)}
    cache.put_many(rows)
    assert cache.items() == rows
    keys = list(rows)
    gone = [*keys[:10], keys[3], prefix("9.9.9.9", 32), *keys[10:20]]
    assert cache.delete_many(gone) == 20
    assert cache.items() == {key: rows[key] for key in keys[20:]}
    assert cache.delete_many([]) == 0
    cache.put_many({})


def test_longest_prefix(kernel: Kernel) -> None:
    """Reading an LPM trie matches the longest prefix; removing means exactly one."""
    cache = kernel.bpf.map("probe_ipcache")
    cache.put(prefix("10.1.0.0", 16), IpcacheInfo(16).pack())
    cache.put(prefix("10.1.2.0", 24), IpcacheInfo(24).pack())
    assert cache.get(prefix("10.1.2.3", 32)) == IpcacheInfo(24).pack()
    assert cache.get(prefix("10.1.3.3", 32)) == IpcacheInfo(16).pack()
    assert cache.get(prefix("10.2.3.3", 32)) is None
    assert not cache.delete(prefix("10.1.2.3", 32))
    assert cache.delete(prefix("10.1.2.0", 24))
    assert cache.get(prefix("10.1.2.3", 32)) == IpcacheInfo(16).pack()
    with pytest.raises(BpfError):
        cache.put(prefix("10.0.0.0", 129), IpcacheInfo(1).pack())


def test_longest_prefix_fills_up(kernel: Kernel) -> None:
    """A full LPM trie is `is_full` too."""
    cache = kernel.bpf.map("probe_ipcache")
    cache.put_many({prefix(f"10.1.{n >> 8}.{n & 255}", 32): bytes(12) for n in range(1024)})
    with pytest.raises(BpfError) as caught:
        cache.put(prefix("10.2.0.0", 16), bytes(12))
    assert is_full(caught.value)


def test_inner_maps(kernel: Kernel) -> None:
    """An element of a map of maps refers to an inner map, which lives as long as it does."""
    outer = kernel.bpf.map("probe_policy")
    key = PolicyKey(identity=5, dport=80, protocol=6, shape=17).pack()
    entry = PolicyEntry(rule_id=99).pack()
    assert outer.get_map(index(1)) is None
    one, other = kernel.bpf.new_inner("probe_policy", 100), kernel.bpf.new_inner("probe_policy", 5)
    one.put(key, entry)
    outer.put_maps({index(1): one, index(3): other})
    one.close()
    other.close()
    found = outer.get_map(index(1))
    assert found
    assert found.items() == {key: entry}
    assert found.max_entries == 100
    assert set(outer.items()) == {index(1), index(3)}
    assert outer.delete(index(3))
    assert outer.get_map(index(3)) is None
    found.close()


def test_inner_map_must_fit(kernel: Kernel) -> None:
    """A reference to a closed map, to one of another shape, or beyond the end is refused."""
    outer, lxc = kernel.bpf.map("probe_policy"), kernel.bpf.map("probe_lxc")
    with pytest.raises(BpfError):
        outer.put_maps({index(0): lxc})
    with pytest.raises(BpfError):
        outer.put(index(0), struct.pack("=I", 0xFFFF))
    inner = kernel.bpf.new_inner("probe_policy", 4)
    with pytest.raises(BpfError):
        outer.put_maps({index(4): inner})
    inner.close()
    with pytest.raises((BpfError, struct.error)):
        outer.put_maps({index(0): inner})
    with pytest.raises(ValueError, match="no map of maps"):
        kernel.bpf.new_inner("probe_lxc", 4)
    assert outer.items() == {}


def test_arrays(kernel: Kernel) -> None:
    """A per-CPU array has all of its indices from the start and no others; none can be removed."""
    metrics = kernel.bpf.map("probe_metrics")
    assert set(metrics.items()) == {index(n) for n in range(4)}
    assert metrics.get(index(4)) is None
    slots = metrics.get(index(0))
    assert slots
    assert not any(slots)
    with pytest.raises(BpfError):
        metrics.put(index(4), slots)
    with pytest.raises(BpfError):
        metrics.delete(index(0))
