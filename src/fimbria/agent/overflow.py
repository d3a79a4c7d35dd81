"""What does not fit into the kernel's tables: it waits, and nothing else does.

    rows ─► table                    as long as there is room
         └► waiting ─► table         as soon as others have gone

A table that is full keeps what it holds, values of elements it has may still change, and every
other table goes on. The datapath knows nothing of what waits; `fimbria status` names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fimbria.kernel.errors import is_full

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fimbria.kernel.port import Bpf, BpfMap


class Overflow:
    """Rows without a place. `waiting` has them by map and key; maps without any are left out."""

    def __init__(self) -> None:
        self.waiting: dict[str, dict[bytes, bytes]] = {}

    def put(self, name: str, table: BpfMap, rows: Mapping[bytes, bytes]) -> None:
        """Write rows as far as they fit; the rest waits. Raises what else the kernel refuses."""
        self.forget(name, rows)
        try:
            table.put_many(rows)
        except OSError as error:
            if not is_full(error):
                raise
        else:
            return
        for key, value in rows.items():
            if not _placed(table, key, value):
                self.waiting.setdefault(name, {})[key] = value

    def forget(self, name: str, keys: Iterable[bytes]) -> None:
        """Note that these rows need no place any more."""
        waiting = self.waiting.get(name)
        if waiting is None:
            return
        for key in keys:
            waiting.pop(key, None)
        if not waiting:
            del self.waiting[name]

    def retry(self, maps: Bpf) -> bool:
        """Write what fits by now; return whether anything did."""
        placed = False
        for name, waiting in list(self.waiting.items()):
            table = maps.map(name)
            for key, value in list(waiting.items()):
                if not _placed(table, key, value):
                    break
                self.forget(name, [key])
                placed = True
        return placed


def _placed(table: BpfMap, key: bytes, value: bytes) -> bool:
    """Write one row; False if there is no room for it.

    A full trie may refuse a new value for a prefix that it has (before Linux 6.13): such an element
    is removed first.
    """
    for _ in range(2):
        try:
            table.put(key, value)
        except OSError as error:
            if not is_full(error):
                raise
            if not table.delete(key):
                return False
        else:
            return True
    return False
