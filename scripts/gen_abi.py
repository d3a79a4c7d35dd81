"""Writes src/fimbria/datapath/abi.py from bpf/abi.h, so that nobody writes a layout twice.

abi.h is compiled for BPF with the compiler that builds the datapath; sizes, offsets and values
come from the BTF of that object, only names and comments from the text. `--check` compares with
what is checked in and fails if they differ.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import ziglang  # pyright: ignore[reportMissingTypeStubs]  (the wheel has none)

from fimbria.kernel.btf import Btf, Kind
from fimbria.kernel.elf import ElfFile

ROOT = Path(__file__).resolve().parent.parent
HEADER = ROOT / "bpf" / "abi.h"
TARGET = ROOT / "src" / "fimbria" / "datapath" / "abi.py"
HIDDEN = re.compile(r"(pad|unused)\d*")
DECLARATION = re.compile(
    r"(?:/\*((?:[^*]|\*(?!/))*)\*/\n)?^(struct|enum) (\w+) \{(.*?)\n?\};$", re.M | re.S
)
CODES = {1: "B", 2: "H", 4: "I", 8: "Q"}

PREAMBLE = '''"""Map keys and values, event records and shared numbers of the datapath.

Generated from the BTF of bpf/abi.h by scripts/gen_abi.py (make abi); do not edit.

Every class is an immutable value: `pack()` gives the exact bytes that stand in a map, `unpack()`
takes them apart, `SIZE` is their number. Integers are presented in host meaning, also those that
are big-endian in the map; addresses, MACs and other byte arrays are `bytes` of their exact
length. Padding is not presented and always packed as zeros. Fields not given are zero. `unpack`
raises ValueError for another length, `pack` struct.error or ValueError for what does not fit.
"""
# A field may be called count, which is a method of tuples.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, Final, NamedTuple, Self

_Bytes = bytes


def _be(value: int, size: int) -> bytes:
    return value.to_bytes(size, "big")


def _exact(value: bytes, size: int) -> bytes:
    if len(value) != size:
        raise ValueError(f"{len(value)} bytes where exactly {size} belong")
    return value


def _whole(name: str, data: bytes, size: int) -> bytes:
    if len(data) != size:
        raise ValueError(f"{name}: {len(data)} bytes, expected {size}")
    return data

'''


@dataclass(frozen=True)
class Field:
    """One presented field: its Python type, default, struct code, and how to convert it."""

    name: str
    python: str
    default: str
    code: str
    packing: str
    unpacking: str
    slots: int
    dtype: str


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def compile_header(out: Path, names: list[tuple[str, str]]) -> Btf:
    """Compiles a file that defines one variable of every type, and returns its BTF."""
    lib = Path(ziglang.__file__).parent / "lib" / "libc" / "include"
    source = out / "abi.c"
    lines = [f"{kind} {name} v_{kind}_{name};" for kind, name in names]
    source.write_text(f'#include "{HEADER}"\n' + "\n".join(lines) + "\n")
    cache = ROOT / "build" / "zig-cache"
    environment = os.environ | {
        "ZIG_LOCAL_CACHE_DIR": str(cache),
        "ZIG_GLOBAL_CACHE_DIR": str(cache),
    }
    command = [
        *(sys.executable, "-m", "ziglang", "cc", "-target", "bpfel-freestanding-none"),
        *("-mcpu=v3", "-O2", "-g", "-fno-asynchronous-unwind-tables", "-fno-unwind-tables"),
        *("-isystem", str(lib / "any-linux-any"), "-isystem", str(lib / "x86-linux-any")),
        *("-c", str(source), "-o", str(out / "abi.o")),
    ]
    subprocess.run(command, check=True, env=environment)
    return Btf(ElfFile.read(out / "abi.o").by_name[".BTF"].data)


def members_of(prefix_of: str, members: list[tuple[str, int]]) -> list[tuple[str, int]]:
    """Member names without the prefix that all of them share, or share with the enum's name."""
    first = members[0][0].split("_")
    shared = 0
    while len(first) > shared + 1 and all(
        name.split("_")[: shared + 1] == first[: shared + 1] and name.count("_") > shared
        for name, _ in members
    ):
        shared += 1
    if len(members) == 1:
        words = prefix_of.upper().split("_")
        shared = next((i for i, word in enumerate(first) if word not in (*words, "F")), 0)
    return [("_".join(name.split("_")[shared:]), value) for name, value in members]


