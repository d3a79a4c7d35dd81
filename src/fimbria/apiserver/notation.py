"""The notation that schemas are written in, and the pieces that many of them share.

A schema names the fields whose type, presence or range matters to this server, to Fimbria or to
the kind's users; fields that it does not name are taken as they are, so that manifests written
for a full Kubernetes work.

Notation: `{"name!": str}` an object with a required field, `{"*": x}` a map of x, `[x]` a list,
`str | int | bool | dict | list` a type, `Int(low, high)`, `Enum(…)`, `Text(pattern, most)`,
`INT_OR_STRING`, `ANY`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

Schema = Any
"""A value in the notation above."""


@dataclass(frozen=True, slots=True)
class Int:
    """An integer between `low` and `high`, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Enum:
    """One of these strings."""

    values: tuple[str, ...]

    def __init__(self, *values: str) -> None:
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, slots=True)
class Text:
    """A string of `most` characters at most that matches a regular expression as a whole."""

    pattern: str
    most: int

    @property
    def anchored(self) -> str:
        """Return the pattern for those who look for it anywhere in a string (JSON schema)."""
        return f"^{self.pattern}$"

    def fits(self, value: str) -> bool:
        """Return whether a value matches, whatever its length."""
        return re.fullmatch(self.pattern, value) is not None


@dataclass(frozen=True, slots=True)
class Special:
    """A type that JSON has no single name for."""

    name: str


ANY: Final = Special("any")
INT_OR_STRING: Final = Special("int-or-string")

TYPE_NAMES: dict[type, str] = {
    str: "string",
    int: "integer",
    bool: "boolean",
    dict: "object",
    list: "array",
}
"""What JSON schema calls the plain types."""

PORT = Int(1, 65535)
COUNT = Int(0, 2**31 - 1)
PROTOCOL = Enum("TCP", "UDP", "SCTP")
LABEL_VALUE = Text("(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", 63)
STRINGS: Schema = {"*": str}
CONDITIONS: Schema = [{"type!": str, "status!": str, "reason": str, "message": str}]

SELECTOR: Schema = {
    "matchLabels": STRINGS,
    "matchExpressions": [
        {"key!": str, "operator!": Enum("In", "NotIn", "Exists", "DoesNotExist"), "values": [str]}
    ],
}
