"""Take JSON documents apart without tripping over what is absent or null."""

from __future__ import annotations

from typing import Any, cast

Document = dict[str, Any]


def part(document: Document, *path: str) -> Document:
    """Return the object at `path`, an empty one if there is none."""
    found = _at(document, path)
    return cast("Document", found) if isinstance(found, dict) else {}


def rows(document: Document, *path: str) -> list[Any]:
    """Return the list at `path`, an empty one if there is none."""
    found = _at(document, path)
    return cast("list[Any]", found) if isinstance(found, list) else []


def _at(document: Document, path: tuple[str, ...]) -> object:
    found: object = document
    for name in path:
        inner: Document = cast("Any", found) if isinstance(found, dict) else {}
        found = inner.get(name)
    return found
