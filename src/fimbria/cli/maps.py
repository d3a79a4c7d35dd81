"""`fimbria map list|get`: the BPF maps as the agent keeps them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from fimbria.cli.documents import rows
from fimbria.cli.output import Format, Table, emit
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group()
def group() -> None:
    """The BPF maps as the agent keeps them."""


@group.command("list")
@agent_command
def list_maps(target: Target, form: Format) -> None:
    """List the maps with their sizes and errors."""
    documents: list[dict[str, Any]] = target.client().get("/v1/map")
    emit(form, documents, lambda: map_table(documents))


@group.command("get")
@agent_command
@click.argument("name")
def get_map(target: Target, form: Format, name: str) -> None:
    """Show what the agent keeps in the map NAME."""
    document: dict[str, Any] = target.client().get(f"/v1/map/{quote(name)}")
    emit(form, document, lambda: entry_table(rows(document, "entries")))


def map_table(documents: Sequence[dict[str, Any]]) -> Table:
    """Return map documents as the table that `map list` prints."""
    table = Table(["Name", "Num entries", "Num errors", "Cache enabled"])
    for one in sorted(documents, key=lambda one: one["name"]):
        cached = str(bool(one.get("cached", True))).lower()
        table.add(one["name"], one.get("entries", 0), one.get("errors", 0), cached)
    return table


def entry_table(entries: Sequence[dict[str, Any]]) -> Table:
    """Return a map's entries as Key, Value, State."""
    table = Table(["Key", "Value", "State"])
    for one in entries:
        table.add(_cell(one["key"]), _cell(one["value"]), one.get("state", "sync"))
    return table


def _cell(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
