"""`fimbria policy lint`: what is likely to be a mistake in policies that are valid."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fimbria.cli.output import Format, Table, emit
from fimbria.cli.worldoptions import enforcement_options, identity_options, node_labels_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fimbria.analysis.lint import Finding

FOUND, UNREADABLE = 1, 2
LEVELS = ("error", "warning", "info")


@click.command("lint")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "-o", "--output", "form", type=click.Choice(["table", "json", "sarif"]), default="table",
    show_default=True, help="For people, as JSON, or as SARIF for code scanners.",
)  # fmt: skip
@click.option(
    "--fail-on", type=click.Choice([*LEVELS, "never"]), default="warning", show_default=True,
    help="Exit with 1 for findings of this severity or worse.",
)  # fmt: skip
@click.option("--ignore", multiple=True, metavar="CODE", help="Leave out findings with this code.")
@click.option(
    "--pod-cidr", "pod_cidrs", multiple=True, metavar="CIDR",
    help="Addresses of pods, beyond those that Node objects have.",
)  # fmt: skip
@enforcement_options
@node_labels_option
@identity_options
def lint(
    paths: tuple[str, ...],
    form: str,
    fail_on: str,
    ignore: tuple[str, ...],
    pod_cidrs: tuple[str, ...],
    enable_policy: str,
    cidr_match: frozenset[str],
    node_labels: bool,
    cluster: str,
    labels: str,
) -> None:
    """Find rules that never decide, select nothing, or are wider than they look.

    PATHs are files, folders and - for standard input (default: here); with the pods, namespaces and
    Services in them, selectors are compared with these. docs/reference/lint.md has all codes; a
    comment `# fimbria:ignore CODE` takes a finding away. Exit code 1 for findings, 2 if something
    could not be read.
    """
    from fimbria.analysis.lint import CODES
    from fimbria.analysis.lint import lint as linted
    from fimbria.analysis.suiteread import manifests

    unknown = sorted(set(ignore) - CODES.keys())
    if unknown:
        raise click.UsageError(f"--ignore {unknown[0]}: the codes are {', '.join(CODES)}")
    try:
        found = linted(
            manifests(paths or (".",)),
            enable_policy=enable_policy,
            cidr_match=cidr_match,
            pod_cidrs=pod_cidrs,
            ignore=ignore,
            node_labels=node_labels,
            cluster=cluster,
            labels=labels,
        )
    except ValueError as error:
        raise click.UsageError(f"--pod-cidr: {error}") from error
    _print(found, form)
    if any(one.code == "unreadable" for one in found):
        raise SystemExit(UNREADABLE)
    worst = min((LEVELS.index(one.severity) for one in found), default=len(LEVELS))
    if fail_on != "never" and worst <= LEVELS.index(fail_on):
        raise SystemExit(FOUND)


def _print(found: Sequence[Finding], form: str) -> None:
    import msgspec

    if form == "sarif":
        from fimbria.analysis.lintsarif import sarif

        emit(Format.JSON, sarif(found), lambda: "")
        return
    table = Table(["WHERE", "SEVERITY", "CODE", "FINDING"])
    for one in found:
        subject = f"{one.policy} {one.path}: " if one.policy else ""
        table.add(f"{one.file}:{one.line}", one.severity, one.code,
                  f"{subject}{one.message}\nfix: {one.fix}")  # fmt: skip
    form_of = Format(form)
    emit(form_of, msgspec.to_builtins(found), lambda: table if found else "nothing found")
