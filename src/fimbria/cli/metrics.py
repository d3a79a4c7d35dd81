"""`fimbria metrics list`: the agent's metrics without Prometheus."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, Table, emit, understood
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.group()
def group() -> None:
    """The agent's metrics, as Prometheus gets them."""


@group.command("list")
@agent_command
@click.option("--match-pattern", "-p", metavar="REGEX", help="Only names that it is found in.")
def list_metrics(target: Target, form: Format, match_pattern: str | None) -> None:
    """List every metric with its labels and value."""
    try:
        wanted = re.compile(match_pattern or "")
    except re.error as error:
        raise CliError(f"--match-pattern: {match_pattern!r} is no expression: {error}") from error
    documents: list[dict[str, Any]] = target.client().get("/v1/metrics")
    with understood():
        shown = [one for one in documents if wanted.search(one["name"])]
        table = metric_table(shown)
    emit(form, shown, lambda: table)


def metric_table(documents: Sequence[dict[str, Any]]) -> Table:
    """Return metrics as Metric, Labels, Value."""
    table = Table(["Metric", "Labels", "Value"])
    for one in documents:
        labels = " ".join(f'{key}="{text}"' for key, text in one["labels"].items())
        table.add(one["name"], labels, f"{one['value']:.6f}")
    return table
