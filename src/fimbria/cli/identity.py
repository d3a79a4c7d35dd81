"""`fimbria identity list|get`: the numbers that stand for sets of labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fimbria.cli.documents import rows
from fimbria.cli.output import Format, Table, emit
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group()
def group() -> None:
    """Identities: numbers that labels stand for."""


@group.command("list")
@agent_command
def list_identities(target: Target, form: Format) -> None:
    """List the identities that this node knows."""
    documents: list[dict[str, Any]] = target.client().get("/v1/identity")
    emit(form, documents, lambda: identity_table(documents))


@group.command("get")
@agent_command
@click.argument("number", type=click.IntRange(0, 0xFFFFFFFF))
def get_identity(target: Target, form: Format, number: int) -> None:
    """Show the identity NUMBER."""
    document: dict[str, Any] = target.client().get(f"/v1/identity/{number}")
    emit(form, document, lambda: identity_table([document]))


def identity_table(documents: Sequence[dict[str, Any]]) -> Table:
    """Return identity documents as the table that `identity list` prints."""
    table = Table(["ID", "LABELS", "REFCOUNT"])
    for one in sorted(documents, key=lambda one: one["id"]):
        table.add(one["id"], "\n".join(rows(one, "labels")), one.get("refcount", 0))
    return table
