"""Tests run, and their results for machines: JUnit's XML, TAP, and one JSON document.

    from fimbria.analysis.report import run_tests
    print(run_tests(["policies/"]).failed)

What a person reads is made by the command; docs/reference/policy-test-report.schema.json is the
JSON's contract.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import msgspec

from fimbria.analysis.coverage import Coverage
from fimbria.analysis.suiteread import find, read_suites
from fimbria.analysis.suiterun import SuiteResult, SuiteRun
from fimbria.sources.files import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from fimbria.analysis.suiterun import CaseResult, Check

SHOWN = 3
"""Failed flows of a case that are told in words."""


class Uncovered(msgspec.Struct, frozen=True):
    """A part of a policy that no case has made decide; `default` names a default deny's way."""

    file: str
    line: int
    policy: str
    path: str
    default: str = ""


class CoverageReport(msgspec.Struct, frozen=True):
    """How many parts of policies there are, and which of them nothing has exercised."""

    percent: float
    total: int
    uncovered: tuple[Uncovered, ...]


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What `fimbria policy test -o json` prints. `errors` are what could not be read at all."""

    passed: int
    failed: int
    suites: tuple[SuiteResult, ...]
    errors: tuple[str, ...] = ()
    coverage: CoverageReport | None = None


def run_tests(
    paths: Iterable[str | Path] = (".",),
    *,
    coverage: bool = False,
    watch: Callable[[SuiteRun], SuiteResult] = SuiteRun.finish,
) -> Report:
    """Run the tests of files and folders. `watch` runs each suite, for whoever shows it meanwhile.

    Raises ManifestError for a path that does not exist; all else that is wrong is in the report.
    """
    counted = Coverage() if coverage else None
    results: list[SuiteResult] = []
    errors: list[str] = []
    for file in find(paths):
        for suite in read_suites(file):
            if isinstance(suite, ManifestError):
                errors.append(str(suite))
            else:
                results.append(watch(SuiteRun(suite, counted)))
    return _report(results, errors, counted)


def _report(
    results: Sequence[SuiteResult], errors: Sequence[str], coverage: Coverage | None
) -> Report:
    cases = [case for one in results for case in one.cases]
    passed = sum(case.passed for case in cases)
    covered = None if coverage is None else _covered(coverage)
    return Report(passed, len(cases) - passed, tuple(results), tuple(errors), covered)


def _covered(coverage: Coverage) -> CoverageReport:
    rows = coverage.rows()
    return CoverageReport(
        round(coverage.percent, 1),
        len(rows),
        tuple(
            Uncovered(row.file, row.line, str(row.part.policy), row.part.path, row.part.default)
            for row in rows
            if not row.covered
        ),
    )


def failure_lines(check: Check) -> Iterator[str]:
    """Yield a failed flow in words: what it was, why, and what would be needed."""
    flow = f"{check.source} -> {check.destination} {check.port}/{check.protocol}"
    yield f"{flow}: {check.problem}"
    yield from (f"  {line}" for line in check.reasons)
    if check.needed:
        yield "  needed:"
        yield from (f"    {line}" for line in check.needed)


def junit(one: Report) -> str:
    """Return JUnit XML: a testsuite for each suite; what could not be read is an error in one."""
    root = ElementTree.Element("testsuites", name="fimbria policy test")
    totals = {"tests": 0, "failures": 0, "errors": 0}
    for suite in one.suites:
        _suite(root, suite, totals)
    if one.errors:
        _broken(root, "files", one.errors, totals)
    for name, number in totals.items():
        root.set(name, str(number))
    ElementTree.indent(root)
    text = ElementTree.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def _suite(root: ElementTree.Element, suite: SuiteResult, totals: dict[str, int]) -> None:
    element = ElementTree.SubElement(root, "testsuite", name=suite.name, file=suite.file)
    broken = sum(case.broken for case in suite.cases)
    failed = sum(not case.passed for case in suite.cases) - broken
    for case in suite.cases:
        item = ElementTree.SubElement(
            element, "testcase", classname=suite.name, name=case.name,
            file=case.file, line=str(case.line),
        )  # fmt: skip
        if not case.passed:
            kind = "error" if case.broken else "failure"
            message = case.failures[0].problem
            ElementTree.SubElement(item, kind, message=message).text = _xml(_text(case))
    numbers = {"tests": len(suite.cases), "failures": failed, "errors": broken}
    for name, number in numbers.items():
        element.set(name, str(number))
        totals[name] += number
    if suite.errors:
        _broken(root, f"{suite.name}: manifests", suite.errors, totals)


def _broken(
    root: ElementTree.Element, name: str, errors: Sequence[str], totals: dict[str, int]
) -> None:
    count = str(len(errors))
    element = ElementTree.SubElement(root, "testsuite", name=name, tests=count, errors=count)
    for error in errors:
        item = ElementTree.SubElement(element, "testcase", classname=name, name=_xml(error))
        ElementTree.SubElement(item, "error", message=_xml(error))
    totals["tests"] += len(errors)
    totals["errors"] += len(errors)


def case_lines(case: CaseResult) -> Iterator[str]:
    """Yield the first flows of a case that failed, in words, and how many more there are."""
    for check in case.failures[:SHOWN]:
        yield from failure_lines(check)
    more = len(case.failures) - SHOWN
    if more > 0:
        yield f"and {more} more flows of this case"


def _text(case: CaseResult) -> str:
    return "\n".join([f"{case.file}:{case.line}", *case_lines(case)])


def _xml(text: str) -> str:
    """Return text without the characters that XML cannot hold."""
    return "".join(c for c in text if c in "\t\n" or c.isprintable())


def tap(one: Report) -> str:
    """Return TAP version 14: a line for each case, and for each thing that could not be read."""
    lines: list[str] = []
    for suite in one.suites:
        for case in suite.cases:
            word = "ok" if case.passed else "not ok"
            lines.append(f"{word} {len(lines) + 1} - {_plain(f'{suite.name}: {case.name}')}")
            if not case.passed:
                diagnosis = "\n".join(f"    {line}" for line in _text(case).splitlines())
                lines[-1] += f"\n  ---\n  message: |\n{diagnosis}\n  ..."
    for error in (*one.errors, *(text for suite in one.suites for text in suite.errors)):
        lines.append(f"not ok {len(lines) + 1} - {_plain(error)}")
    return "\n".join(["TAP version 14", f"1..{len(lines)}", *lines]) + "\n"


def _plain(text: str) -> str:
    """Return a description that TAP does not take for a directive."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("#", "\\#")


def schema() -> dict[str, Any]:
    """Return the JSON schema of the report."""
    found = msgspec.json.schema(Report, ref_template="#/$defs/{name}")
    for part in found["$defs"].values():
        if "description" in part:
            part["description"] = " ".join(part["description"].split())
        if "properties" in part:
            part["additionalProperties"] = False
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {**head, "title": "fimbria policy test -o json", **found}
