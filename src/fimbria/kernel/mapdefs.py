"""Map definitions of an object (its `.maps` section), and the maps made or found for them.

A definition is a struct whose members carry numbers as array lengths and types as pointers, the
convention of libbpf's `__uint` and `__type`. A map that is pinned already is taken as it is when
its shape is the one defined; when it is not, that is an error and the pin is left alone, because
what it holds may be what forwards packets right now.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from typing import TYPE_CHECKING

from fimbria.kernel import errors
from fimbria.kernel.btf import Btf, Kind
from fimbria.kernel.errors import IncompatibleMap
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.syscall import OF_MAPS, MapType, btf_raw

if TYPE_CHECKING:
    from pathlib import Path

_NUMBERS = {
    "type": "type",
    "max_entries": "max_entries",
    "key_size": "key_size",
    "value_size": "value_size",
    "map_flags": "flags",
    "pinning": "pinning",
}
# Types whose creation refuses BTF key and value types.
_UNTYPED = OF_MAPS | {MapType.PROG_ARRAY, MapType.RINGBUF}


@dataclass(frozen=True, slots=True)
class MapDef:
    """One definition; sizes in bytes, `btf` the type ids of key and value (0 none), `layouts`
    their canonical texts (Btf.layout).
    """

    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    pinned: bool
    btf: tuple[int, int]
    inner: MapDef | None
    layouts: tuple[str, str] = ("", "")


def map_defs(btf: Btf) -> dict[str, MapDef]:
    """All definitions of an object by name; ValueError for one that cannot be understood."""
    section = btf.find(Kind.DATASEC, ".maps")
    if section is None:
        return {}
    defs: dict[str, MapDef] = {}
    for variable in btf.sections(section):
        name, type_id = btf.types[variable].name, btf.types[variable].ref
        try:
            defs[name] = _definition(btf, name, type_id)
        except ValueError as error:
            raise ValueError(f"map {name}: {error}") from error
    return defs


def _definition(btf: Btf, name: str, type_id: int) -> MapDef:
    numbers = dict.fromkeys(_NUMBERS.values(), 0)
    types = {"key": 0, "value": 0}
    inner: MapDef | None = None
    for member in btf.members(type_id):
        pointed = btf.types[btf.resolve(member.type)].ref
        if member.name in _NUMBERS:
            numbers[_NUMBERS[member.name]] = btf.array(pointed).length
        elif member.name in types:
            types[member.name] = pointed
            numbers[f"{member.name}_size"] = btf.size(pointed)
        elif member.name == "values":
            element = btf.array(member.type).element
            inner = _definition(btf, f"{name}.inner", btf.types[btf.resolve(element)].ref)
            numbers["value_size"] = 4
        else:
            raise ValueError(f"unknown attribute {member.name}")
    if numbers["type"] not in set(MapType):
        raise ValueError(f"map type {numbers['type']} is not supported")
    if numbers["pinning"] > 1:
        raise ValueError(f"pinning {numbers['pinning']} is not supported")
    if (numbers["type"] in OF_MAPS) != (inner is not None):
        raise ValueError("a map of maps, and only that, needs `values`")
    return MapDef(
        name=name,
        type=numbers["type"],
        key_size=numbers["key_size"],
        value_size=numbers["value_size"],
        max_entries=numbers["max_entries"],
        flags=numbers["flags"],
        pinned=numbers["pinning"] == 1,
        btf=(types["key"], types["value"]),
        inner=inner,
        layouts=_layouts(btf, types["key"], types["value"]),
    )


def _layouts(btf: Btf, key: int, value: int) -> tuple[str, str]:
    return (btf.layout(key) if key else "", btf.layout(value) if value else "")


def resized(definition: MapDef, max_entries: int) -> MapDef:
    """The same definition with another bound."""
    return replace(definition, max_entries=max_entries)


def create(definition: MapDef, btf_fd: int) -> BpfMap:
    """Makes the map (and, for a map of maps, a template that is closed again).

    In the kernel, a map that is private to an object has a dot before its name, as global data.
    """
    inner = create(replace(definition.inner, btf=(0, 0)), 0) if definition.inner else None
    typed = definition.type not in _UNTYPED and all(definition.btf)
    try:
        return BpfMap.create(
            MapType(definition.type),
            key_size=definition.key_size,
            value_size=definition.value_size,
            max_entries=definition.max_entries,
            flags=definition.flags,
            name=definition.name if definition.pinned else f".{definition.name}",
            inner=inner,
            btf=(btf_fd, *definition.btf) if typed else (0, 0, 0),
        )
    finally:
        if inner:
            inner.close()


def check(found: BpfMap, definition: MapDef, where: Path | str) -> BpfMap:
    """Returns `found` if programs built for `definition` can use it, else IncompatibleMap.

    Compared are type, sizes and flags, the layouts of key and value where the kernel knows them,
    and for a map of maps the same of an inner map that it holds.
    """
    for field in ("type", "key_size", "value_size", "flags"):
        have, want = getattr(found, field), getattr(definition, field)
        if have != want:
            if field == "type":
                have, want = _type_name(have), _type_name(want)
            raise IncompatibleMap(where, field, have, want)
    if found.btf_id and all(definition.layouts):
        kernel = _kernel_btf(found.btf_id)
        held = _layouts(kernel, *found.btf_types)
        for field, have, want in zip(("key", "value"), held, definition.layouts, strict=True):
            if have and have != want:
                raise IncompatibleMap(where, f"layout of its {field}", *_difference(have, want))
    if definition.inner:
        for key in found.items():
            if (inner := found.get_map(key)) is not None:
                with inner:
                    check(inner, definition.inner, f"inner map of {where}")
                break
    return found


def _difference(have: str, want: str) -> tuple[str, str]:
    """The first members in which two layouts differ."""
    pairs = zip_longest(have.split(","), want.split(","), fillvalue="nothing")
    return next(((one, other) for one, other in pairs if one != other), (have, want))


@cache
def _kernel_btf(btf_id: int) -> Btf:
    """A BTF blob that the kernel holds; ids are not used twice."""
    return Btf(btf_raw(btf_id))


def _type_name(number: int) -> str:
    return MapType(number).name.lower() if number in set(MapType) else str(number)


def find_or_create(definition: MapDef, btf_fd: int, pin: Path | None) -> tuple[BpfMap, bool]:
    """The map pinned at `pin`, or a new one that is pinned there; and whether it is new."""
    if pin is None:
        return create(definition, btf_fd), True
    while True:
        try:
            found = BpfMap.open(pin)
        except errors.BpfError as error:
            if not errors.is_not_found(error):
                raise
        else:
            try:
                return check(found, definition, pin), False
            except IncompatibleMap:
                found.close()
                raise
        made = create(definition, btf_fd)
        try:
            made.pin(pin)
        except errors.BpfError as error:
            made.close()
            if not errors.is_exists(error):  # another process was quicker: take its map
                raise
        else:
            return made, True
