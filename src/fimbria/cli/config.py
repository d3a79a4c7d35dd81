"""`fimbria config get`: every key with what was asked for, what is in force, and who asked."""

from __future__ import annotations

import difflib
from typing import Any, cast

import click

from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, Table, emit, understood
from fimbria.cli.target import Target, agent_command


@click.group()
def group() -> None:
    """The configuration: requested, effective, source."""


@group.command("get")
@agent_command
@click.argument("key", required=False)
@click.option("--changed", is_flag=True, help="Only keys that were set, or that differ.")
def get_config(target: Target, form: Format, key: str | None, changed: bool) -> None:
    """Show all configuration keys, or one KEY."""
    document: dict[str, dict[str, Any]] = target.client().get("/v1/config")
    with understood():
        document = chosen(document, key, changed)
    emit(form, document, lambda: config_table(document))


def chosen(document: dict[str, dict[str, Any]], key: str | None, changed: bool) -> dict[str, Any]:
    """Return the part of the configuration that was asked for."""
    if key is not None:
        if key not in document:
            near = difflib.get_close_matches(key, document, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "see `fimbria config get`"
            raise CliError(f"there is no configuration key '{key}'; {hint}")
        document = {key: document[key]}
    if changed:
        document = {
            name: one
            for name, one in document.items()
            if one.get("source") != "default" or one["requested"] != one["effective"]
        }
    return document


def config_table(document: dict[str, dict[str, Any]]) -> Table:
    """Return the configuration as a table in the order of the keys' names."""
    table = Table(["KEY", "REQUESTED", "EFFECTIVE", "SOURCE"])
    for name, one in sorted(document.items()):
        table.add(name, _text(one["requested"]), _text(one["effective"]), one.get("source"))
    return table


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(str(item) for item in cast("list[object]", value))
    return "" if value is None else str(value)
