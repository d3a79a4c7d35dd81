"""Which identities label selectors select, kept up to date as identities come and go.

Policies name far fewer selectors than they have rules, and identities change one at a time: a
change asks only the selectors that it can concern. A selector that demands one of some values of a
key waits under these labels, all others are asked always; a new selector is tried on the identities
that have such a label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from fimbria.model.identity import RESERVED
from fimbria.model.labels import LabelSet
from fimbria.model.selector import Operator

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Set

    from fimbria.model.labels import Labels
    from fimbria.model.selector import Requirement, Selector

Place = tuple[str, str]
"""A key and one of its values."""


class LabelIndex:
    """Selectors in use, and the identity numbers that each selects.

    Reserved identities are always there, with their own labels unless others are given.
    """

    def __init__(self) -> None:
        self._labels: dict[int, LabelSet] = {}
        self._holders: dict[Place, set[int]] = {}
        self._selected: dict[Selector, set[int]] = {}
        self._waiting: dict[Place, set[Selector]] = {}
        self._always: set[Selector] = set()
        for number, labels in RESERVED.items():
            self._hold(int(number), LabelSet(labels))

    def add(self, selector: Selector) -> None:
        """Take in a selector that is not there yet."""
        wanted = places(selector)
        candidates: Iterable[int] = self._labels
        if wanted is not None:
            candidates = {n for place in wanted for n in self._holders.get(place, ())}
        self._selected[selector] = {n for n in candidates if selector.matches(self._labels[n])}
        for place in wanted or ():
            self._waiting.setdefault(place, set()).add(selector)
        if wanted is None:
            self._always.add(selector)

    def discard(self, selector: Selector) -> None:
        """Take out a selector that is there."""
        del self._selected[selector]
        self._always.discard(selector)
        for place in places(selector) or ():
            _discard(self._waiting, place, selector)

    def identities(self, selector: Selector) -> Set[int]:
        """Return the live set of a selector that is there."""
        return self._selected[selector]

    def labels(self, number: int) -> LabelSet | None:
        """Return an identity's labels, None if it is not known."""
        return self._labels.get(number)

    def put(self, number: int, labels: Labels) -> set[Selector]:
        """Take up an identity or its new labels; return the selectors whose set has changed."""
        before = self._concerned(self._labels.get(number))
        self._release(number)
        new = LabelSet(labels)
        self._hold(number, new)
        changed: set[Selector] = set()
        for selector in before | self._concerned(new):
            selected = self._selected[selector]
            if selector.matches(new) != (number in selected):
                (selected.discard if number in selected else selected.add)(number)
                changed.add(selector)
        return changed

    def remove(self, number: int) -> set[Selector]:
        """Forget an identity; a reserved one gets its own labels again. Returns as `put` does."""
        if number in RESERVED:
            return self.put(number, RESERVED[number])
        concerned = self._concerned(self._labels.get(number))
        self._release(number)
        changed = {selector for selector in concerned if number in self._selected[selector]}
        for selector in changed:
            self._selected[selector].discard(number)
        return changed

    def _concerned(self, labels: LabelSet | None) -> set[Selector]:
        if labels is None:
            return set()
        found = set(self._always)
        for place in held(labels):
            found |= self._waiting.get(place, set())
        return found

    def _hold(self, number: int, labels: LabelSet) -> None:
        self._labels[number] = labels
        for place in held(labels):
            self._holders.setdefault(place, set()).add(number)

    def _release(self, number: int) -> None:
        labels = self._labels.pop(number, None)
        for place in held(labels) if labels is not None else ():
            _discard(self._holders, place, number)


def places(selector: Selector) -> tuple[Place, ...] | None:
    """Return the labels of which every selected identity has one; None if there are none such."""

    def one_of(row: Requirement) -> tuple[Place, ...]:
        return tuple((row.key, value) for value in row.values)

    demands = [one_of(row) for row in selector.requirements if row.operator is Operator.IN]
    # Every pod has its cluster's and its namespace's label, few have those that a user chose.
    own = [found for found in demands if "io." not in found[0][0]]
    return min(own or demands, key=len) if demands else None


def held(labels: LabelSet) -> Iterator[Place]:
    """Yield every key with every value that labels have."""
    for key, values in labels.values.items():
        for value in values:
            yield key, value


K = TypeVar("K")
V = TypeVar("V")


def _discard(index: dict[K, set[V]], key: K, item: V) -> None:
    """Remove an item from an index, and its set with the last one."""
    found = index.get(key)
    if found is not None:
        found.discard(item)
        if not found:
            del index[key]
