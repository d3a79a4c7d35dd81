"""`fimbria monitor`: what the datapath does, as it happens, and why."""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING

import click

from fimbria.cli import monitortext
from fimbria.cli.output import Format, to_yaml, understood
from fimbria.cli.target import Target, agent_command

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.cli.documents import Document

KEPT = 4096
"""As many events as the agent keeps."""

_ENDPOINT = click.IntRange(1, 65535)


@click.command()
@agent_command
@click.option("--verbose", "-v", is_flag=True, help="Who the ends are, and the rule that decided.")
@click.option(
    "--type", "-t", "types", type=click.Choice(monitortext.TYPES), multiple=True, help="Only these."
)
@click.option("--from", "sources", type=_ENDPOINT, multiple=True, help="Sent by this endpoint id.")
@click.option("--to", "destinations", type=_ENDPOINT, multiple=True, help="For this endpoint id.")
@click.option("--related-to", "related", type=_ENDPOINT, multiple=True, help="Either of both.")
@click.option("--last", type=click.IntRange(0, KEPT), help="Print this many past events and exit.")
@click.option("--follow", "-f", is_flag=True, help="After --last: go on with new ones.")
def command(
    target: Target,
    form: Format,
    verbose: bool,
    types: tuple[str, ...],
    sources: tuple[int, ...],
    destinations: tuple[int, ...],
    related: tuple[int, ...],
    last: int | None,
    follow: bool,
) -> None:
    """Print drops, policy verdicts and traces of the node until interrupted."""
    query = {"last": last or 0, "follow": 1}
    if last is not None and not follow:
        query = {"last": KEPT, "follow": 0}
    elif form is Format.TABLE:
        click.echo("Listening for events; interrupt to stop", err=True)
    stream: Iterator[Document] = target.client().lines("/v1/monitor", query)
    if "policy-verdict" in types and "drop" not in types:
        stream = map(monitortext.as_verdict, stream)
    events: Iterator[Document] = (
        event
        for event in stream
        if monitortext.wanted(event, types, sources, destinations, related)
    )
    try:
        with understood():
            if last is not None and not follow:
                events = iter(deque(events, maxlen=last))
            for event in events:
                click.echo(render(event, form, verbose))
    except KeyboardInterrupt:
        return


def render(event: Document, form: Format, verbose: bool) -> str:
    """Return an event as `-o` and `-v` ask."""
    if form is Format.JSON:
        return json.dumps(event)
    if form is Format.YAML:
        return "---\n" + to_yaml(event).rstrip()
    lines = [monitortext.event_line(event)]
    if verbose:
        lines += monitortext.detail_lines(event)
    return "\n".join(lines)
