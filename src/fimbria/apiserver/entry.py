"""What the store keeps per object: the encoded bytes, and the few fields that queries look at.

An object is encoded once, when it is written; lists and watch events are joins of these bytes.
Labels and selectable fields are kept decoded so that selectors need no decoding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.apiserver.resources import Resource

Object = dict[str, Any]
"""A decoded API object."""

NOTHING: Mapping[str, str] = {}
encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Entry:
    """One version of one object. `raw` is its JSON, resourceVersion included."""

    resource: Resource
    namespace: str
    name: str
    rv: int
    raw: bytes
    uid: str
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    owners: tuple[str, ...]

    def decode(self) -> Object:
        """A fresh copy that the caller may change."""
        return decode(self.raw)


@dataclass(frozen=True, slots=True)
class Event:
    """One change: ADDED, MODIFIED or DELETED, the version it led to and the one before.

    `previous` is None for ADDED, and for changes from before a restart whose predecessor has
    left the history.
    """

    type: str
    entry: Entry
    previous: Entry | None


def field_at(document: Any, path: str) -> Any:
    """The value at a dotted path of mappings, or None."""
    for part in path.split("."):
        if not isinstance(document, dict):
            return None
        document = document.get(part)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - decoded JSON
    return document  # pyright: ignore[reportUnknownVariableType] - decoded JSON


def make_entry(resource: Resource, document: Object, raw: bytes) -> Entry:
    """The entry for an object with complete metadata, and the bytes it was encoded to."""
    metadata: dict[str, Any] = document["metadata"]
    owners: list[dict[str, Any]] = metadata.get("ownerReferences") or []
    fields = NOTHING
    if resource.select:
        values = {path: field_at(document, path) for path in resource.select}
        fields = {path: _text(value) for path, value in values.items() if value is not None}
    return Entry(
        resource,
        metadata.get("namespace", ""),
        metadata["name"],
        int(metadata["resourceVersion"]),
        raw,
        metadata["uid"],
        metadata.get("labels") or NOTHING,
        fields,
        tuple(owner["uid"] for owner in owners),
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
