"""How commands print: one document, three forms.

A command hands over the document it got and a function that makes a table of it. In a terminal
the table is drawn by rich; in a pipe it is aligned text with stable column names, for grep and
awk; `-o json` and `-o yaml` print the document itself.
"""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import click

from fimbria.cli.errors import CliError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

GAP = "   "


class Format(StrEnum):
    """What `-o` takes."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


@dataclass
class Table:
    """Columns and rows of text; a cell or a heading may have several lines."""

    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list[list[str]])

    def add(self, *cells: object) -> None:
        """Append a row; None becomes an empty cell."""
        self.rows.append(["" if cell is None else str(cell) for cell in cells])

    def plain(self) -> str:
        """Return the table as aligned text, without trailing blanks."""
        blocks = [[cell.split("\n") for cell in row] for row in [self.columns, *self.rows]]
        cells = zip(*blocks, strict=True)
        widths = [max(len(line) for cell in column for line in cell) for column in cells]
        lines: list[str] = []
        for row in blocks:
            for level in range(max(len(cell) for cell in row)):
                parts = [
                    (cell[level] if level < len(cell) else "").ljust(width)
                    for cell, width in zip(row, widths, strict=True)
                ]
                lines.append(GAP.join(parts).rstrip())
        return "\n".join(lines)


@contextmanager
def understood() -> Generator[None]:
    """Read an agent's document inside: one that another version gave may lack what is read.

    That is a `CliError` then.
    """
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CliError(
            f"the agent's answer is not in the form expected ({what}): is it of another "
            "version? `-o json` shows it as it came"
        ) from error


def emit(form: Format, document: object, table: Callable[[], Table | str]) -> None:
    """Print `document` as `form` asks; `table` is called for the table form only.

    A document that `table` cannot read is a `CliError`.
    """
    if form is Format.JSON:
        click.echo(json.dumps(document, indent=2))
    elif form is Format.YAML:
        click.echo(to_yaml(document), nl=False)
    else:
        with understood():
            shown = table()
        if isinstance(shown, str):
            click.echo(shown, nl=bool(shown))
        elif sys.stdout.isatty():
            _draw(shown)
        else:
            click.echo(shown.plain())


def to_yaml(document: object) -> str:
    """Return `document` as YAML, keys in their own order."""
    import yaml

    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _draw(table: Table) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(*table.columns, box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for row in table.rows:
        drawn.add_row(*(Text(cell) for cell in row))
    Console().print(drawn)