def docstring(comment: str | None, fallback: str, indent: str = "    ") -> str:
    text = " ".join(re.sub(r"^\s*\*? ?", "", line) for line in (comment or "").splitlines()).strip()
    text = re.sub(r"\s+", " ", text) or fallback
    text = text if text.endswith((".", "!", "?")) else text + "."
    return textwrap.fill(f'"""{text}"""', 96, initial_indent=indent, subsequent_indent=indent)


def field_of(btf: Btf, name: str, type_id: int) -> Field:
    """How one member is presented and converted."""
    kind, size = btf.types[btf.resolve(type_id)].kind, btf.size(type_id)
    if kind is Kind.ARRAY:
        element, length = btf.array(type_id)
        inner = btf.types[btf.resolve(element)]
        if btf.size(element) == 1:
            return _bytes(name, size)
        if inner.kind is Kind.STRUCT:
            cls, each = camel(inner.name), inner.ref
            parts = ", ".join(
                f"{cls}.unpack(t[{{i}}][{each * i}:{each * (i + 1)}])" for i in range(length)
            )
            return Field(
                name,
                f"tuple[{', '.join([cls] * length)}]",
                f"({', '.join([cls + '()'] * length)})",
                f"{size}s",
                f'b"".join(e.pack() for e in self.{name})',
                f"({parts})",
                1,
                f'(DTYPES["{cls}"], ({length},))',
            )
        each = btf.size(element)
        return Field(
            name,
            f"tuple[{', '.join(['int'] * length)}]",
            f"({', '.join(['0'] * length)})",
            CODES[each] * length,
            f"*self.{name}",
            "(" + ", ".join(f"t[{{i{j or ''}}}]" for j in range(length)) + ")",
            length,
            f'("<u{each}", ({length},))',
        )
    if kind is Kind.STRUCT and btf.types[btf.resolve(type_id)].name == "addr":
        return _bytes(name, size)
    if kind is not Kind.INT:
        raise ValueError(f"{name}: no presentation for {kind.name}")
    if btf.is_big_endian(type_id):
        return Field(
            name, "int", "0", f"{size}s", f"_be(self.{name}, {size})",
            'int.from_bytes(t[{i}], "big")', 1, f'">u{size}"',
        )  # fmt: skip
    signed = btf.is_signed(type_id)
    code = CODES[size].lower() if signed else CODES[size]
    sign = "i" if signed else "u"
    return Field(name, "int", "0", code, f"self.{name}", "t[{i}]", 1, f'"<{sign}{size}"')


def _bytes(name: str, size: int) -> Field:
    return Field(
        name, "bytes", f"bytes({size})", f"{size}s", f"_exact(self.{name}, {size})", "t[{i}]", 1,
        f'("u1", ({size},))',
    )  # fmt: skip


def struct_source(btf: Btf, name: str, comment: str | None) -> str:
    """The class of one struct, and its dtype."""
    type_id = btf.find(Kind.STRUCT, name)
    if type_id is None:
        raise ValueError(f"struct {name} is not in the BTF")
    cls, size, at, code = camel(name), btf.size(type_id), 0, "<"
    # a field called bytes would hide the type from the annotations beside it
    octets = "_Bytes" if any(m.name == "bytes" for m in btf.members(type_id)) else "bytes"
    fields: list[tuple[Field, int]] = []
    for member in btf.members(type_id):
        if member.offset != at:
            raise ValueError(
                f"struct {name} has a hole before {member.name}: make padding explicit"
            )
        at = member.offset + btf.size(member.type)
        if HIDDEN.fullmatch(member.name):
            code += f"{btf.size(member.type)}x"
            continue
        field = field_of(btf, member.name, member.type)
        code += field.code
        fields.append((field, member.offset))
    if at != size:
        raise ValueError(f"struct {name} has a hole at its end: make padding explicit")
    lines = [f"class {cls}(NamedTuple):", docstring(comment, f"struct {name}"), ""]
    lines += [
        f"    {f.name}: {octets if f.python == 'bytes' else f.python} = "
        f"{f.default.replace('bytes', octets)}"
        for f, _ in fields
    ]
    constant = f"_{name.upper()}"
    unpacking: list[str] = []
    slot = 0
    for field, _ in fields:
        text = field.unpacking.replace("{i}", str(slot))
        for j in range(1, field.slots):
            text = text.replace(f"{{i{j}}}", str(slot + j))
        unpacking.append(text)
        slot += field.slots
    lines += [
        "",
        f"    def pack(self) -> {octets}:",
        f'        """The {size} bytes of struct {name}."""',
        f"        return {constant}.pack({', '.join(f.packing for f, _ in fields)})",
        "",
        "    @classmethod",
        f"    def unpack(cls, data: {octets}) -> Self:",
        f'        """From the {size} bytes of struct {name}."""',
        f'        t = {constant}.unpack(_whole("{cls}", data, {size}))',
        f"        return cls({', '.join(unpacking)})",
        "",
        f"    SIZE = {size}",
        "",
        f'{constant} = Struct("{code}")',
        f'DTYPES["{cls}"] = {{',
        f'    "names": [{", ".join(repr(f.name) for f, _ in fields)}],',
        f'    "formats": [{", ".join(f.dtype for f, _ in fields)}],',
        f'    "offsets": [{", ".join(str(o) for _, o in fields)}],',
        f'    "itemsize": {size},',
        "}",
        "",
    ]
    return "\n".join(lines)


