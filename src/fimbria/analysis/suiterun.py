"""Runs suites: each case's flows through the engine, and what is not as expected.

Suite ─► world, engine ─► each flow: Result ─► Check ─► CaseResult ─► SuiteResult
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from fimbria.analysis.collect import Collector
from fimbria.analysis.coverage import Deciders
from fimbria.analysis.engine import Engine
from fimbria.analysis.flows import Flow, FlowError
from fimbria.analysis.needed import needed, where
from fimbria.analysis.results import Because, Half, Outcome, Result
from fimbria.analysis.suiteread import resources

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fimbria.analysis.coverage import Coverage, Decision, Part
    from fimbria.analysis.suite import Expected, RuleWanted, Suite


CURES = 5
"""Cases of a suite that get a change which would mend them; finding one compares whole worlds."""


class Check(msgspec.Struct, frozen=True):
    """A flow that is not what was expected. `result` is None if it could not be judged.

    `reasons` say what each half did, `needed` what would have to change; the first flow of
    the first cases that fail has the smallest change of policies there, which was tried.
    """

    source: str
    destination: str
    protocol: str
    port: int
    expected: Outcome
    problem: str
    result: Result | None = None
    reasons: tuple[str, ...] = ()
    needed: tuple[str, ...] = ()


class CaseResult(msgspec.Struct, frozen=True):
    """A case: how many flows it asked, and what went wrong; `broken` if one had no answer."""

    name: str
    file: str
    line: int
    flows: int
    failures: tuple[Check, ...] = ()
    broken: bool = False

    @property
    def passed(self) -> bool:
        """Return whether every flow became what was expected."""
        return not self.failures


class SuiteResult(msgspec.Struct, frozen=True):
    """A suite: its cases in order, and what could not be read (with file and line)."""

    name: str
    file: str
    cases: tuple[CaseResult, ...]
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class SuiteRun:
    """A suite with its world compiled, ready to be asked case by case."""

    def __init__(self, suite: Suite, coverage: Coverage | None = None) -> None:
        self.suite = suite
        options = suite.options
        collector = Collector(
            cluster=options.cluster_name,
            labels=options.labels,
            node_labels=options.enable_node_selector_labels,
        )
        for one in resources(suite):
            collector.take(one)
        self.world = collector.world()
        firewall = options.enable_host_firewall
        modes = options.policy_cidr_match_mode
        self._engine = Engine(self.world, options.enable_policy, modes, host_firewall=firewall)
        self._deciders = Deciders(self._engine)
        self._coverage = coverage
        self._cures = 0
        if coverage is not None:
            coverage.add(self.world, host=firewall)

    def results(self) -> Iterator[CaseResult]:
        """Yield each case's result as it is found."""
        for case in self.suite.cases:
            checks = tuple(one for flow in case.flows if (one := self._check(case, flow)))
            if checks and self._cures < CURES:
                self._cures += 1
                checks = (self._cured(checks[0]), *checks[1:])
            broken = any(one.result is None for one in checks)
            yield CaseResult(case.name, self.suite.file, case.line, len(case.flows), checks, broken)

    def finish(self) -> SuiteResult:
        """Run all cases and return the suite's result."""
        return self.whole(list(self.results()))

    def whole(self, cases: Sequence[CaseResult]) -> SuiteResult:
        """Return the suite's result, given its cases'."""
        return SuiteResult(
            self.suite.name,
            self.suite.file,
            tuple(cases),
            tuple(map(str, self.world.errors)),
            (*map(str, self.world.warnings), *self._engine.problems),
        )

    def _cured(self, check: Check) -> Check:
        """Return a check with the smallest change of policies that would make it pass."""
        if check.result is None or check.result.verdict is check.expected:
            return check
        if Outcome.REDIRECTED in (check.result.verdict, check.expected):
            return check
        # Here, because it needs numpy, which takes its time to load.
        from fimbria.analysis.additions import NoAddition, smallest
        from fimbria.analysis.explain_path import addition_lines

        flow = Flow(check.source, check.destination, check.protocol, check.port)
        try:
            change = tuple(addition_lines(self.world, smallest(self._engine, flow)))
        except NoAddition as error:
            change = (f"no policy can change it: {error}",)
        return msgspec.structs.replace(check, needed=(*check.needed, *change))

    def _check(self, case: Expected, flow: Flow) -> Check | None:
        asked = flow.source, flow.destination, flow.protocol, flow.port, case.outcome
        try:
            result = self._engine.eval(flow)
            decisions: list[Decision] = []
            if self._coverage is not None or case.rule is not None:
                decisions = self._deciders.of(flow)
        except FlowError as error:
            return Check(*asked, str(error))
        if self._coverage is not None:
            self._coverage.hit(self.world, decisions)
        reasons = tuple(
            f"{name}: {half_text(half)}"
            for name, half in (("egress", result.egress), ("ingress", result.ingress))
        )
        if result.verdict is not case.outcome:
            problem = f"expected {case.outcome}, is {result.verdict}"
            lines = needed(self._engine, self._deciders, flow, result, case.outcome)
            return Check(*asked, problem, result, reasons, tuple(lines))
        if case.rule is not None:
            parts = list(_deciding(decisions, result))
            if not any(_is(case.rule, part) for part in parts):
                said = ", ".join(map(str, parts)) or "no rule"
                problem = f"{result.verdict} as expected, but not by {case.rule.text}: by {said}"
                return Check(*asked, problem, result, reasons)
        return None


def half_text(half: Half) -> str:
    """Return a half in one line: verdict, reason, and what decided where."""
    said = where(half)
    if half.reason in (Because.NOT_SELECTED, Because.NO_POLICY) or not said:
        return f"{half.verdict} ({half.reason})"
    return f"{half.verdict} ({half.reason}) by {said}"


def _deciding(decisions: Sequence[Decision], result: Result) -> Iterator[Part]:
    """Yield the parts that a result is due to: those that deny, if it is denied."""
    denied = result.verdict is Outcome.DENIED
    for one in decisions:
        if one.denied is denied:
            yield from one.parts


def _is(wanted: RuleWanted, part: Part) -> bool:
    """Return whether a part is in the rule that is wanted."""
    key, path = part.policy, wanted.path
    return (
        wanted.kind in ("", key.kind)
        and wanted.namespace in ("", key.namespace)
        and wanted.name == key.name
        and (not path or part.path == path or part.path.startswith((f"{path}.", f"{path}[")))
    )
