"""A BPF object file, read, checked and prepared before anything of it is made in the kernel.

Here a wrong file is told from a right one: types that abi.h knows must have the layout that
datapath/abi.py was generated from, constants must exist and fit, and what the loader cannot do is
refused by name.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from fimbria.datapath import abi
from fimbria.kernel import mapdefs
from fimbria.kernel.btf import Btf, Kind
from fimbria.kernel.elf import STT_FUNC, STV_HIDDEN, ElfFile
from fimbria.kernel.errors import AbiMismatch, ObjectError, undamaged

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

Constant = int | bytes
_DATA = (".rodata", ".data", ".bss")


class ObjectFile:
    """`elf`, patched `btf`, map `definitions`, `data` by section name, `license`, `identity`."""

    def __init__(self, path: Path, constants: Mapping[str, Constant]) -> None:
        """Raises ObjectError or AbiMismatch, which say what is wrong with the file."""
        self.elf = ElfFile.read(path)
        with undamaged(path):
            self._prepare(path, constants)

    def _prepare(self, path: Path, constants: Mapping[str, Constant]) -> None:
        section = self.elf.by_name.get(".BTF")
        if section is None:
            raise ObjectError(path, "has no .BTF section: compile it with -g")
        self.btf = Btf(section.data)
        self._check_abi()
        held = self.elf.by_name.get("license")
        self.license = held.data.rstrip(b"\0") if held else b""
        self.data = {
            s.name: bytearray(s.data) for s in self.elf.sections if _is_data(s.name, s.data)
        }
        for name in self.data:
            if self.elf.relocations.get(self.elf.by_name[name].index):
                raise ObjectError(path, f"{name} holds addresses, which is not supported")
        for name, value in constants.items():
            self._set(name, value)
        self.definitions = mapdefs.map_defs(self.btf)
        self._patch_btf()
        digest = hashlib.sha256(self.elf.raw)
        for name in sorted(self.data):
            digest.update(self.data[name])
        self.identity = digest.hexdigest()[:12]

    def _check_abi(self) -> None:
        """Compares every type that both abi.h and this object have."""
        wrong: list[str] = []
        for i, known in enumerate(self.btf.types):
            if known.kind in (Kind.STRUCT, Kind.ENUM):
                name = f"{known.kind.name.lower()} {known.name}"
                expected = abi.FINGERPRINTS.get(name)
                if expected is not None and expected != self.btf.fingerprint(i):
                    wrong.append(name)
        if wrong:
            raise AbiMismatch(self.elf.path, tuple(wrong))

    def _set(self, name: str, value: Constant) -> None:
        for symbol in self.elf.symbols:
            section = self.elf.section_name(symbol.section)
            if symbol.name == name and section.startswith(".rodata"):
                break
        else:
            raise ObjectError(self.elf.path, f"has no constant {name}")
        if symbol.value + symbol.size > len(self.data[section]):
            raise ValueError(f"constant {name} lies outside {section}")
        try:
            raw = (
                value
                if isinstance(value, bytes)
                else value.to_bytes(symbol.size, "little", signed=value < 0)
            )
        except OverflowError:
            raw = b""
        if len(raw) != symbol.size:
            raise ObjectError(
                self.elf.path, f"constant {name} has {symbol.size} bytes; {value!r} does not fit"
            )
        self.data[section][symbol.value : symbol.value + symbol.size] = raw

    def _patch_btf(self) -> None:
        """Fills in what compilers leave to the loader: section sizes, variable offsets, and
        hidden global functions, which are verified as part of their callers like static ones.
        """
        symbols = {s.name: s for s in self.elf.symbols if s.name}
        for known in self.btf.types:
            if known.kind is Kind.DATASEC:
                section = self.elf.by_name.get(known.name)
                if section is None:
                    raise ObjectError(self.elf.path, f"has external symbols ({known.name})")
                self.btf.patch(known.at - 4, len(section.data))
                items: list[tuple[int, int, int]] = []
                for i in range(known.items):
                    at = known.at + 12 * i
                    variable, _, size = struct.unpack_from("<III", self.btf.raw, at)
                    items.append((symbols[self.btf.types[variable].name].value, variable, size))
                for i, (value, variable, size) in enumerate(sorted(items)):
                    struct.pack_into("<III", self.btf.raw, known.at + 12 * i, variable, value, size)
            elif known.kind is Kind.FUNC:
                symbol = symbols.get(known.name)
                if symbol and symbol.type == STT_FUNC and symbol.visibility == STV_HIDDEN:
                    self.btf.patch(known.at - 8, Kind.FUNC << 24)


def _is_data(name: str, data: bytes) -> bool:
    return bool(data) and any(name == kind or name.startswith(kind + ".") for kind in _DATA)
