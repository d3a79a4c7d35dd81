"""A kernel in memory: maps, devices, routes and time for tests and for dry runs.

Strict on purpose: it refuses what the kernel refuses (wrong sizes, unknown maps, full maps, dead
references, devices that are not there), so that a test that passes here means something. It can
die at any operation, as a process does under `kill -9`: `fail_at`. What it holds can be compared
as text: `dump`.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from fimbria.kernel.errors import BpfError
from fimbria.kernel.fakemap import FakeMap, Held
from fimbria.kernel.fakenet import FakeNet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.kernel.mapdefs import MapDef


class Crash(BaseException):
    """The process died here. Not an Exception: nothing may handle it and go on."""


class FakeClock:
    """A clock that moves when told; starts at zero, ticks 250 times a second."""

    def __init__(self) -> None:
        self._now = 0.0

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._now += seconds

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return self._now

    def wall(self) -> float:
        """The same, since 2000-01-01."""
        return 946684800.0 + self._now

    def jiffies(self) -> int:
        """Ticks; the low 32 bits wrap after five minutes, as the kernel's do."""
        return 0x100000000 - 300 * self.hz + int(self._now * self.hz)

    @property
    def hz(self) -> int:
        """Ticks per second."""
        return 250


class FakeBpf:
    """The pinned maps of a node, in memory."""

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel = kernel
        self._pins: dict[str, Held] = {}
        self._next = 1

    def pin(self, definition: MapDef) -> FakeMap:
        """Makes a map and pins it under its name, as loading the datapath does."""
        if definition.name in self._pins:
            raise BpfError(errno.EEXIST, f"pin {definition.name}")
        self._pins[definition.name] = self._new(definition)
        return self.map(definition.name)

    def map(self, name: str) -> FakeMap:
        """A handle of a pinned map; BpfError (is_not_found) if there is none."""
        if name not in self._pins:
            raise BpfError(errno.ENOENT, f"open {name}")
        return self._handle(self._pins[name])

    def new_inner(self, outer: str, max_entries: int) -> FakeMap:
        """An empty map for elements of `outer`."""
        inner = self.map(outer).held.definition.inner
        if inner is None:
            raise ValueError(f"{outer} is no map of maps")
        if max_entries < 1:
            raise BpfError(errno.EINVAL, f"create map for {outer}: max_entries {max_entries}")
        return self._handle(self._new(replace(inner, max_entries=max_entries)))

    def dump(self) -> list[str]:
        """Canonical lines: maps by name, elements by key, arrays without their zeros."""
        lines: list[str] = []
        for name in sorted(self._pins):
            held = self._pins[name]
            lines += [
                f"{name} {k.hex()} = {v.hex()}" for k, v in sorted(held.values.items()) if any(v)
            ]
            for key, inner in sorted(held.inner.items()):
                lines.append(f"{name} {key.hex()} -> {len(inner.values)} entries")
                lines += [f"  {k.hex()} = {v.hex()}" for k, v in sorted(inner.values.items())]
        return lines

    def _new(self, definition: MapDef) -> Held:
        self._next += 1
        return Held(self._next - 1, definition)

    def _handle(self, held: Held) -> FakeMap:
        return FakeMap(held, self._kernel.step, self._kernel.done)


class FakeKernel:
    """Everything together. State outlives a Crash, like the kernel's outlives a process."""

    def __init__(self, maps: Iterable[MapDef] = ()) -> None:
        """`maps`: definitions to pin, such as `store.definitions(objects_dir()).values()`."""
        self.bpf = FakeBpf(self)
        self.net = FakeNet(self.step, self.done)
        self.clock = FakeClock()
        self.operations: list[str] = []
        self._fail: tuple[int, str] | None = None
        for definition in maps:
            self.bpf.pin(definition)

    def fail_at(self, n: int, when: Literal["before", "after"] = "before") -> None:
        """Raises Crash at the n-th change from now (1 is the next), before or after it is made."""
        self._fail = (len(self.operations) + n, when)

    def heal(self) -> None:
        """No crash any more."""
        self._fail = None

    def step(self, what: str) -> None:
        """A change is about to be made."""
        self.operations.append(what)
        self._crash("before")

    def done(self) -> None:
        """The change was made."""
        self._crash("after")

    def dump(self) -> str:
        """All of it as canonical text; equal states give equal text."""
        return "\n".join([*self.bpf.dump(), *self.net.dump(), ""])

    def _crash(self, when: str) -> None:
        if self._fail == (len(self.operations), when):
            self._fail = None
            raise Crash(f"{when} operation {len(self.operations)}: {self.operations[-1]}")
