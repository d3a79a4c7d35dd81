"""Tables: plain dictionaries of frozen rows that remember which keys changed.

One event loop owns them. A change is a call without `await`; whoever computes from a table takes
its dirty keys and looks only at those. A row is replaced, never changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

K = TypeVar("K")
V = TypeVar("V")


class Table(Generic[K, V]):
    """Rows by key. `revision` counts changes."""

    def __init__(self, rows: Mapping[K, V] | None = None) -> None:
        self._rows: dict[K, V] = dict(rows or {})
        self._dirty: set[K] = set(self._rows)
        self.revision = len(self._dirty)

    def put(self, key: K, row: V) -> bool:
        """Set a row; False if it was there already, equal."""
        if self._rows.get(key) == row:
            return False
        self._rows[key] = row
        self._touch(key)
        return True

    def delete(self, key: K) -> bool:
        """Remove a row; False if there was none."""
        if key not in self._rows:
            return False
        del self._rows[key]
        self._touch(key)
        return True

    def replace(self, rows: Mapping[K, V]) -> None:
        """Make the table hold exactly `rows`; what is equal stays clean."""
        for key in [key for key in self._rows if key not in rows]:
            self.delete(key)
        for key, row in rows.items():
            self.put(key, row)

    def take_dirty(self) -> set[K]:
        """Return the keys that changed since the last call."""
        taken, self._dirty = self._dirty, set()
        return taken

    def touch_all(self) -> None:
        """Call every row changed, for whoever starts to compute from the table."""
        self._dirty.update(self._rows)

    def get(self, key: K) -> V | None:
        """Return a row or None."""
        return self._rows.get(key)

    def items(self) -> Iterator[tuple[K, V]]:
        """Iterate over keys and rows."""
        return iter(self._rows.items())

    def values(self) -> Iterator[V]:
        """Iterate over rows."""
        return iter(self._rows.values())

    def __getitem__(self, key: K) -> V:
        return self._rows[key]

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __iter__(self) -> Iterator[K]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def _touch(self, key: K) -> None:
        self._dirty.add(key)
        self.revision += 1
