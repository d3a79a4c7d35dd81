"""Object files, whole and broken."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fimbria.kernel import objects_dir
from fimbria.kernel.btf import Btf, Kind
from fimbria.kernel.elf import ElfFile
from fimbria.kernel.errors import ObjectError
from fimbria.kernel.store import definitions

PATH = Path("some.o")


def elf(sections: list[tuple[str, bytes]], machine: int = 247) -> bytes:
    """A relocatable file with these sections and the table of their names."""
    names, offsets = b"\0", [0]
    for name, _ in [*sections, (".names", b"")]:
        offsets.append(len(names))
        names += name.encode() + b"\0"
    body, headers = b"", struct.pack("<IIQQQQIIQQ", *(0,) * 10)
    for (_, data), name in zip([*sections, ("", names)], offsets[1:], strict=True):
        start = 64 + len(body)
        headers += struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, start, len(data), 0, 0, 1, 0)
        body += data
    count = len(sections) + 2
    return (
        struct.pack(
            "<16sHHIQQQIHHHHHH",
            *(b"\x7fELF\x02\x01\x01", 1, machine, 1, 0, 0, 64 + len(body), 0, 64, 0, 0),
            *(64, count, count - 1),
        )
        + body
        + headers
    )


def btf(types: list[bytes], strings: bytes) -> bytes:
    """A BTF blob."""
    body = b"".join(types)
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(body), len(body), len(strings))
    return head + body + strings


INT = struct.pack("<IIII", 1, Kind.INT << 24, 4, 32)


def test_sections_by_name() -> None:
    """A well-formed file gives its sections."""
    parsed = ElfFile(elf([("tc", b"12345678"), ("license", b"GPL\0")]), PATH)
    assert parsed.by_name["tc"].data == b"12345678"
    assert parsed.section_name(2) == "license"
    assert parsed.section_name(0xFFF1) == ""


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not a BPF object"),
        (b"\x7fELF\x02\x01" + bytes(20), "not a BPF object"),
        (b"#!/bin/sh\n" + bytes(100), "no ELF64"),
        (elf([], machine=62), "machine 62"),
        (elf([("tc", bytes(800))])[:-200], "not a BPF object"),
    ],
)
def test_foreign_files(raw: bytes, reason: str) -> None:
    """A file that is no BPF object is named, with what is wrong."""
    with pytest.raises(ObjectError, match=f"some.o: .*{reason}"):
        ElfFile(raw, PATH)


def test_a_missing_file(tmp_path: Path) -> None:
    """A file that is not there is the same kind of error."""
    with pytest.raises(ObjectError, match="cannot be read"):
        ElfFile.read(tmp_path / "nothing.o")


@given(st.integers(0, 400), st.binary(max_size=8))
def test_damaged_files(at: int, junk: bytes) -> None:
    """Whatever bytes are damaged, the answer is a parsed file or an ObjectError."""
    whole = elf([("tc", bytes(64)), (".BTF", btf([INT], b"\0int\0"))])
    raw = whole[:at] + junk + whole[at + len(junk) :]
    with contextlib.suppress(ObjectError):
        ElfFile(raw, PATH)


@given(st.integers(0, 60), st.binary(max_size=8))
def test_damaged_btf(at: int, junk: bytes) -> None:
    """Whatever bytes are damaged, BTF parses or says ValueError."""
    whole = btf([INT], b"\0int\0")
    with contextlib.suppress(ValueError):
        Btf(whole[:at] + junk + whole[at + len(junk) :])


def test_layout_tells_types_apart() -> None:
    """Name, size, sign and byte order of a member all change the fingerprint."""
    strings = b"\0u32\0__be32\0s\0a\0b\0"
    u32 = struct.pack("<IIII", 1, Kind.INT << 24, 4, 32)
    s32 = struct.pack("<IIII", 1, Kind.INT << 24, 4, 1 << 24 | 32)
    be32 = struct.pack("<III", 5, Kind.TYPEDEF << 24, 1)

    def struct_of(name: int, member: int) -> bytes:
        head = struct.pack("<III", 12, Kind.STRUCT << 24 | 1, 4)
        return head + struct.pack("<III", name, member, 0)

    prints = [
        Btf(btf([number, be32, struct_of(name, member)], strings)).fingerprint(3)
        for number, name, member in (
            (u32, 14, 1), (u32, 16, 1), (s32, 14, 1), (u32, 14, 2),
        )
    ]  # fmt: skip
    assert len(set(prints)) == 4


def test_where_the_datapath_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiled datapath the error names the folder that was looked at, and what to do."""
    monkeypatch.delenv("FIMBRIA_BPF_DIR", raising=False)
    assert objects_dir() == Path(__file__).resolve().parents[3] / "build" / "bpf"
    monkeypatch.setattr("fimbria.kernel._PACKAGE", tmp_path / "site-packages" / "fimbria")
    assert objects_dir() == tmp_path / "site-packages" / "fimbria" / "bpf"
    tree = tmp_path / "tree"
    (tree / "bpf").mkdir(parents=True)
    (tree / "bpf" / "abi.h").touch()
    monkeypatch.setattr("fimbria.kernel._PACKAGE", tree / "src" / "fimbria")
    for missing in ("there is no such folder", "a folder without"):
        with pytest.raises(ObjectError, match=missing) as caught:
            definitions(objects_dir())
        assert str(tree / "build" / "bpf") in str(caught.value)
        assert "make build" in str(caught.value)
        objects_dir().mkdir(parents=True, exist_ok=True)
