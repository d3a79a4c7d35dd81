"""`fimbria policy matrix`: who can reach whom, in a terminal, as a graph, a picture or a page."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import click

from fimbria.cli.errors import CliError
from fimbria.cli.policy_explain import engine_of, world_options

if TYPE_CHECKING:
    from fimbria.analysis.atoms import Atom
    from fimbria.cli.worldoptions import Settings

FORMS = ("table", "json", "dot", "svg", "html")

_PORTS = re.compile(r"(?:(?P<first>\d+)(?:-(?P<last>\d+))?)?(?:/?(?P<protocol>[A-Za-z]\w*))?")


@click.command("matrix")
@click.option(
    "-o", "--output", "form", type=click.Choice(FORMS), default=FORMS[0], show_default=True,
    help="How to print; html is one page that needs nothing else.",
)  # fmt: skip
@click.option(
    "--port", "ports", multiple=True, metavar="PORT[/PROTO]",
    help="Only these: 80, 53/UDP, 8000-8100/TCP, UDP; may be given several times.",
)  # fmt: skip
@click.option("--pods-only", is_flag=True, help="Leave out nodes and the world.")
@world_options
def matrix(
    form: str,
    ports: tuple[str, ...],
    pods_only: bool,
    files: tuple[str, ...],
    settings: Settings,
) -> None:
    """Show who can reach whom in manifests (-f), on every port or on some.

    Rows are sources, columns destinations; pods with the same labels and ports are one row. Needs
    no cluster and no root.
    """
    if not files:
        raise click.UsageError("name the manifests: -f PATH")
    from fimbria.analysis import matrix as analysis
    from fimbria.analysis import matrix_text

    wanted = [atom_of(text) for text in ports]
    found = analysis.matrix(engine_of(files, settings), wanted, outside=not pods_only)
    if not len(found.ends):
        raise CliError(f"there are no pods in {', '.join(files)}")
    if form == "json":
        click.echo(json.dumps(matrix_text.document(found), indent=1))
    elif form == "svg":
        from fimbria.analysis.matrix_svg import svg

        click.echo(svg(found), nl=False)
    elif form == "html":
        from fimbria.analysis.matrix_html import html

        click.echo(html(found), nl=False)
    else:
        write = matrix_text.dot if form == "dot" else matrix_text.lines
        click.echo("\n".join(write(found)))


def atom_of(text: str) -> Atom:
    """Return the ports of `80`, `53/UDP`, `1-100/TCP` or `UDP`. Raises UsageError."""
    from fimbria.analysis.atoms import OTHER, SPACES, Atom
    from fimbria.model.policy import Protocol

    found = _PORTS.fullmatch(text)
    name = (found["protocol"] or "TCP").upper() if found and text else ""
    if found is None or name not in Protocol.__members__:
        raise click.UsageError(f"--port '{text}': write it as PORT, PORT/PROTO or PROTO")
    protocol = int(Protocol[name]) if name else OTHER
    low, high = SPACES[protocol]
    first = int(found["first"]) if found["first"] else low
    last = int(found["last"] or first) if found["first"] else high
    if not low <= first <= last <= high:
        raise click.UsageError(f"--port '{text}': {name} has {low} to {high}")
    return Atom(protocol, first, last)
