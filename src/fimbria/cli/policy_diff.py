"""`fimbria policy diff`: what a change of policies means, from manifests alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fimbria.cli.policy_eval import half, told
from fimbria.cli.worldoptions import form_option, settings_options

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fimbria.analysis.atoms import Group
    from fimbria.analysis.diff import Change, Difference
    from fimbria.cli.worldoptions import Settings

DIFFERENT, WRONG_INPUT = 1, 2
SHOWN = 3
"""Ends of a change that the table names before it counts the rest."""


@click.command("diff")
@click.argument("old", metavar="OLD")
@click.argument("new", metavar="NEW")
@click.option(
    "-f", "--file", "files", multiple=True, metavar="PATH",
    help="Pods, nodes and the like that both versions have; may be given several times.",
)  # fmt: skip
@form_option
@settings_options
def difference(
    old: str,
    new: str,
    files: tuple[str, ...],
    form: str,
    settings: Settings,
) -> None:
    """Say which verdicts change from OLD to NEW, two files or folders of manifests.

    The answer is complete: every pair of pods, nodes, entities and address ranges, every protocol
    and port is covered, and what is not named stays as it is. Refactoring that changes nothing
    prints nothing. Pods are those of NEW (or of OLD, or of --file). Exit code 0 if no verdict
    changes, 1 if any does, 2 if something could not be read.
    """
    from fimbria.analysis.diff import diff, document

    before, after = settings.load([*files, old]), settings.load([*files, new])
    for version, world in ((old, before), (new, after)):
        told((f"{version}: {one}" for one in world.errors), "error")
        told((f"{version}: {one}" for one in world.warnings), "warning")
    nodes = settings.host_firewall and (before.nodes or after.nodes)
    if not (before.pods or after.pods or nodes):
        told(["no pods in either version: name manifests that have some with --file"], "warning")
    found = diff(
        before, after, settings.enable_policy, settings.cidr_match,
        host_firewall=settings.host_firewall,
    )  # fmt: skip
    if form == "json":
        import msgspec

        text = msgspec.json.format(msgspec.json.encode(document(found)), indent=2)
        click.echo(text.decode())
    else:
        _shown(found)
    _left_out(found)
    if before.errors or after.errors:
        raise SystemExit(WRONG_INPUT)
    if found:
        raise SystemExit(DIFFERENT)


def _shown(found: Difference) -> None:
    for change in found.changes:
        click.echo(f"{_names(change.sources)} -> {_names(change.destinations)}")
        for turn in change.turns:
            click.echo(f"    {turn.atom}: {turn.before} -> {turn.after}")
        click.echo("".join(f"    {line}\n" for line in _reasons(change)))
    if found.changes:
        click.echo(f"{len(found.changes)} groups of verdicts change.")
    else:
        click.echo("No verdict changes.")


def _reasons(change: Change) -> Iterable[str]:
    flow = change.example
    if flow is None:
        return
    yield f"e.g. {flow.source} -> {flow.destination} {flow.protocol} {flow.port}"
    for word, decided in zip(("before", "after"), change.deciding, strict=True):
        if decided is not None:
            place = f" ({decided.file}:{decided.line})" if decided.file else ""
            yield f"{word}: {half(decided)}{place}"


def _names(groups: Sequence[Group]) -> str:
    shown = ", ".join(str(group) for group in groups[:SHOWN])
    rest = len(groups) - SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown


def _left_out(found: Difference) -> None:
    for pods, version in ((found.only_old, "old"), (found.only_new, "new")):
        if pods:
            click.echo(
                f"note: {len(pods)} pods are like this in the {version} version only and were not "
                f"compared, e.g. {pods[0]}", err=True,
            )  # fmt: skip
