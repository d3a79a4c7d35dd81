"""BTF, the type information in a BPF object: read, patched, and boiled down to fingerprints.

Three uses meet here: the loader reads map definitions and hands the (patched) blob to the kernel,
the ABI generator reads struct layouts, and both reduce a type to the same canonical text, whose
hash decides whether an object and datapath/abi.py were made from the same abi.h.

Format: Linux Documentation/bpf/btf.rst; little-endian.
"""

from __future__ import annotations

import hashlib
import struct
from enum import IntEnum
from typing import NamedTuple

MAGIC = 0xEB9F
_HEADER = struct.Struct("<HBBIIIII")
_TYPE = struct.Struct("<III")
_U32 = struct.Struct("<I")
_THREE = struct.Struct("<III")


class Kind(IntEnum):
    """Type kinds, numbered as in include/uapi/linux/btf.h."""

    VOID = 0
    INT = 1
    PTR = 2
    ARRAY = 3
    STRUCT = 4
    UNION = 5
    ENUM = 6
    FWD = 7
    TYPEDEF = 8
    VOLATILE = 9
    CONST = 10
    RESTRICT = 11
    FUNC = 12
    FUNC_PROTO = 13
    VAR = 14
    DATASEC = 15
    FLOAT = 16
    DECL_TAG = 17
    TYPE_TAG = 18
    ENUM64 = 19


_MODIFIERS = frozenset({Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG})
_TRAILER = {Kind.INT: 4, Kind.ARRAY: 12, Kind.VAR: 4, Kind.DECL_TAG: 4}
_PER_ITEM = {
    Kind.STRUCT: 12,
    Kind.UNION: 12,
    Kind.ENUM: 8,
    Kind.FUNC_PROTO: 8,
    Kind.DATASEC: 12,
    Kind.ENUM64: 12,
}
_KINDS: tuple[Kind, ...] = tuple(Kind)
_BIG_ENDIAN = frozenset({"__be16", "__be32", "__be64"})


class Type(NamedTuple):
    """One type record; `ref` is its size or the type it refers to, `at` where its items begin."""

    kind: Kind
    items: int
    flag: bool
    name: str
    ref: int
    at: int


class Member(NamedTuple):
    """A struct or union member; `offset` in bytes."""

    name: str
    type: int
    offset: int


class Array(NamedTuple):
    """Element type id and number of elements."""

    element: int
    length: int


