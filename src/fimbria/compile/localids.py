"""Numbers that mean something on this node only: of prefixes, and of nodes by their labels.

A number comes from a hash of its key, so an agent that starts again finds the same one. Where two
keys want one number, the smaller key has it and the other the next free one; so the numbers are a
function of the keys alone, in whatever order they came and went.
"""

from __future__ import annotations

import hashlib

SIZE = 0xFFFFFF
"""A scope's numbers are scope + 1 to scope + SIZE."""


class LocalIds:
    """Key <-> number in one scope (the top byte, `abi.IdentityScope`). `size`: how many it has."""

    def __init__(self, scope: int, size: int = SIZE) -> None:
        self._scope = scope
        self._size = size
        self._numbers: dict[bytes, int] = {}
        self._keys: dict[int, bytes] = {}

    def get(self, key: bytes) -> int | None:
        """Return a key's number."""
        return self._numbers.get(key)

    def key(self, number: int) -> bytes | None:
        """Return a number's key."""
        return self._keys.get(number)

    def items(self) -> list[tuple[bytes, int]]:
        """Return all keys with their numbers."""
        return list(self._numbers.items())

    def add(self, key: bytes) -> dict[bytes, int | None]:
        """Give a new key its number.

        Returns whose number has changed, and from what: the key's from None, and those of keys that
        had to move on.
        """
        changed: dict[bytes, int | None] = {}
        number = self._scope + 1 + _hash(key) % self._size
        placing: bytes | None = key
        while placing is not None:
            held = self._keys.get(number)
            if held is None or placing < held:
                changed[placing] = self._numbers.get(placing)
                self._numbers[placing], self._keys[number] = number, placing
                placing = held
            number = self._next(number)
        return changed

    def remove(self, key: bytes) -> dict[bytes, int | None]:
        """Take a key's number back. Returns whose number has changed, as `add` does."""
        number = self._numbers.pop(key)
        del self._keys[number]
        behind: dict[bytes, int] = {}
        following = self._next(number)
        while (other := self._keys.pop(following, None)) is not None:
            behind[other] = self._numbers.pop(other)
            following = self._next(following)
        for other in behind:
            self.add(other)
        moved = {k: old for k, old in behind.items() if self._numbers[k] != old}
        return {key: number, **moved}

    def _next(self, number: int) -> int:
        return number + 1 if number < self._scope + self._size else self._scope + 1


def _hash(key: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big")
