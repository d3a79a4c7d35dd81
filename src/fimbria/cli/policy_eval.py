"""`fimbria policy eval`: what becomes of flows, from manifests alone."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO

import click

from fimbria.cli.errors import CliError
from fimbria.cli.output import Format, Table, emit
from fimbria.cli.worldoptions import files_option, settings_options

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from fimbria.analysis import Engine, Half, Result
    from fimbria.analysis.jsonlines import Answers
    from fimbria.cli.worldoptions import Settings

JUDGES = ("maps", "model", "kernel", "all")
WRONG_INPUT, DIFFERENT = 2, 1


@click.command("eval")
@files_option(required=True)
@click.option(
    "--flows", "flows", required=True, metavar="FILE",
    help="Flows, one JSON object a line; - for standard input.",
)  # fmt: skip
@click.option(
    "-o", "--output", "form", type=click.Choice(["json", "table"]), default="json",
    show_default=True, help="One JSON object a line, or a table.",
)  # fmt: skip
@click.option(
    "--judge", type=click.Choice(JUDGES), default=JUDGES[0], show_default=True,
    help="Who judges: the compiled maps, the rules as written, the kernel (root), or all of them.",
)  # fmt: skip
@settings_options
def evaluate(
    files: tuple[str, ...],
    flows: str,
    form: str,
    judge: str,
    settings: Settings,
) -> None:
    """Say what becomes of flows, and which field of which policy decides.

    Needs no cluster and no root: manifests in, verdicts out, by the code that a node runs. A flow
    is {"source": "default/web", "destination": "10.1.2.3", "protocol": "TCP", "port": 443}; ends
    are namespace/pod, addresses, node:NAME, entity:NAME, svc:NAMESPACE/NAME. Exit code 2 if
    something could not be read, 1 if the judges differ.
    """
    from fimbria.analysis.jsonlines import Answers

    if flows == "-" and "-" in files:
        raise click.UsageError("only one of --file and --flows can be standard input")
    with opened(flows) as stream:
        world = settings.load(files)
        engine = settings.engine(world, judge)
        told(world.errors, "error")
        told(world.warnings, "warning")
        told(engine.problems, "warning")
        ready(engine)
        answers = Answers(engine)
        write(answers, stream, form)
    where = "<stdin>" if flows == "-" else flows
    told(
        (
            f"{where}:{one.line}: {one.error}"
            for one in sorted(answers.failures, key=lambda one: one.line)
        ),
        "error",
    )
    if answers.differ:
        raise SystemExit(DIFFERENT)
    if answers.failures or world.errors:
        raise SystemExit(WRONG_INPUT)


def ready(engine: Engine) -> None:
    """See to it that the judge is to be had. Raises CliError; "all" without the kernel is told."""
    from fimbria.analysis import KernelUnavailable

    if engine.judge not in ("kernel", "all"):
        return
    try:
        engine.kernel  # noqa: B018 - asking is finding out
    except KernelUnavailable as error:
        if engine.judge == "kernel":
            raise CliError(
                f"{error} (it needs root, and the objects that `make build` makes)"
            ) from error
        told([f"{error}; only maps and model are compared"], "note")


@contextmanager
def opened(path: str) -> Generator[BinaryIO]:
    """Open the flows. Raises `click.UsageError` naming a file that cannot be read."""
    if path == "-":
        yield sys.stdin.buffer
        return
    try:
        stream = open(path, "rb")  # noqa: SIM115 - closed below; errors inside are not this one's
    except OSError as error:
        raise click.UsageError(f"--flows {path}: {error.strerror}") from error
    with stream:
        yield stream


def write(answers: Answers, stream: BinaryIO, form: str) -> None:
    """Print the answers to a stream of flows as they come; a table at its end."""
    from fimbria.analysis.jsonlines import blocks

    if form == "json":
        for block in blocks(stream):
            sys.stdout.buffer.write(answers.block(block))
            sys.stdout.buffer.flush()
        return
    results = [result for block in blocks(stream) for result in answers.results(block)]
    emit(Format.TABLE, results, lambda: result_table(results))


def result_table(results: Iterable[Result]) -> Table:
    """Return results as the table that `policy eval -o table` prints."""
    table = Table(["SOURCE", "DESTINATION", "PORT", "VERDICT", "EGRESS", "INGRESS"])
    for one in results:
        target = one.destination + (f" ({one.backend})" if one.backend else "")
        port = f"{one.port}/{one.protocol}"
        table.add(one.source, target, port, one.verdict, half(one.egress), half(one.ingress))
    return table


def half(one: Half) -> str:
    """Return one direction as a cell: its reason, and which rule of which policy."""
    if one.policy is None:
        return str(one.reason)
    name = "/".join(filter(None, (one.policy.namespace, one.policy.name)))
    return f"{one.reason}: {one.policy.kind} {name} {one.rule}"


def told(lines: Iterable[object], what: str) -> None:
    """Print lines to standard error."""
    for line in lines:
        click.echo(f"{what}: {line}", err=True)
