"""Tell what a run found: lines as it goes, a summary, JSON, JUnit."""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.etree import ElementTree

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.connectivity.model import Document
    from fimbria.connectivity.runner import ScenarioResult


def line(result: ScenarioResult, explain: Callable[[Document], Sequence[str]]) -> str:
    """Return what is printed when a scenario ends; `explain` turns an event into lines."""
    name, count = result.scenario.name, len(result.outcomes)
    if not count:
        return f"⏭️  {name}: needs a second node"
    if not result.failures:
        return f"✅ {name}: {result.scenario.claim} ({count} actions, {result.seconds:.1f} s)"
    lines = [
        f"❌ {name}: {result.scenario.claim} ({len(result.failures)} of {count} actions failed)"
    ]
    for outcome in result.failures:
        lines.append(f"   {outcome.action}: {outcome.problem}")
        for event in outcome.events:
            lines += [f"      {text}" for text in explain(event)]
    return "\n".join(lines)


def summary(results: Sequence[ScenarioResult], skipped: int) -> str:
    """Return the last line; `skipped` tests were not selected."""
    run = [one for one in results if one.outcomes]
    empty = len(results) - len(run)
    actions = sum(len(one.outcomes) for one in run)
    failed = [one for one in run if one.failures]
    rest = f"{skipped} tests skipped, {empty} scenarios skipped."
    if failed:
        wrong = sum(len(one.failures) for one in failed)
        names = ", ".join(one.scenario.name for one in failed)
        return (
            f"❌ {len(failed)}/{len(run)} tests failed ({wrong}/{actions} actions), {rest}\n"
            f"   Failed: {names}"
        )
    return f"✅ All {len(run)} tests ({actions} actions) successful, {rest}"


def document(results: Sequence[ScenarioResult]) -> Document:
    """Return a run as a JSON document."""
    return {
        "tests": [
            {
                "name": one.scenario.name,
                "claim": one.scenario.claim,
                "result": _result(one),
                "seconds": round(one.seconds, 3),
                "actions": [
                    {
                        "action": str(outcome.action),
                        "expected": str(outcome.action.expect),
                        "result": outcome.result,
                        "problem": outcome.problem or None,
                        "events": list(outcome.events),
                    }
                    for outcome in one.outcomes
                ],
            }
            for one in results
        ],
        "ok": not any(one.failures for one in results),
    }


def junit(results: Sequence[ScenarioResult]) -> str:
    """Return a run as a JUnit XML document."""
    suite = ElementTree.Element(
        "testsuite",
        name="connectivity",
        tests=str(len(results)),
        failures=str(sum(bool(one.failures) for one in results)),
        skipped=str(sum(not one.outcomes for one in results)),
    )
    for one in results:
        case = ElementTree.SubElement(
            suite,
            "testcase",
            classname="connectivity",
            name=one.scenario.name,
            time=f"{one.seconds:.3f}",
        )
        if not one.outcomes:
            ElementTree.SubElement(case, "skipped", message="needs a second node")
        elif one.failures:
            failure = ElementTree.SubElement(
                case, "failure", message=f"{len(one.failures)} actions failed"
            )
            failure.text = "\n".join(f"{out.action}: {out.problem}" for out in one.failures)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _result(one: ScenarioResult) -> str:
    if not one.outcomes:
        return "skipped"
    return "failed" if one.failures else "ok"
