"""`fimbria status`: one line per subsystem, what was asked for beside what is in force.

The agent's document is `{"state": "Ok"|..., "lines": [{"name", "state", "text", "requested"}],
"controllers": [...]}`: a line's `text` is what is effective; `requested` appears only where the
configuration can ask for something. The order of the lines is the agent's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fimbria.cli.documents import Document, rows
from fimbria.cli.output import Format, Table, emit, understood
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 24
"""Column of the values, as wide as the longest common name."""


@click.command()
@agent_command
@click.option("--brief", is_flag=True, help="One word, and an exit code: 1 unless it is OK.")
@click.option("--verbose", "-v", is_flag=True, help="Every controller, not only failing ones.")
def command(target: Target, form: Format, brief: bool, verbose: bool) -> None:
    """Show how the node's agent is, requested and effective modes side by side."""
    document: Document = target.client().get("/v1/healthz")
    with understood():
        found = problems(document)
    if brief:
        click.echo("; ".join(found) or "OK")
    else:
        controllers: list[Document] = target.client().get("/v1/controllers") if verbose else []
        emit(form, document, lambda: render(document, controllers))
    if found:
        raise SystemExit(1)


def problems(document: Document) -> list[str]:
    """Name what is not in order: failing lines and failing controllers."""
    return [
        f"{line['name']}: {line['text']}"
        for line in rows(document, "lines")
        if line.get("state", "ok") == "failure"
    ]


def render(document: Document, controllers: Sequence[Document]) -> str:
    """Return the text form; `controllers` are listed below it."""
    width = max([WIDTH, *(len(line["name"]) + 2 for line in rows(document, "lines"))])
    shown = [status_line(line, width) for line in rows(document, "lines")]
    if controllers:
        shown += ["", controllers_table(controllers).plain()]
    return "\n".join(shown)


def status_line(line: Document, width: int) -> str:
    """Return `Name:   effective   (requested: …)`."""
    text = f"{line['name'] + ':':<{width}}{line['text']}"
    requested = line.get("requested")
    return f"{text}   (requested: {requested})" if requested else text


def controllers_table(controllers: Sequence[Document]) -> Table:
    """Return the controllers as a table, failing ones first."""
    table = Table(["Controller", "Interval", "Successes", "Failures", "Last error"])
    for one in sorted(controllers, key=lambda one: (not one.get("failing"), one["name"])):
        interval = one.get("interval")
        table.add(
            one["name"],
            f"{interval:g}s" if interval else "on change",
            one.get("successes", 0),
            one.get("failures", 0),
            one.get("last-error") or "none",
        )
    return table
