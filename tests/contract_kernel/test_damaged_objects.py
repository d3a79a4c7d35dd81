"""Object files with damage anywhere: an ObjectError or a working parse, never anything else."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fimbria.kernel.elf import ElfFile
from fimbria.kernel.errors import ObjectError, undamaged
from fimbria.kernel.objectfile import ObjectFile
from fimbria.kernel.relocate import Assembler

if TYPE_CHECKING:
    from pathlib import Path


def parse(path: Path) -> None:
    """All that is done to a file before the kernel sees any of it."""
    source = ObjectFile(path, {"cfg_answer": 3})
    with undamaged(path):
        names = dict.fromkeys([*source.definitions, *source.data], 5)
        assembler = Assembler(source.elf, source.btf, names)
        for function in assembler.functions.values():
            assembler.assemble(function)


def test_an_undamaged_file(probe: Path) -> None:
    """The file itself is fine."""
    parse(probe)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 0.999), st.binary(min_size=1, max_size=4)), max_size=4),
    st.one_of(st.none(), st.floats(0, 0.999)),
)
def test_damage_anywhere(probe: Path, hits: list[tuple[float, bytes]], cut: float | None) -> None:
    """Bytes overwritten anywhere, and an end anywhere, are an error that names the file."""
    raw = bytearray(probe.read_bytes())
    for place, junk in hits:
        at = int(place * len(raw))
        raw[at : at + len(junk)] = junk
    if cut is not None:
        del raw[int(cut * len(raw)) :]
    broken = probe.with_name("broken.o")
    broken.write_bytes(raw)
    with contextlib.suppress(ObjectError):
        parse(broken)


def test_damaged_elf_is_named(probe: Path) -> None:
    """The error says which file."""
    broken = probe.with_name("half.o")
    broken.write_bytes(probe.read_bytes()[:1000])
    with pytest.raises(ObjectError, match=r"half\.o"):
        ElfFile.read(broken)
