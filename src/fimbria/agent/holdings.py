"""Descriptors of everything that is pinned, so that the pins can be lost without what they pin.

When a BPF file system is unmounted, what only its pins kept goes with it: links, and with them the
programs on the devices. Whoever holds a descriptor as well keeps them, and can pin them again.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fimbria.kernel import bpf
from fimbria.kernel.errors import is_exists, is_not_found

if TYPE_CHECKING:
    from pathlib import Path

    from fimbria.agent.programs import Pins


class Holdings:
    """Not for two threads at once."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._held: dict[Path, int] = {}

    def renew(self) -> None:
        """Hold what is pinned now, and nothing else; BpfError."""
        self.close()
        self.refresh()

    def refresh(self) -> None:
        """Hold pins that are new, let go those that are no more."""
        folders = (self._pins.maps, self._pins.programs, self._pins.links)
        present = {entry for folder in folders for entry in folder.iterdir()}
        for path in self._held.keys() - present:
            os.close(self._held.pop(path))
        for path in present - self._held.keys():
            try:
                self._held[path] = bpf.open_pin(path)
            except bpf.BpfError as error:
                if not is_not_found(error):  # unpinned since we looked
                    raise

    def restore(self) -> int:
        """Pin again what is held and not pinned; return how much that was."""
        self._pins.make()
        count = 0
        for path, fd in self._held.items():
            try:
                bpf.pin(fd, path)
                count += 1
            except bpf.BpfError as error:
                if not is_exists(error):
                    raise
        return count

    def close(self) -> None:
        """Let go everything."""
        while self._held:
            os.close(self._held.popitem()[1])
