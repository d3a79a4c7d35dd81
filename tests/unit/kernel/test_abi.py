"""The generated ABI: exact bytes, exact sizes, and nothing silently cut or padded."""

from __future__ import annotations

import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fimbria.datapath import abi

CLASSES = {name: getattr(abi, name) for name in abi.DTYPES}


@pytest.mark.parametrize("name", CLASSES)
def test_sizes_agree(name: str) -> None:
    """The class, its packed form and its numpy dtype have the same size, and zeros are zeros."""
    cls = CLASSES[name]
    assert len(cls().pack()) == cls.SIZE == np.dtype(abi.DTYPES[name]).itemsize
    assert cls.unpack(bytes(cls.SIZE)) == cls()
    assert cls().pack() == bytes(cls.SIZE)


@pytest.mark.parametrize("name", CLASSES)
@given(data=st.data())
def test_packing_is_the_inverse_of_unpacking(name: str, data: st.DataObject) -> None:
    """Every value survives the round trip through bytes."""
    cls = CLASSES[name]
    value = cls.unpack(data.draw(st.binary(min_size=cls.SIZE, max_size=cls.SIZE)))
    assert cls.unpack(value.pack()) == value


@pytest.mark.parametrize("name", CLASSES)
def test_other_lengths_are_refused(name: str) -> None:
    """Bytes of another length are an error that names the type."""
    cls = CLASSES[name]
    for wrong in (cls.SIZE - 1, cls.SIZE + 1, 0):
        with pytest.raises(ValueError, match=name):
            cls.unpack(bytes(wrong))


def test_byte_order() -> None:
    """Big-endian fields are written in network order, the others in the machine's (little)."""
    key = abi.PolicyKey(identity=0x01020304, dport=80, protocol=6, shape=17)
    assert key.pack() == b"\x04\x03\x02\x01\x00\x50\x06\x11"
    info = abi.IpcacheInfo(sec_identity=1, tunnel_endpoint=0xAC120002)
    assert info.pack() == bytes.fromhex("01000000 ac120002 0000 00 00")


def test_ipcache_key_is_the_walkthrough_s() -> None:
    """The key of 10.0.1.7/32 has the bytes that bpftool walkthroughs of such systems show."""
    key = abi.IpcacheKey(prefixlen=64, family=1, ip=bytes((10, 0, 1, 7)) + bytes(12))
    assert key.pack().hex(" ") == "40 00 00 00 00 00 00 01 0a 00 01 07" + " 00" * 12


def test_what_does_not_fit_is_refused() -> None:
    """Addresses of another length and numbers that are too big are never cut or padded."""
    for ip in (bytes(4), bytes(17)):
        with pytest.raises(ValueError, match="exactly 16"):
            abi.EndpointKey(ip=ip).pack()
    with pytest.raises(struct.error):
        abi.EndpointKey(family=256).pack()
    with pytest.raises(OverflowError):
        abi.PolicyKey(dport=65536).pack()


def test_nested_values() -> None:
    """Structs in structs and arrays of numbers are tuples of values."""
    entry = abi.CtEntry(expires=5, dir=(abi.CtDir(revision=1), abi.CtDir(revision=2)))
    assert abi.CtEntry.unpack(entry.pack()).dir[1].revision == 2
    info = abi.PolicyInfo(peer_shapes=(1, 2), any_shapes=(3, 4))
    assert abi.PolicyInfo.unpack(info.pack()) == info


def test_numbers_of_other_tools() -> None:
    """Numbers that dashboards and tools know are those."""
    assert abi.DropReason.POLICY == 133
    assert abi.DropReason.POLICY_DENY == 181
    assert abi.Identity.REMOTE_NODE == 6
    assert abi.EventType.POLICY_VERDICT == 5
    assert abi.PolicyFlags.INGRESS | abi.PolicyFlags.EGRESS == 3


def test_it_is_a_leaf() -> None:
    """Importing the ABI brings in nothing but the standard library, and no numpy."""
    code = "import sys, fimbria.datapath.abi; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(done.stdout.split()) - {"fimbria", "__main__"}
    assert {m for m in modules if m not in sys.stdlib_module_names and "editable" not in m} <= {
        "_distutils_hack",
        "_virtualenv",
    }
