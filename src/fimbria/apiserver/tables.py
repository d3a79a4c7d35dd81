"""Tables: what `kubectl get` asks for instead of objects (meta/v1 Table).

A kind's columns come from its row in `resources.py`: paths are compiled once, `@` names a
function of `cells.py`.
"""

from __future__ import annotations

import re
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from fimbria.apiserver.cells import CELLS, NONE
from fimbria.apiserver.entry import field_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fimbria.apiserver.entry import Entry, Object
    from fimbria.apiserver.resources import Resource

_STEP = re.compile(r"((?:\\.|[^.\[\\])+)|\[(\d+)\]|\[(\w+)=(\w+)\]|\.")


def table(
    resource: Resource, entries: Iterable[Entry], metadata: Object, include: str, now: float
) -> Object:
    """A Table of these entries. `include` is None, Metadata or Object; `now` in epoch seconds."""
    columns = [_definition("Name", "string", 0, "name")]
    for heading, kind, _ in resource.columns:
        wide = kind.startswith("+")
        # Dates are rendered to ages here, so that the client shows them as they are.
        shown = "string" if kind.endswith("date") else kind.removeprefix("+")
        columns.append(_definition(heading, shown, int(wide), ""))
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": [_row(resource, entry.decode(), include, now) for entry in entries],
    }


def partial(document: Object) -> Object:
    """The object's PartialObjectMetadata."""
    return {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": document["metadata"],
    }


def age(text: str, now: float) -> str:
    """How long ago an RFC 3339 time was, as 12s, 3m4s, 5h6m, 7d8h or 9d."""
    try:
        seconds = max(0, int(now - datetime.fromisoformat(text).timestamp()))
    except ValueError:
        return "<invalid>"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h{minutes % 60}m" if minutes % 60 else f"{hours}h"
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d{hours % 24}h" if hours % 24 else f"{days}d"
    return f"{days}d"


def _definition(name: str, kind: str, priority: int, form: str) -> Object:
    return {"name": name, "type": kind, "format": form, "description": name, "priority": priority}


def _row(resource: Resource, document: Object, include: str, now: float) -> Object:
    cells: list[Any] = [document["metadata"]["name"]]
    for _, kind, source in resource.columns:
        value = _reader(source)(document)
        if kind.endswith("date"):
            value = age(value, now) if value else "<unknown>"
        elif value is None:
            value = NONE if resource.strategic else ""
        elif kind.endswith("string") and not isinstance(value, str):
            value = str(value).lower() if isinstance(value, bool) else str(value)
        cells.append(value)
    row: Object = {"cells": cells}
    if include != "None":
        row["object"] = document if include == "Object" else partial(document)
    return row


@cache
def _reader(source: str) -> Callable[[Object], Any]:
    """The function that reads a column's value from an object."""
    if source.startswith("@"):
        return CELLS[source[1:]]
    path, _, default = source.partition("|")
    steps: list[str | int | tuple[str, str]] = []
    for found in _STEP.finditer(path):
        name, index, key, value = found.groups()
        if name:
            steps.append(name.replace("\\", ""))
        elif index:
            steps.append(int(index))
        elif key:
            steps.append((key, value))

    def read(document: Any) -> Any:
        for step in steps:
            document = _step(document, step)
        return int(default) if document is None and default else document

    return read


def _step(value: Any, step: str | int | tuple[str, str]) -> Any:
    if isinstance(step, str):
        return cast("Object", value).get(step) if isinstance(value, dict) else None
    items = cast("list[Any]", value) if isinstance(value, list) else []
    if isinstance(step, int):
        return items[step] if step < len(items) else None
    return next((item for item in items if field_at(item, step[0]) == step[1]), None)
