"""The maps of a node as `port.Bpf`: opened by pin, kept open, and inner maps of the right shape.

The kernel does not tell what inner maps a map of maps takes, so that comes from the definitions
in the object files, the same that the programs were built with.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from fimbria.kernel.errors import ObjectError
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.objectfile import ObjectFile
from fimbria.kernel.syscall import MapType

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fimbria.kernel.mapdefs import MapDef


def definitions(objects: Path) -> dict[str, MapDef]:
    """Map definitions of all objects (*.o) in a folder, by name. Raises ObjectError."""
    found: dict[str, MapDef] = {}
    for path in sorted(objects.glob("*.o")):
        found |= ObjectFile(path, {}).definitions
    if not found:
        what = "a folder without *.o" if objects.is_dir() else "there is no such folder"
        raise ObjectError(
            objects,
            f"the compiled datapath was looked for here: {what}; run `make build` in the source "
            "tree, or name the folder that has it in FIMBRIA_BPF_DIR",
        )
    return found


class PinnedMaps:
    """Maps pinned in one folder; open descriptors are kept until `close`."""

    def __init__(self, pins: Path, defined: Mapping[str, MapDef]) -> None:
        self.pins = pins
        self._defined = defined
        self._open: dict[str, BpfMap] = {}

    def map(self, name: str) -> BpfMap:
        """The map of that name; BpfError (is_not_found) if it is not pinned."""
        if name not in self._open:
            self._open[name] = BpfMap.open(self.pins / name)
        return self._open[name]

    def new_inner(self, outer: str, max_entries: int) -> BpfMap:
        """An empty map for elements of `outer`; the caller closes it."""
        definition = self._defined.get(outer)
        inner = definition.inner if definition else None
        if inner is None:
            raise ValueError(f"{outer} is no map of maps")
        return BpfMap.create(
            MapType(inner.type),
            key_size=inner.key_size,
            value_size=inner.value_size,
            max_entries=max_entries,
            flags=inner.flags,
            name=outer.removeprefix("cilium_") + "_in",
        )

    def close(self) -> None:
        """Closes all descriptors; the pins stay."""
        while self._open:
            self._open.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
