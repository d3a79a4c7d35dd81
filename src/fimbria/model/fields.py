"""Reading documents field by field: types checked, unknown fields refused, paths in every error."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, cast

from fimbria.model.policy import PolicyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import TypeVar

    T = TypeVar("T")

_KINDS = {
    "dict": "a mapping",
    "list": "a list",
    "str": "a string",
    "bool": "a boolean",
    "int": "a number",
    "float": "a number",
    "NoneType": "nothing",
}

UNSUPPORTED = "not supported by this version"


class Fields:
    """One mapping of a document. Fields that nobody took are an error at `done`.

    A field that is null counts as absent (Kubernetes). All methods raise PolicyError.
    """

    def __init__(self, value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise PolicyError(path, f"expected a mapping, not {_kind(value)}")
        self.path = path
        self._left = {
            str(key): item
            for key, item in cast("dict[Any, Any]", value).items()
            if item is not None
        }

        self._known: set[str] = set()

    def at(self, name: str) -> str:
        """Return the path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def has(self, name: str) -> bool:
        """Return whether a field is present and not taken yet."""
        return name in self._left

    def any(self, name: str) -> Any:
        """Take a field of any type; None if it is absent."""
        self._known.add(name)
        return self._left.pop(name, None)

    def text(self, name: str, default: str = "") -> str:
        """Take a string."""
        return self._typed(name, str, "a string", default)

    def name(self, name: str) -> str:
        """Take a string that must be there and not be empty."""
        text = self.text(name)
        if not text:
            raise PolicyError(self.at(name), "expected a text that is not empty")
        return text

    def flag(self, name: str) -> bool | None:
        """Take a boolean; None if it is absent."""
        return self._typed(name, bool, "true or false", None)

    def integer(self, name: str) -> int | None:
        """Take an integer; None if it is absent."""
        value = self.any(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            raise PolicyError(self.at(name), f"expected an integer, not {_kind(value)}")
        return value

    def mapping(self, name: str) -> Fields | None:
        """Take a mapping; None if it is absent."""
        value = self.any(name)
        return None if value is None else Fields(value, self.at(name))

    def items(self, name: str) -> list[tuple[str, Any]] | None:
        """Take a list, as (path, item) each; None if it is absent."""
        value = self.any(name)
        if value is None:
            return None
        if not isinstance(value, list):
            raise PolicyError(self.at(name), f"expected a list, not {_kind(value)}")
        items = cast("list[Any]", value)
        return [(f"{self.at(name)}[{index}]", item) for index, item in enumerate(items)]

    def each(self, name: str, read: Callable[[Any, str], T]) -> tuple[T, ...] | None:
        """Take a list and read every item with `read(item, path)`; None if it is absent."""
        items = self.items(name)
        return None if items is None else tuple(read(item, path) for path, item in items)

    def filled(self, name: str, read: Callable[[Any, str], T]) -> tuple[T, ...] | None:
        """Take a list where an empty one would say nobody knows what; None if it is absent."""
        found = self.each(name, read)
        if found == ():
            raise PolicyError(self.at(name), "is empty: leave it out, or name what is allowed")
        return found

    def texts(self, name: str) -> dict[str, str]:
        """Take a mapping of strings to strings; empty if it is absent."""
        value = self.any(name)
        return {} if value is None else texts(value, self.at(name))

    def only_one(self, *names: str) -> str:
        """Return which of these fields is present. Raises unless exactly one is."""
        given = [name for name in names if name in self._left]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise PolicyError(self.path, f"takes one of {', '.join(names)}; it has {found}")
        return given[0]

    def refuse(self, names: Iterable[str], reason: str = UNSUPPORTED) -> None:
        """Raise if one of these fields is present."""
        for name in names:
            if name in self._left:
                raise PolicyError(self.at(name), reason)

    def missing(self, name: str) -> PolicyError:
        """Return the error that a field is missing, naming the one that may be meant for it."""
        near = _near(name, self._left)
        return PolicyError(
            self.at(name), f"is missing; {near} is no field" if near else "is missing"
        )

    def done(self) -> None:
        """Raise if a field is left that nobody took, naming the one that may have been meant."""
        for name in self._left:
            near = _near(name, self._known)
            hint = f"; did you mean {near}?" if near else ""
            raise PolicyError(self.at(name), f"unknown field{hint}")

    def _typed(self, name: str, kind: type[T], called: str, default: T | None) -> Any:
        value = self.any(name)
        if value is None:
            return default
        if not isinstance(value, kind):
            raise PolicyError(self.at(name), f"expected {called}, not {_kind(value)}")
        return value


def _near(name: str, among: Iterable[str]) -> str:
    """Return what looks most like a name, whatever its case; "" if nothing does."""
    lower = {one.lower(): one for one in among}
    near = difflib.get_close_matches(name.lower(), lower, n=1)
    return lower[near[0]] if near else ""


def word(value: Any, path: str) -> str:
    """Read a list item that is a string."""
    if not isinstance(value, str):
        raise PolicyError(path, f"expected a string, not {_kind(value)}")
    return value


def texts(value: Any, path: str) -> dict[str, str]:
    """Read a mapping of strings to strings."""
    if not isinstance(value, dict):
        raise PolicyError(path, f"expected a mapping, not {_kind(value)}")
    found: dict[str, str] = {}
    for key, item in cast("dict[Any, Any]", value).items():
        if not isinstance(key, str) or not isinstance(item, str):
            kind = _kind(key if isinstance(item, str) else item)
            raise PolicyError(f"{path}.{key}", f"expected a string, not {kind}; quotes make one")
        found[key] = item
    return found


def _kind(value: Any) -> str:
    return _KINDS.get(type(value).__name__, type(value).__name__)


def mapping(value: Any) -> Mapping[str, Any]:
    """Return a value if it is a mapping, else an empty one: for what must be read in any case."""
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else {}


def listing(value: Any) -> list[Any]:
    """Return a value if it is a list, else an empty one."""
    return cast("list[Any]", value) if isinstance(value, list) else []
