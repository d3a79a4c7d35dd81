"""`fimbria policy test`: policies against the tests that stand beside them."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Generator

    from fimbria.analysis.report import CoverageReport, Report
    from fimbria.analysis.suiterun import CaseResult, SuiteResult, SuiteRun

FAILED, UNREADABLE = 1, 2
FORMS = ("text", "tap", "json")
CLEAR = "\r\033[K"


@click.command("test")
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "-o", "--output", "form", type=click.Choice(FORMS), default=FORMS[0], show_default=True,
    help="For people, as TAP, or as one JSON document.",
)  # fmt: skip
@click.option("--junit", metavar="FILE", help="Write JUnit XML to FILE as well.")
@click.option("--coverage", is_flag=True, help="List the parts of policies that no case exercises.")
@click.option(
    "--fail-under", type=click.FloatRange(0, 100), metavar="PERCENT",
    help="Exit with 1 if less than this is covered; implies --coverage.",
)  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="Show failures and the summary only.")
def test(
    paths: tuple[str, ...],
    form: str,
    junit: str | None,
    coverage: bool,
    fail_under: float | None,
    quiet: bool,
) -> None:
    """Run policy tests: which flows must pass, and which must not.

    PATHs are files, or folders in which every *.test.yaml is a test (default: here). A test names
    manifests and flows; docs/guides/policy-tests-in-ci.md shows how. Needs no cluster and no root.
    Exit code 1 if a case fails, 2 if something could not be read or judged.
    """
    from fimbria.analysis import report
    from fimbria.sources.files import ManifestError

    shown = _Shown(quiet=quiet, silent=form != "text")
    paths = paths or (".",)
    counted = coverage or fail_under is not None
    try:
        whole = report.run_tests(paths, coverage=counted, watch=shown.suite)
    except ManifestError as error:
        raise click.UsageError(str(error)) from error
    if not (whole.suites or whole.errors):
        raise click.UsageError(f"no *.test.yaml in {', '.join(paths)}")
    for error in whole.errors:
        shown.error(error)
    if form == "tap":
        click.echo(report.tap(whole), nl=False)
    elif form == "json":
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(whole), indent=2))
    else:
        _summary(whole)
    if junit is not None:
        with _written(junit):
            Path(junit).write_text(report.junit(whole), encoding="utf-8")
    raise SystemExit(_code(whole, fail_under))


class _Shown:
    """What is printed while tests run: a line for each case, and a count on a terminal."""

    def __init__(self, *, quiet: bool, silent: bool) -> None:
        self._quiet = quiet
        self._silent = silent
        self._counting = sys.stderr.isatty() and not silent
        self._done = 0

    def suite(self, run: SuiteRun) -> SuiteResult:
        """Run a suite, showing its cases as they are judged."""
        heading = click.style(f"{run.suite.name}", bold=True) + f"  {run.suite.file}"
        headed = not self._quiet
        if headed:
            self._say(heading)
        cases: list[CaseResult] = []
        for case in run.results():
            if not (case.passed or headed):
                self._say(heading)
                headed = True
            cases.append(case)
            self._done += 1
            self._case(case)
            self._count()
        whole = run.whole(cases)
        for error in whole.errors:
            self.error(error)
        for warning in whole.warnings:
            self._note(click.style("warning: ", fg="yellow") + warning)
        return whole

    def error(self, text: str) -> None:
        """Print what could not be read."""
        self._note(click.style("error: ", fg="red") + text)

    def _case(self, case: CaseResult) -> None:
        from fimbria.analysis.report import case_lines

        if case.passed:
            if not self._quiet:
                self._say(f"  {click.style('ok', fg='green')}    {case.name}")
            return
        word = "ERROR" if case.broken else "FAIL"
        mark = click.style(word, fg="red", bold=True)
        self._say(f"  {mark}{' ' * (6 - len(word))}{case.name}  ({case.file}:{case.line})")
        for line in case_lines(case):
            self._say(f"          {line}")

    def _say(self, text: str) -> None:
        if not self._silent:
            self._clear()
            click.echo(text)

    def _note(self, text: str) -> None:
        self._clear()
        click.echo(text, err=True)

    def _count(self) -> None:
        if self._counting:
            click.echo(f"{self._done} cases", err=True, nl=False)

    def _clear(self) -> None:
        if self._counting:
            click.echo(CLEAR, err=True, nl=False)


def _summary(whole: Report) -> None:
    """Print the counts, and what is not covered."""
    if whole.coverage is not None:
        _uncovered(whole.coverage)
    flows = sum(case.flows for suite in whole.suites for case in suite.cases)
    colour = "red" if whole.failed or whole.errors else "green"
    files = len({suite.file for suite in whole.suites})
    counts = [f"{whole.passed} passed"]
    if whole.failed:
        counts.append(f"{whole.failed} failed")
    broken = len(whole.errors) + sum(len(suite.errors) for suite in whole.suites)
    if broken:
        counts.append(f"{broken} could not be read")
    told = f"{', '.join(counts)} ({flows} flows, {files} file{'' if files == 1 else 's'})"
    click.secho(f"{CLEAR if sys.stderr.isatty() else ''}{told}", fg=colour)


def _uncovered(coverage: CoverageReport) -> None:
    from fimbria.cli.output import Table

    if coverage.uncovered:
        table = Table(["NOT EXERCISED", "POLICY", "RULE"])
        for one in coverage.uncovered:
            default = f" (default deny, {one.default})" if one.default else ""
            table.add(f"{one.file}:{one.line}", one.policy, f"{one.path}{default}")
        click.echo(table.plain())
    exercised = coverage.total - len(coverage.uncovered)
    click.echo(f"{exercised} of {coverage.total} parts of policies exercised: {coverage.percent} %")


def _code(whole: Report, fail_under: float | None) -> int:
    """Return the exit code: what could not be read weighs more than what failed."""
    broken = any(case.broken for suite in whole.suites for case in suite.cases)
    if whole.errors or broken or any(suite.errors for suite in whole.suites):
        return UNREADABLE
    covered = 100.0 if whole.coverage is None else whole.coverage.percent
    if fail_under is not None and covered < fail_under:
        click.echo(f"covered {covered} %, wanted {fail_under:g} %", err=True)
        return FAILED
    return FAILED if whole.failed else 0


@contextmanager
def _written(path: str) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise click.UsageError(f"--junit {path}: {error.strerror}") from error