class Btf:
    """A parsed BTF blob. Type ids are those of the blob; 0 is void."""

    def __init__(self, raw: bytes) -> None:
        """Raises ValueError if `raw` is not a whole BTF blob."""
        self.raw = bytearray(raw)
        self._layouts: dict[int, str] = {}
        try:
            self._parse()
        except (struct.error, IndexError) as error:
            raise ValueError(f"malformed BTF: {error}") from error

    def _parse(self) -> None:
        magic, _, _, header, type_at, type_len, text_at, text_len = _HEADER.unpack_from(self.raw)
        if magic != MAGIC:
            raise ValueError("malformed BTF: wrong magic number")
        self._text = bytes(self.raw[header + text_at : header + text_at + text_len])
        self.types: list[Type] = [Type(Kind.VOID, 0, False, "void", 0, 0)]
        at, end = header + type_at, header + type_at + type_len
        while at < end:
            name, info, ref = _TYPE.unpack_from(self.raw, at)
            kind = _KINDS[int(info) >> 24 & 0x1F]
            count = info & 0xFFFF
            at += _TYPE.size
            self.types.append(Type(kind, count, info >> 31 == 1, self.text(name), ref, at))
            at += _TRAILER.get(kind, 0) + _PER_ITEM.get(kind, 0) * count

    def text(self, offset: int) -> str:
        """The string at `offset` of the string section."""
        end = self._text.find(0, offset)
        if end < 0:
            raise ValueError(f"malformed BTF: no string at {offset}")
        return self._text[offset:end].decode()

    def resolve(self, type_id: int) -> int:
        """Id behind typedefs and qualifiers."""
        for _ in self.types:
            if self.types[type_id].kind not in _MODIFIERS:
                return type_id
            type_id = self.types[type_id].ref
        raise ValueError("malformed BTF: a type that refers to itself")

    def members(self, type_id: int) -> list[Member]:
        """Members of a struct or union, in order. Bit fields are refused (ValueError)."""
        kind, count, flag, name, _, at = self.types[self.resolve(type_id)]
        if kind not in (Kind.STRUCT, Kind.UNION):
            raise ValueError(f"{name} is no struct")
        found: list[Member] = []
        for i in range(count):
            text, member, bits = _THREE.unpack_from(self.raw, at + 12 * i)
            if (flag and bits >> 24) or bits & 7:
                raise ValueError(f"{name}.{self.text(text)} is a bit field")
            found.append(Member(self.text(text), member, (bits & 0xFFFFFF) // 8))
        return found

    def array(self, type_id: int) -> Array:
        """Element and length of an array type."""
        kind, _, _, name, _, at = self.types[self.resolve(type_id)]
        if kind is not Kind.ARRAY:
            raise ValueError(f"{name} is no array")
        element, _, length = _THREE.unpack_from(self.raw, at)
        return Array(element, length)

    def enumerators(self, type_id: int) -> list[tuple[str, int]]:
        """Names and values of an enum, in order."""
        kind, count, signed, name, _, at = self.types[self.resolve(type_id)]
        if kind is not Kind.ENUM:
            raise ValueError(f"{name} is no enum of up to 32 bits")
        item = struct.Struct("<Ii" if signed else "<II")
        pairs = (item.unpack_from(self.raw, at + 8 * i) for i in range(count))
        return [(self.text(text), value) for text, value in pairs]

    def sections(self, type_id: int) -> list[int]:
        """Ids of the VARs in a DATASEC, in order."""
        _, count, _, _, _, at = self.types[type_id]
        return [_U32.unpack_from(self.raw, at + 12 * i)[0] for i in range(count)]

    def size(self, type_id: int) -> int:
        """Size in bytes; ValueError for functions and incomplete types."""
        kind, _, _, name, ref, _ = self.types[self.resolve(type_id)]
        if kind is Kind.PTR:
            return 8
        if kind is Kind.ARRAY:
            element, length = self.array(type_id)
            return self.size(element) * length
        if kind in (Kind.INT, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.FLOAT, Kind.ENUM64):
            return ref
        raise ValueError(f"{kind.name} {name} has no size")

    def find(self, kind: Kind, name: str) -> int | None:
        """Id of the first type of that kind and name."""
        for i, known in enumerate(self.types):
            if known.kind is kind and known.name == name:
                return i
        return None

    def is_big_endian(self, type_id: int) -> bool:
        """True if the type goes through one of the kernel's __be typedefs."""
        end = self.resolve(type_id)
        while type_id != end:
            if self.types[type_id].name in _BIG_ENDIAN:
                return True
            type_id = self.types[type_id].ref
        return False

    def is_signed(self, type_id: int) -> bool:
        """True for a signed integer type."""
        kind, _, _, _, _, at = self.types[self.resolve(type_id)]
        return kind is Kind.INT and _U32.unpack_from(self.raw, at)[0] >> 24 & 1 == 1

    def layout(self, type_id: int) -> str:
        """Canonical text of a type: names, offsets, sizes, signs and byte order, all resolved."""
        if type_id not in self._layouts:
            self._layouts[type_id] = self._layout(type_id)
        return self._layouts[type_id]

    def _layout(self, type_id: int) -> str:
        kind = self.types[self.resolve(type_id)].kind
        if kind in (Kind.STRUCT, Kind.UNION):
            inside = ",".join(
                f"{m.name}@{m.offset}:{self.layout(m.type)}" for m in self.members(type_id)
            )
            return f"{kind.name.lower()}({self.size(type_id)}){{{inside}}}"
        if kind is Kind.ARRAY:
            element, length = self.array(type_id)
            return f"{self.layout(element)}[{length}]"
        if kind is Kind.ENUM:
            inside = ",".join(f"{name}={value}" for name, value in self.enumerators(type_id))
            return f"enum{{{inside}}}"
        sign = "be" if self.is_big_endian(type_id) else "s" if self.is_signed(type_id) else "u"
        return f"{sign}{self.size(type_id) * 8}"

    def fingerprint(self, type_id: int) -> str:
        """Sixteen hex digits that name a type's layout."""
        return hashlib.sha256(self.layout(type_id).encode()).hexdigest()[:16]

    def patch(self, at: int, value: int) -> None:
        """Overwrites one u32 of the blob; the parsed types keep what they held."""
        _U32.pack_into(self.raw, at, value)
