"""`fimbria policy apply`, `confirm`, `rollback`: change policies, on trial first if you like.

Without --confirm the objects go to the API at once. With it they hold on this node only, until
`policy confirm` makes objects of them, `policy rollback` takes them back, or nobody does anything:
then the kernel goes back by itself, whatever has become of the agent, or of your connection.
"""

from __future__ import annotations

from typing import Any

import click

from fimbria.cli.documents import rows
from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, Table, emit
from fimbria.cli.target import Target, agent_command

CONFIRM_TIMEOUT = 40.0
"""Seconds: the agent waits for the API, and for its watch."""


def _duration(ctx: click.Context, parameter: click.Parameter, value: str | None) -> float | None:
    from fimbria.sources.config import duration

    if value is None:
        return None
    try:
        return duration(value)
    except ValueError as error:
        raise click.BadParameter(str(error), ctx, parameter) from error


@click.command("apply")
@agent_command
@click.option("-f", "--filename", "paths", multiple=True, required=True, metavar="FILE",
              help="File, folder or - with policies.")  # fmt: skip
@click.option("--confirm", "seconds", metavar="DURATION", callback=_duration,
              help="Only for this time (60s, 5m), unless `policy confirm` follows.")  # fmt: skip
@click.option("--force", is_flag=True, help="Even if a node loses a port that it needs.")
def apply(
    target: Target, form: Format, paths: tuple[str, ...], seconds: float | None, force: bool
) -> None:
    """Create or update policies, or try them on this node."""
    from fimbria.sources.files import ManifestError, read

    try:
        manifests = read(paths)
    except ManifestError as error:
        raise CliError(str(error)) from error
    if not manifests:
        raise CliError(f"no policy in {', '.join(paths)}")
    body: dict[str, Any] = {"documents": [one.document for one in manifests], "force": force}
    if seconds is None:
        document = target.client().put("/v1/policy/objects", body)
        emit(form, document, lambda: result_table(document))
        return
    document = target.client().put("/v1/policy/trial", {**body, "seconds": seconds})
    emit(form, document, lambda: f"{trial_text(document)}\n{NEXT}")


@click.command("confirm")
@agent_command
def confirm(target: Target, form: Format) -> None:
    """Keep what is on trial: make objects of it."""
    document = target.client().post("/v1/policy/trial/confirm", {}, CONFIRM_TIMEOUT)
    emit(form, document, lambda: result_table(document))


@click.command("rollback")
@agent_command
def rollback(target: Target, form: Format) -> None:
    """Take back what is on trial at once."""
    document = target.client().delete("/v1/policy/trial")
    emit(form, document, lambda: f"taken back: {names(document)}")


NEXT = (
    "Keep it with `fimbria policy confirm`; `fimbria policy rollback`, or waiting, takes it back."
)


def names(document: dict[str, Any]) -> str:
    """Return what a trial's policies are called."""
    return ", ".join(
        f"{one['kind']} {one['namespace'] + '/' if one['namespace'] else ''}{one['name']}"
        for one in rows(document, "policies")
    )


def trial_text(document: dict[str, Any]) -> str:
    """Return one line about a running trial."""
    return f"On trial for {document['seconds-left']:.0f} s: {names(document)}"


def result_table(document: dict[str, Any]) -> Table:
    """Return what became of each object."""
    table = Table(["KIND", "NAMESPACE", "NAME", "RESULT"])
    for one in rows(document, "policies"):
        table.add(one["kind"], one["namespace"], one["name"], one["result"])
    return table
