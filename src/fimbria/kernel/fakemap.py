"""Maps in memory that refuse what the kernel's refuse; part of `kernel.fake`.

What a map holds (`_Held`) lives as long as something refers to it: an open handle, a pin, an
element of a map of maps. Handles (`FakeMap`) are what callers see.
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING, TypeVar

from fimbria.kernel.errors import BpfError
from fimbria.kernel.syscall import OF_MAPS, PER_CPU, MapType, UpdateMode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from fimbria.kernel.mapdefs import MapDef

V = TypeVar("V")
FAKE_CPUS = 2
_ARRAYS = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY, MapType.ARRAY_OF_MAPS})


class Held:
    """What a map is and holds; `inner` holds the maps that elements of a map of maps refer to."""

    def __init__(self, map_id: int, definition: MapDef) -> None:
        self.id = map_id
        self.definition = definition
        self.values: dict[bytes, bytes] = {}
        self.inner: dict[bytes, Held] = {}


class FakeMap:
    """A handle of a map; `step` is told before and after every change."""

    def __init__(self, held: Held, step: Callable[[str], None], done: Callable[[], None]) -> None:
        self.held = held
        self.name = held.definition.name
        self.key_size = held.definition.key_size
        self.value_size = held.definition.value_size
        self.max_entries = held.definition.max_entries
        per_cpu = held.definition.type in PER_CPU
        stride = (self.value_size + 7) // 8 * 8
        self.slot_size = stride * FAKE_CPUS if per_cpu else self.value_size
        self.closed = False
        self._step = step
        self._done = done

    def get(self, key: bytes) -> bytes | None:
        """The value; for an LPM trie that of the longest prefix that matches."""
        self._check_key(key)
        if self._type in _ARRAYS and self._type not in OF_MAPS and self._index(key) >= 0:
            return self.held.values.get(key, bytes(self.slot_size))
        if self._type in OF_MAPS:
            inner = self.held.inner.get(key)
            return struct.pack("=I", inner.id) if inner else None
        if self._type == MapType.LPM_TRIE:
            return self._longest(key)
        return self.held.values.get(key)

    def put(self, key: bytes, value: bytes, mode: UpdateMode = UpdateMode.ANY) -> None:
        """Writes one element, or raises what the kernel would."""
        self._check_key(key)
        if len(value) != self.slot_size:
            raise ValueError(
                f"{self.name}: a value of {len(value)} bytes, expected {self.slot_size}"
            )
        if self._type in OF_MAPS:
            raise BpfError(errno.EBADF, f"map {self.name}: a value that is no open map")
        self._step(f"put {self.name} {key.hex()}")
        self._store(self.held.values, self._place(key), value, mode)
        self._done()

    def delete(self, key: bytes) -> bool:
        """Removes one element; False if there was none. Elements of arrays cannot be removed."""
        self._check_key(key)
        if self._type in _ARRAYS and self._type not in OF_MAPS:
            raise BpfError(errno.EINVAL, f"map {self.name}: delete from an array")
        self._step(f"delete {self.name} {key.hex()}")
        elements = self.held.inner if self._type in OF_MAPS else self.held.values
        found = elements.pop(self._place(key), None) is not None
        self._done()
        return found

    def items(self) -> dict[bytes, bytes]:
        """All elements; an array has all of its indices, a map of maps only those that refer."""
        if self._type in OF_MAPS:
            return {key: struct.pack("=I", inner.id) for key, inner in self.held.inner.items()}
        if self._type in _ARRAYS:
            keys = (struct.pack("=I", index) for index in range(self.max_entries))
            return {key: self.held.values.get(key, bytes(self.slot_size)) for key in keys}
        return dict(self.held.values)

    def put_many(self, pairs: Mapping[bytes, bytes]) -> None:
        """Writes many elements; if it raises, a prefix has been written."""
        for key, value in pairs.items():
            self.put(key, value)

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Removes many elements; how many there were."""
        return sum(self.delete(key) for key in keys)

    def put_maps(self, inner: Mapping[bytes, FakeMap]) -> None:
        """Lets elements refer to maps, which must be open and of the template's shape."""
        if self._type not in OF_MAPS or self.held.definition.inner is None:
            raise BpfError(errno.EINVAL, f"map {self.name} is no map of maps")
        template = self.held.definition.inner
        for key, child in inner.items():
            self._check_key(key)
            if child.closed:
                raise BpfError(errno.EBADF, f"map {self.name}: {child.name} is closed")
            shape = child.held.definition
            if any(
                getattr(shape, field) != getattr(template, field)
                for field in ("type", "key_size", "value_size", "flags")
            ):
                raise BpfError(errno.EINVAL, f"map {self.name}: {child.name} has another shape")
            self._step(f"put {self.name} {key.hex()} -> map")
            self._store(self.held.inner, self._place(key), child.held, UpdateMode.ANY)
            self._done()

    def get_map(self, key: bytes) -> FakeMap | None:
        """Opens the map that an element refers to."""
        self._check_key(key)
        held = self.held.inner.get(key)
        return FakeMap(held, self._step, self._done) if held else None

    def close(self) -> None:
        """Closes the handle."""
        self.closed = True

    @property
    def _type(self) -> int:
        return self.held.definition.type

    def _check_key(self, key: bytes) -> None:
        if self.closed:
            raise BpfError(errno.EBADF, f"map {self.name} is closed")
        if len(key) != self.key_size:
            raise ValueError(f"{self.name}: a key of {len(key)} bytes, expected {self.key_size}")

    def _index(self, key: bytes) -> int:
        """The index that a key of an array means; -1 if it is beyond the end."""
        index = struct.unpack("=I", key)[0]
        return index if index < self.max_entries else -1

    def _place(self, key: bytes) -> bytes:
        """The key under which an element is, or would be, stored."""
        if self._type in _ARRAYS and self._index(key) < 0:
            raise BpfError(errno.E2BIG, f"map {self.name}: index beyond {self.max_entries}")
        if self._type == MapType.LPM_TRIE:
            length = self._prefix(key)
            for known in self.held.values:
                if self._prefix(known) == length and _covers(known, key, length):
                    return known
        return key

    def _prefix(self, key: bytes) -> int:
        length = struct.unpack_from("=I", key)[0]
        if length > (self.key_size - 4) * 8:
            raise BpfError(errno.EINVAL, f"map {self.name}: prefix length {length}")
        return length

    def _longest(self, key: bytes) -> bytes | None:
        matches = [
            (self._prefix(known), value)
            for known, value in self.held.values.items()
            if self._prefix(known) <= self._prefix(key) and _covers(known, key, self._prefix(known))
        ]
        return max(matches)[1] if matches else None

    def _store(self, into: dict[bytes, V], key: bytes, value: V, mode: UpdateMode) -> None:
        always = self._type in _ARRAYS
        if mode == UpdateMode.NOEXIST and (always or key in into):
            raise BpfError(errno.EEXIST, f"map {self.name}: element exists")
        if mode == UpdateMode.EXIST and not always and key not in into:
            raise BpfError(errno.ENOENT, f"map {self.name}: no such element")
        if not always and key not in into and len(into) >= self.max_entries:
            if self._type != MapType.LRU_HASH:
                full = errno.ENOSPC if self._type == MapType.LPM_TRIE else errno.E2BIG
                raise BpfError(full, f"map {self.name}: {self.max_entries} entries, full")
            into.pop(next(iter(into)))
        into[key] = value


def _covers(prefix: bytes, key: bytes, length: int) -> bool:
    """Whether the first `length` bits behind the prefix length are the same."""
    whole, rest = divmod(length, 8)
    if prefix[4 : 4 + whole] != key[4 : 4 + whole]:
        return False
    if not rest:
        return True
    mask = 0xFF << (8 - rest) & 0xFF
    return (prefix[4 + whole] ^ key[4 + whole]) & mask == 0
