"""The content of one policy map in use, with what makes it cheap to patch.

A map has many thousands of entries and a patch concerns a few. So the sum by which equal contents
find each other, the keys of each identity and the shapes of keys are kept up instead of being
worked out from all entries again; the latter two from the first patch on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fimbria.compile.ids import Changes, PolicyMap

Entries = dict[bytes, bytes]
"""Keys and values of an inner policy map."""

HEAD, SHAPE = slice(0, 4), 7
"""Where identity and shape stand in struct policy_key."""


class Content:
    """A policy, and its `mark`: a number that equal contents have in common.

    Hashes of bytes are seeded anew in each process, so nobody can choose contents that collide.
    """

    def __init__(self, policy: PolicyMap) -> None:
        self._entries = dict(policy.entries)
        self.policy = replace(policy, entries=self._entries)
        self.mark = hash(policy.info) + sum(map(hash, policy.entries.items()))
        self._keys: dict[bytes, tuple[bytes, ...]] | None = None
        self._shapes: Counter[int] = Counter()
        """Of the keys that name an identity, as only these are patched."""

    def bucket(self, identity: int) -> Entries:
        """Return the entries of one identity."""
        keys = self._index().get(identity.to_bytes(4, "little"), ())
        return {key: self._entries[key] for key in keys}

    def fits(self, changes: Changes) -> bool:
        """Return whether struct policy_info and the room stay as they are with these changes.

        What comes needs room beside what goes, because it is added first.
        """
        self._index()
        coming = [key for key, value in changes.items() if value is not None]
        going = Counter(key[SHAPE] for key, value in changes.items() if value is None)
        return (
            len(self._entries) + len(coming) <= self.policy.room
            and all(key[SHAPE] in self._shapes for key in coming)
            and all(self._shapes[shape] > count for shape, count in going.items())
        )

    def mark_with(self, changes: Changes) -> int:
        """Return the mark of what these changes make of the content."""
        entries = self._entries
        return self.mark + sum(
            hash((key, value)) if value is not None else -hash((key, entries[key]))
            for key, value in changes.items()
        )

    def patch(self, changes: Changes) -> None:
        """Change it: whole buckets, into where none was or of identities that are gone."""
        keys = self._index()
        coming: dict[bytes, list[bytes]] = {}
        self.mark = self.mark_with(changes)
        for key, value in changes.items():
            if value is None:
                del self._entries[key]
                self._shapes[key[SHAPE]] -= 1
                keys.pop(key[HEAD], None)
            else:
                self._entries[key] = value
                self._shapes[key[SHAPE]] += 1
                coming.setdefault(key[HEAD], []).append(key)
        keys.update((head, tuple(found)) for head, found in coming.items())

    def _index(self) -> dict[bytes, tuple[bytes, ...]]:
        if self._keys is None:
            found: dict[bytes, list[bytes]] = {}
            for key in self._entries:
                found.setdefault(key[HEAD], []).append(key)
            found.pop(bytes(4), None)
            self._keys = {head: tuple(keys) for head, keys in found.items()}
            self._shapes.update(key[SHAPE] for keys in found.values() for key in keys)
        return self._keys
