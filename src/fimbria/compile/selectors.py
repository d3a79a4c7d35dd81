"""Which identities a selector selects, kept up to date as identities come and go.

Policies name far fewer selectors than they have rules, and identities change one at a time: a
change asks each selector once about one identity instead of everything about everyone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from fimbria.model.identity import RESERVED
from fimbria.model.selector import LabelIndex

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Set

    from fimbria.model.labels import Labels
    from fimbria.model.selector import Selector

User = TypeVar("User")


class SelectorCache(Generic[User]):
    """Selectors with their users, and the identity numbers that each selects.

    Reserved identities are always there, with their own labels unless others are given."""

    def __init__(self, identities: Mapping[int, Labels]) -> None:
        self._labels: dict[int, LabelIndex] = {}
        self._selected: dict[Selector, set[int]] = {}
        self._users: dict[Selector, set[User]] = {}
        for number, labels in {**RESERVED, **identities}.items():
            self._labels[int(number)] = LabelIndex(labels)

    def use(self, selector: Selector, user: User) -> Set[int]:
        """Note a user, and return the live set of identities that the selector selects."""
        users = self._users.get(selector)
        if users is None:
            self._users[selector] = {user}
            self._selected[selector] = {
                number for number, labels in self._labels.items() if selector.matches(labels)
            }
        else:
            users.add(user)
        return self._selected[selector]

    def drop(self, selector: Selector, user: User) -> None:
        """Forget a user, and the selector with its last one."""
        users = self._users.get(selector)
        if users is None:
            return
        users.discard(user)
        if not users:
            del self._users[selector], self._selected[selector]

    def identities(self, selector: Selector) -> Set[int]:
        """The live set of a selector in use."""
        return self._selected[selector]

    def knows(self, number: int) -> bool:
        """Whether the identity's labels are known."""
        return number in self._labels

    def put(self, number: int, labels: Labels) -> list[Selector]:
        """Take up an identity or its new labels; return the selectors whose set has changed."""
        index = self._labels[number] = LabelIndex(labels)
        changed: list[Selector] = []
        for selector, selected in self._selected.items():
            matches = selector.matches(index)
            if matches != (number in selected):
                (selected.add if matches else selected.discard)(number)
                changed.append(selector)
        return changed

    def remove(self, number: int) -> list[Selector]:
        """Forget an identity; a reserved one gets its own labels again. Returns as `put` does."""
        if number in RESERVED:
            return self.put(number, RESERVED[number])
        self._labels.pop(number, None)
        changed = [s for s, selected in self._selected.items() if number in selected]
        for selector in changed:
            self._selected[selector].discard(number)
        return changed

    def users(self, selectors: Iterable[Selector]) -> set[User]:
        """Everyone who uses one of these."""
        found: set[User] = set()
        for selector in selectors:
            found |= self._users.get(selector, set())
        return found

    def lines(self) -> Iterator[tuple[Selector, int, frozenset[int]]]:
        """Selector, number of users, identities."""
        for selector, users in self._users.items():
            yield selector, len(users), frozenset(self._selected[selector])
