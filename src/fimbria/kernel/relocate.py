"""Turns a program of an object file into the flat instructions that the kernel loads.

A program starts in its own section and may call functions of `.text` (or of its section), take
their address (callbacks), and refer to maps and global data. Everything reachable is laid out
behind the entry point; calls become relative distances, references become map descriptors, and
the BTF function and line records move along. CO-RE relocations never get here: the loader refuses
objects that have them.

Encoding: Documentation/bpf/standardization/instruction-set.rst; relocation types: llvm's
BPFELFRelocations.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fimbria.kernel.elf import R_BPF_64_32, R_BPF_64_64, SHN_UNDEF, STT_FUNC
from fimbria.kernel.errors import ObjectError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.kernel.btf import Btf
    from fimbria.kernel.elf import ElfFile, Relocation

INSN = 8
_LD_IMM64, _CALL = 0x18, 0x85
_PSEUDO_MAP_FD, _PSEUDO_MAP_VALUE, _PSEUDO_CALL, _PSEUDO_FUNC = 1, 2, 1, 4
_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_EXT = struct.Struct("<HBBIIIIIII")

Place = tuple[int, int]  # section index, instruction number


@dataclass(frozen=True, slots=True)
class Function:
    """A function of the object: where it starts, and its length in instructions."""

    name: str
    section: int
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class Code:
    """Instructions with the records that the kernel wants beside them."""

    instructions: bytes
    func_info: bytes
    line_info: bytes


class Assembler:
    """Puts programs together, given what the object's names stand for in the kernel."""

    def __init__(self, elf: ElfFile, btf: Btf, maps: Mapping[str, int]) -> None:
        """`maps`: descriptor by map name, and by section name for global data."""
        self._elf = elf
        self._maps = maps
        self.functions: dict[Place, Function] = {
            (s.section, s.value // INSN): Function(
                s.name, s.section, s.value // INSN, s.size // INSN
            )
            for s in elf.symbols
            if s.type == STT_FUNC and s.section != SHN_UNDEF
        }
        self._func_info, self._line_info = _records(elf, btf)
        self._relocations: dict[int, dict[int, Relocation]] = {
            section: {r.offset // INSN: r for r in entries}
            for section, entries in elf.relocations.items()
        }

    def assemble(self, entry: Function) -> Code:
        """The whole program that begins at `entry`."""
        out, funcs, lines = bytearray(), bytearray(), bytearray()
        at: dict[Place, int] = {}
        pending: list[tuple[int, Place, bool]] = []  # where, what, is it a call
        queue = [(entry.section, entry.start)]
        while queue:
            place = queue.pop(0)
            if place in at:
                continue
            function = self.functions[place]
            base = at[place] = len(out) // INSN
            code = self._body(function)
            for where, target, is_call in self._references(function, code):
                pending.append((base + where, target, is_call))
                queue.append(target)
            out += code
            start, end = function.start, function.start + function.length
            name = self._elf.section_name(function.section)
            for first, rest in self._func_info.get(name, ()):
                if first == start:
                    funcs += _U32.pack(base) + rest
            for first, rest in self._line_info.get(name, ()):
                if start <= first < end:
                    lines += _U32.pack(first - start + base) + rest
        for where, target, is_call in pending:
            distance = at[target] - where - 1
            if not is_call:
                self._set_source(out, where, _PSEUDO_FUNC)
                _I32.pack_into(out, where * INSN + 12, 0)
            _I32.pack_into(out, where * INSN + 4, distance)
        return Code(bytes(out), bytes(funcs), bytes(lines))

    def _body(self, function: Function) -> bytearray:
        data = self._elf.sections[function.section].data
        return bytearray(data[function.start * INSN : (function.start + function.length) * INSN])

    def _references(self, function: Function, code: bytearray) -> list[tuple[int, Place, bool]]:
        """Patches references to maps and data; returns those to functions, for later."""
        found: list[tuple[int, Place, bool]] = []
        relocations = self._relocations.get(function.section, {})
        relocated: set[int] = set()
        for number, relocation in relocations.items():
            where = number - function.start
            if 0 <= where < function.length:
                relocated.add(where)
                if place := self._resolve(function, code, where, relocation):
                    found.append(place)
        opcodes = code[::INSN]
        where = opcodes.find(_CALL)
        while where >= 0:
            if where not in relocated and code[where * INSN + 1] >> 4 == _PSEUDO_CALL:
                start = function.start + where + _I32.unpack_from(code, where * INSN + 4)[0] + 1
                found.append((where, self._function(function.section, start, function), True))
            where = opcodes.find(_CALL, where + 1)
        return found

    def _resolve(
        self, function: Function, code: bytearray, where: int, relocation: Relocation
    ) -> tuple[int, Place, bool] | None:
        symbol, at = relocation.symbol, where * INSN
        addend = _I32.unpack_from(code, at + 4)[0]
        target = self._elf.section_name(symbol.section)
        if symbol.section == SHN_UNDEF:
            raise self._refusal(function, f"external symbol {symbol.name}")
        if relocation.type == R_BPF_64_32 and code[at] == _CALL:
            start = symbol.value // INSN + addend + 1
            return where, self._function(symbol.section, start, function), True
        if relocation.type != R_BPF_64_64 or code[at] != _LD_IMM64:
            raise self._refusal(function, f"relocation type {relocation.type} to {symbol.name}")
        if target == ".maps":
            self._set_source(code, where, _PSEUDO_MAP_FD)
            _I32.pack_into(code, at + 4, self._maps[symbol.name])
        elif target in self._maps:
            self._set_source(code, where, _PSEUDO_MAP_VALUE)
            _I32.pack_into(code, at + 4, self._maps[target])
            _I32.pack_into(code, at + 12, symbol.value + addend)
        else:
            start = (symbol.value + addend) // INSN
            return where, self._function(symbol.section, start, function), False
        return None

    def _function(self, section: int, start: int, user: Function) -> Place:
        if (section, start) not in self.functions:
            where = f"{self._elf.section_name(section)}+{start}"
            raise self._refusal(user, f"a reference to {where}, where no function starts")
        return section, start

    def _refusal(self, function: Function, what: str) -> ObjectError:
        return ObjectError(self._elf.path, f"{function.name} has {what}, which is not supported")

    @staticmethod
    def _set_source(code: bytearray, where: int, source: int) -> None:
        code[where * INSN + 1] = code[where * INSN + 1] & 0x0F | source << 4


Records = dict[str, list[tuple[int, bytes]]]


def _records(elf: ElfFile, btf: Btf) -> tuple[Records, Records]:
    """Function and line records by section name: (instruction number, what follows it)."""
    section = elf.by_name.get(".BTF.ext")
    if section is None:
        raise ObjectError(elf.path, "has no .BTF.ext section: compile it with -g")
    raw = section.data
    header = _EXT.unpack_from(raw)
    if header[3] >= _EXT.size and header[9]:
        raise ObjectError(
            elf.path, "has CO-RE relocations: compile against the UAPI headers, not vmlinux.h"
        )
    parts: list[Records] = []
    for offset, length, keep in ((header[4], header[5], 4), (header[6], header[7], 12)):
        records: Records = {}
        at = header[3] + offset
        end = at + length
        (size,) = _U32.unpack_from(raw, at)
        at += 4
        while at < end:
            name, count = struct.unpack_from("<II", raw, at)
            at += 8
            records[btf.text(name)] = [
                (_U32.unpack_from(raw, i)[0] // INSN, raw[i + 4 : i + 4 + keep])
                for i in range(at, at + count * size, size)
            ]
            at += count * size
        parts.append(records)
    return parts[0], parts[1]