def enum_source(btf: Btf, name: str, comment: str | None) -> str:
    """The class of one enum: an IntFlag if its name says flags, else an IntEnum."""
    type_id = btf.find(Kind.ENUM, name)
    if type_id is None:
        raise ValueError(f"enum {name} is not in the BTF")
    base = "IntFlag" if name.endswith("flags") else "IntEnum"
    lines = [f"class {camel(name)}({base}):", docstring(comment, f"enum {name}"), ""]
    for member, value in members_of(name, btf.enumerators(type_id)):
        lines.append(f"    {member} = {hex(value) if base == 'IntFlag' else value}")
    return "\n".join([*lines, ""])


def generate() -> str:
    """The whole text of abi.py, formatted."""
    text = HEADER.read_text()
    declarations = [
        (m[2], m[3], m[1] if m[1] and "SPDX" not in m[1] else None)
        for m in DECLARATION.finditer(text)
    ]
    with tempfile.TemporaryDirectory(dir=ensure(ROOT / "build")) as out:
        btf = compile_header(Path(out), [(kind, name) for kind, name, _ in declarations])
    parts = [PREAMBLE]
    parts += [enum_source(btf, n, c) for kind, n, c in declarations if kind == "enum"]
    parts.append("#: numpy dtype descriptions by class name: np.dtype(DTYPES['Event']).")
    parts.append("DTYPES: dict[str, dict[str, Any]] = {}\n")
    structs = [(n, c) for kind, n, c in declarations if kind == "struct" and n != "addr"]
    parts += [struct_source(btf, name, comment) for name, comment in structs]
    prints = {
        f"{kind} {name}": btf.fingerprint(btf.find(Kind[kind.upper()], name) or 0)
        for kind, name, _ in declarations
    }
    whole = hashlib.sha256("".join(f"{k}={v};" for k, v in sorted(prints.items())).encode())
    parts.append("#: Fingerprint of each type's layout; the loader compares those an object has.")
    parts.append(f"FINGERPRINTS: Final[dict[str, str]] = {prints!r}\n")
    parts.append("#: Fingerprint of all of them.")
    parts.append(f'FINGERPRINT: Final = "{whole.hexdigest()[:16]}"\n')
    ruff = [
        str(Path(sys.executable).parent / "ruff"),
        "format",
        "--stdin-filename",
        str(TARGET),
        "-",
    ]
    done = subprocess.run(ruff, input="\n".join(parts), capture_output=True, text=True, check=True)
    return done.stdout


def ensure(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare only; exit 1 if different")
    check = parser.parse_args().check
    text = generate()
    old = TARGET.read_text() if TARGET.exists() else ""
    if check and text != old:
        diff = difflib.unified_diff(old.splitlines(), text.splitlines(), "checked in", "abi.h", n=1)
        print("abi.py is not what abi.h says (run make abi):", *list(diff)[:40], sep="\n")
        return 1
    if text != old:
        TARGET.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
