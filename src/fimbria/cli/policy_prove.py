"""`fimbria policy prove`: assertions about who reaches whom, proven or refuted by a packet."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fimbria.cli.output import Format, Table, emit
from fimbria.cli.policy_eval import half, told
from fimbria.cli.worldoptions import files_option, form_option, settings_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.prove import Proof
    from fimbria.cli.worldoptions import Settings

REFUTED, WRONG_INPUT = 1, 2


@click.command("prove")
@click.argument("assertions", nargs=-1, metavar="[ASSERTION]...")
@files_option(required=True)
@click.option(
    "--assertions", "listed", multiple=True, metavar="FILE",
    help="A file of assertions, one a line; # begins a comment.",
)  # fmt: skip
@form_option
@settings_options
def proof(
    assertions: tuple[str, ...],
    files: tuple[str, ...],
    listed: tuple[str, ...],
    form: str,
    settings: Settings,
) -> None:
    """Prove assertions for every packet there can be, or show one that refutes them.

    \b
    no path from ns=dev to app=etcd
    no path from entity:world to any on TCP/22
    path from app=web and ns=shop to app=db on TCP/5432
    only ns=monitoring or app=gateway can reach app=db
    ns=sandbox is isolated

    Ends are any, pods, nodes, ns=NAME, KEY=VALUE (a label), pod=NS/NAME, node=NAME, entity:NAME,
    cidr:PREFIX, joined by and, or, not and parentheses; ports are TCP/443, UDP/30000-32767, ICMP/8,
    port 53. Exit code 1 if one is refuted, 2 if something could not be read.
    """
    from fimbria.analysis.assertions import Assertion, AssertionSyntaxError, parse
    from fimbria.analysis.prove import prove

    asked: list[Assertion] = []
    wrong = False
    for where, text in _lines(assertions, listed):
        try:
            asked.append(parse(text))
        except AssertionSyntaxError as error:
            told([f"{where}{error}"], "error")
            wrong = True
    if not asked and not wrong:
        raise click.UsageError("nothing to prove: give an assertion, or --assertions FILE")
    world = settings.load(files)
    told(world.errors, "error")
    told(world.warnings, "warning")
    found = prove(settings.engine(world), asked)
    told(
        (f"{one.assertion.text!r} names no pair of ends" for one in found if one.vacuous), "warning"
    )
    emit(Format(form), [_document(one) for one in found], lambda: _table(found))
    if wrong or world.errors:
        raise SystemExit(WRONG_INPUT)
    if not all(one.holds for one in found):
        raise SystemExit(REFUTED)


def _lines(given: tuple[str, ...], listed: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield assertions with what stands before an error about them. Raises click.UsageError."""
    yield from (("", text) for text in given)
    for path in listed:
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"--assertions {path}: {error}") from error
        for number, line in enumerate(text.splitlines(), 1):
            bare = line.partition("#")[0].strip()
            if bare:
                yield f"{path}:{number}: ", bare


def _table(found: list[Proof]) -> Table:
    table = Table(["ASSERTION", "RESULT", "PAIRS", "COUNTEREXAMPLE", "DECIDED BY"])
    for one in found:
        table.add(one.assertion.text, _word(one), one.pairs, _packet(one), _decided(one))
    return table


def _word(one: Proof) -> str:
    return "vacuous" if one.vacuous else "proven" if one.holds else "refuted"


def _packet(one: Proof) -> str:
    flow = one.example
    if flow is None:
        return ""
    return f"{flow.source} -> {flow.destination} {flow.protocol} {flow.port}"


def _decided(one: Proof) -> str:
    if one.result is None:
        return ""
    ways = ("egress", one.result.egress), ("ingress", one.result.ingress)
    return "\n".join(
        f"{way} {decided.verdict}: {half(decided)}"
        + (f" ({decided.file}:{decided.line})" if decided.file else "")
        for way, decided in ways
    )


def _document(one: Proof) -> dict[str, Any]:
    import msgspec

    return {
        "assertion": one.assertion.text,
        "result": _word(one),
        "pairs": one.pairs,
        "counterexample": msgspec.to_builtins(one.example),
        "verdict": msgspec.to_builtins(one.result),
    }
