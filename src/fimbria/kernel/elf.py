"""The little of ELF that a BPF object needs: sections, symbols, relocations.

The loader reads an object file's bytes through this module and nothing else, so that a truncated
or foreign file ends here, with its path and what is wrong with it, before anything is created in
the kernel. Bytes in, frozen values out; no I/O beyond `ElfFile.read`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fimbria.kernel.errors import ObjectError, undamaged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

EM_BPF = 247
SHN_UNDEF = 0
SHT_SYMTAB, SHT_NOBITS, SHT_REL = 2, 8, 9
STT_FUNC, STT_SECTION = 2, 3
STV_HIDDEN = 2
R_BPF_64_64, R_BPF_64_32 = 1, 10

_MAX_BSS = 1 << 24
_NOT_LOADED = (".debug", ".BTF")  # their relocations are for debuggers and linkers
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Section:
    """One section; `data` is zeros for a section without bytes in the file (.bss)."""

    index: int
    name: str
    type: int
    link: int
    info: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Symbol:
    """One symbol; `section` is a section index or a reserved number, `value` a byte offset."""

    name: str
    type: int
    visibility: int
    section: int
    value: int
    size: int


@dataclass(frozen=True, slots=True)
class Relocation:
    """`offset` in bytes into the section that is patched."""

    offset: int
    type: int
    symbol: Symbol


class ElfFile:
    """A parsed relocatable BPF object (ELF64, little-endian, EM_BPF)."""

    def __init__(self, raw: bytes, path: Path) -> None:
        """Parses `raw`; raises ObjectError naming `path` if it is no BPF object or truncated."""
        self.path = path
        self.raw = raw
        with undamaged(path):
            self.sections = _sections(raw)
            self.symbols = _symbols(self.sections)
            self.relocations = _relocations(self.sections, self.symbols)
        self.by_name = {section.name: section for section in self.sections}

    @classmethod
    def read(cls, path: Path) -> ElfFile:
        """Reads and parses a file; raises ObjectError, also when it cannot be read."""
        try:
            raw = path.read_bytes()
        except OSError as error:
            raise ObjectError(path, f"cannot be read: {error.strerror}") from error
        return cls(raw, path)

    def section_name(self, index: int) -> str:
        """Name of a section by index; empty for reserved indices (undefined, absolute)."""
        return self.sections[index].name if 0 < index < len(self.sections) else ""


def _text(table: bytes, offset: int) -> str:
    end = table.index(0, offset)
    return table[offset:end].decode()


def _sections(raw: bytes) -> tuple[Section, ...]:
    ident, kind, machine, _, _, _, offset, _, _, _, _, entry, count, names = _HEADER.unpack_from(
        raw
    )
    if ident[:6] != b"\x7fELF\x02\x01":
        raise ValueError("no ELF64 little-endian header")
    if machine != EM_BPF or kind != 1 or entry != _SECTION.size:
        raise ValueError(
            f"machine {machine}, type {kind}; expected {EM_BPF} (BPF), 1 (relocatable)"
        )
    headers: list[tuple[int, ...]] = [
        _SECTION.unpack_from(raw, offset + i * entry) for i in range(count)
    ]

    def data(header: tuple[int, ...]) -> bytes:
        start, size = header[4], header[5]
        if header[1] == SHT_NOBITS and size <= _MAX_BSS:
            return bytes(size)
        if start + size > len(raw):
            raise ValueError("a section ends behind the end of the file")
        return raw[start : start + size]

    table = data(headers[int(names)])
    return tuple(
        Section(i, _text(table, h[0]) if h[1] else "", h[1], h[6], h[7], data(h) if h[1] else b"")
        for i, h in enumerate(headers)
    )


def _symbols(sections: tuple[Section, ...]) -> tuple[Symbol, ...]:
    for section in sections:
        if section.type == SHT_SYMTAB:
            table = sections[section.link].data
            return tuple(
                Symbol(_text(table, name), info & 15, other & 3, index, value, size)
                for name, info, other, index, value, size in _SYMBOL.iter_unpack(section.data)
            )
    return ()


def _relocations(
    sections: tuple[Section, ...], symbols: tuple[Symbol, ...]
) -> Mapping[int, tuple[Relocation, ...]]:
    return {
        section.info: tuple(
            Relocation(offset, info & 0xFFFFFFFF, symbols[int(info) >> 32])
            for offset, info in _RELOCATION.iter_unpack(section.data)
        )
        for section in sections
        if section.type == SHT_REL and not sections[section.info].name.startswith(_NOT_LOADED)
    }
