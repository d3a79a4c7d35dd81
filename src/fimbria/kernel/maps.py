"""BPF maps as objects: exact bytes in, exact bytes out.

A `BpfMap` owns one file descriptor. It checks the length of every key and value before the kernel
reads them, uses the batch commands where the map type has them, and says in its errors which map
was meant. Encoding keys and values is datapath/abi.py's business.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Self

from fimbria.kernel import errors
from fimbria.kernel.errors import BpfError
from fimbria.kernel.syscall import (
    PER_CPU,
    Cmd,
    MapType,
    UpdateMode,
    address,
    bpf,
    info,
    open_pin,
    pin,
    possible_cpus,
    readable,
    writable,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

_ELEM = struct.Struct("=IxxxxQQQ")
_BATCH = struct.Struct("=QQQQIIQQ")
_INFO = struct.Struct("=IIIIII16sIIQQIIIIQ")
_CREATE = struct.Struct("=IIIIIII16sIIIIII")
_BATCH_SIZE = 8192
_BATCH_COUNT_AT = 32


class BpfMap:
    """One map. Sizes in bytes; `value_size` is one CPU's value for per-CPU types."""

    def __init__(self, fd: int) -> None:
        """Takes over `fd` and asks the kernel what it is; closes it if that fails."""
        try:
            fields = _INFO.unpack(info(fd, _INFO.size))
        except BpfError:
            os.close(fd)
            raise
        self.fd = fd
        self.id: int = fields[1]
        self.type: int = fields[0]
        self.key_size: int = fields[2]
        self.value_size: int = fields[3]
        self.max_entries: int = fields[4]
        self.flags: int = fields[5]
        self.name: str = fields[6].split(b"\0")[0].decode()
        self.btf_id: int = fields[11]
        self.btf_types: tuple[int, int] = fields[12], fields[13]  # of key and value
        self.per_cpu = self.type in PER_CPU
        self._stride = (self.value_size + 7) // 8 * 8 if self.per_cpu else self.value_size
        self._cpus = possible_cpus() if self.per_cpu else 1
        self.slot_size = self._stride * self._cpus  # bytes of a value as bpf(2) moves it

    @classmethod
    def create(
        cls,
        type: MapType,
        *,
        key_size: int,
        value_size: int,
        max_entries: int,
        flags: int = 0,
        name: str = "",
        inner: BpfMap | None = None,
        btf: tuple[int, int, int] = (0, 0, 0),
    ) -> Self:
        """A new map. `inner` is the template of a map of maps; `btf` is fd, key and value type."""
        short = name.encode()[:15]
        inner_fd = inner.fd if inner else 0
        create = _CREATE.pack(
            *(type, key_size, value_size, max_entries, flags, inner_fd, 0, short, 0, *btf, 0, 0)
        )
        return cls(bpf(Cmd.MAP_CREATE, bytearray(create), f"create map {name}"))

    @classmethod
    def open(cls, path: Path) -> Self:
        """A pinned map; BpfError (is_not_found) if there is no such pin."""
        return cls(open_pin(path))

    @classmethod
    def by_id(cls, map_id: int) -> Self:
        """The map of that kernel id, such as a map of maps returns."""
        attr = bytearray(struct.pack("=III", map_id, 0, 0))
        return cls(bpf(Cmd.MAP_GET_FD_BY_ID, attr, f"open map id {map_id}"))

    def _checked_key(self, key: bytes) -> bytes:
        if len(key) != self.key_size:
            raise ValueError(f"{self.name}: a key of {len(key)} bytes, expected {self.key_size}")
        return key

    def _elem(self, cmd: Cmd, key: bytes, value: int, mode: int) -> int:
        buffer = readable(self._checked_key(key))
        attr = bytearray(_ELEM.pack(self.fd, address(buffer), value, mode))
        return bpf(cmd, attr, f"map {self.name}: {cmd.name.lower()}")

    def _checked(self, value: bytes) -> bytes:
        if len(value) != self.slot_size:
            raise ValueError(
                f"{self.name}: a value of {len(value)} bytes, expected {self.slot_size}"
            )
        return value

    def get(self, key: bytes) -> bytes | None:
        """The value (all CPUs' slots for a per-CPU map, an id for a map of maps), or None."""
        value = writable(self.slot_size)
        try:
            self._elem(Cmd.MAP_LOOKUP_ELEM, key, address(value), 0)
        except BpfError as error:
            if errors.is_not_found(error):
                return None
            raise
        return value.raw[: self.slot_size]

    def get_percpu(self, key: bytes) -> list[bytes] | None:
        """One value per possible CPU, or None."""
        raw = self.get(key)
        if raw is None:
            return None
        return [raw[i : i + self.value_size] for i in range(0, self.slot_size, self._stride)]

    def put(self, key: bytes, value: bytes, mode: UpdateMode = UpdateMode.ANY) -> None:
        """Writes one element; BpfError (is_full, is_exists, is_not_found) if it cannot."""
        buffer = readable(self._checked(value))
        self._elem(Cmd.MAP_UPDATE_ELEM, key, address(buffer), mode)

    def put_maps(self, inner: Mapping[bytes, Self]) -> None:
        """Lets elements of a map of maps refer to maps.

        The kernel waits until no program uses what was replaced, about 8 ms, but once per call
        and not per element: set together what changes together.
        """
        self.put_many({key: struct.pack("=I", held.fd) for key, held in inner.items()})

    def get_map(self, key: bytes) -> Self | None:
        """Opens the inner map that an element of a map of maps refers to."""
        raw = self.get(key)
        return None if raw is None else type(self).by_id(struct.unpack("=I", raw)[0])

    def delete(self, key: bytes) -> bool:
        """Removes one element; False if there was none."""
        try:
            self._elem(Cmd.MAP_DELETE_ELEM, key, 0, 0)
        except BpfError as error:
            if errors.is_not_found(error):
                return False
            raise
        return True

    def keys(self) -> Iterator[bytes]:
        """Keys one system call at a time; an element that goes meanwhile may restart the walk."""
        following = writable(self.key_size)
        current = 0
        while True:
            attr = bytearray(_ELEM.pack(self.fd, current, address(following), 0))
            try:
                bpf(Cmd.MAP_GET_NEXT_KEY, attr, f"map {self.name}: next key")
            except BpfError as error:
                if errors.is_not_found(error):
                    return
                raise
            key = following.raw[: self.key_size]
            yield key
            held = readable(key)
            current = address(held)

    def items(self) -> dict[bytes, bytes]:
        """All elements. Of a map that changes meanwhile, each element that stays is included."""
        keys, values, count = self.dump()
        k, v = self.key_size, self.slot_size
        return {keys[i * k : i * k + k]: values[i * v : i * v + v] for i in range(count)}

    def count(self) -> int:
        """Elements present, counted by a walk; for arrays this is max_entries."""
        return len(self.items())

    def dump(self) -> tuple[bytes, bytes, int]:
        """All keys back to back, all values back to back, and their number: np.frombuffer's food.

        A key may occur twice if the map changes meanwhile.
        """
        try:
            return self._dump_batch()
        except BpfError as error:
            if not errors.is_unsupported(error):
                raise
        pairs = [(key, value) for key in self.keys() if (value := self.get(key)) is not None]
        return b"".join(k for k, _ in pairs), b"".join(v for _, v in pairs), len(pairs)

    def _dump_batch(self) -> tuple[bytes, bytes, int]:
        size = max(1, min(_BATCH_SIZE, self.max_entries))
        token = writable(max(self.key_size, 8))
        keys, values, total = bytearray(), bytearray(), 0
        key_buffer, value_buffer = writable(size * self.key_size), writable(size * self.slot_size)
        started = 0
        while True:
            attr = bytearray(
                _BATCH.pack(
                    *(started, address(token), address(key_buffer), address(value_buffer)),
                    *(size, self.fd, 0, 0),
                )
            )
            done = False
            try:
                bpf(Cmd.MAP_LOOKUP_BATCH, attr, f"map {self.name}: dump")
            except BpfError as error:
                if error.errno == errno.ENOSPC:  # a hash bucket holds more than a batch
                    size *= 2
                    key_buffer = writable(size * self.key_size)
                    value_buffer = writable(size * self.slot_size)
                    continue
                if not errors.is_not_found(error):
                    raise
                done = True
            (count,) = struct.unpack_from("=I", attr, _BATCH_COUNT_AT)
            keys += memoryview(key_buffer)[: count * self.key_size].cast("B")
            values += memoryview(value_buffer)[: count * self.slot_size].cast("B")
            total += count
            if done:
                return bytes(keys), bytes(values), total
            started = address(token)

    def put_many(self, pairs: Mapping[bytes, bytes]) -> None:
        """Writes many elements in the mapping's order; if it raises, a prefix has been written."""
        keys = list(pairs)
        for chunk in (keys[i : i + _BATCH_SIZE] for i in range(0, len(keys), _BATCH_SIZE)):
            rows = [pairs[key] for key in chunk]
            # Whole chunks at once: policy maps have many thousands of elements.
            if {*map(len, chunk)} - {self.key_size} or {*map(len, rows)} - {self.slot_size}:
                for key, value in zip(chunk, rows, strict=True):
                    self._checked_key(key)
                    self._checked(value)
            values = b"".join(rows)
            try:
                self._batch(Cmd.MAP_UPDATE_BATCH, chunk, values)
            except BpfError as error:
                if not errors.is_unsupported(error):
                    raise
                for key in chunk:
                    self.put(key, pairs[key])

    def delete_many(self, keys: Iterable[bytes]) -> int:
        """Removes many elements and returns how many there were; missing ones do not matter."""
        left = [self._checked_key(key) for key in keys]
        removed = 0
        while left:
            chunk = left[:_BATCH_SIZE]
            try:
                done = self._batch(Cmd.MAP_DELETE_BATCH, chunk, b"")
            except BpfError as error:
                if not errors.is_unsupported(error):
                    raise
                return removed + sum(self.delete(key) for key in left)
            removed += done
            # a batch stops at a key that is missing: skip it and go on
            left = left[done + (done < len(chunk)) :]
        return removed

    def _batch(self, cmd: Cmd, keys: Sequence[bytes], values: bytes) -> int:
        """One batch command; number of elements done, fewer than asked if one is missing."""
        key_buffer, value_buffer = readable(b"".join(keys)), readable(values)
        attr = bytearray(
            _BATCH.pack(
                *(0, 0, address(key_buffer), address(value_buffer) if values else 0),
                *(len(keys), self.fd, 0, 0),
            )
        )
        try:
            bpf(cmd, attr, f"map {self.name}: {cmd.name.lower()}")
        except BpfError as error:
            if not errors.is_not_found(error):
                raise
        return struct.unpack_from("=I", attr, _BATCH_COUNT_AT)[0]

    def pin(self, path: Path) -> None:
        """Pins the map in a bpffs; BpfError (is_exists) if the name is taken."""
        pin(self.fd, path)

    def freeze(self) -> None:
        """Makes the map read-only for user space, for good."""
        bpf(Cmd.MAP_FREEZE, bytearray(struct.pack("=I", self.fd)), f"freeze {self.name}")

    def close(self) -> None:
        """Closes the descriptor; the map lives on while something else refers to it."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
