"""Judging: an answer must be expected, a silence must be explained by the right drop event."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from fimbria.connectivity import report
from fimbria.connectivity.cluster import Spot
from fimbria.connectivity.model import (
    ALLOW,
    EGRESS_DENIED,
    INGRESS_DENIED,
    INGRESS_DENY_RULE,
    Action,
    Expect,
    Probe,
)
from fimbria.connectivity.runner import ScenarioResult, new_events
from fimbria.connectivity.suite import SUITE
from fimbria.connectivity.verdicts import judge

SPOTS = {
    "client": Spot("client", "node1", ("10.0.0.1", "fd00::1"), "t", "client"),
    "echo": Spot("echo", "node2", ("10.0.1.1", "fd00::2"), "t", "echo"),
    "host": Spot("host", "node1", ("172.18.0.2",)),
}
DROP = {
    "type": "drop",
    "reason_number": 133,
    "direction": "ingress",
    "saddr": "10.0.0.1",
    "daddr": "10.0.1.1",
    "dport": 8080,
    "protocol": 6,
}


def action(expect: Expect, source: str = "client", kind: str = "tcp", family: int = 4) -> Action:
    return Action(source, "echo", Probe(kind, 0 if kind == "icmp" else 8080), family, expect)


def problem(one: Action, result: str, *events: dict, **more: object) -> str:
    return judge(one, {"result": result, **more}, SPOTS, events).problem


def test_expected_answer() -> None:
    """An answer that was expected is right, also when nobody listened."""
    assert problem(action(ALLOW), "reached", saw="10.0.0.1") == ""
    assert problem(action(ALLOW), "refused") == ""


def test_missing_answer() -> None:
    """Silence where an answer was expected is a failure, shown with the drops that explain it."""
    outcome = judge(action(ALLOW), {"result": "timeout"}, SPOTS, [DROP])
    assert "expected an answer" in outcome.problem
    assert outcome.events == (DROP,)


def test_source_address_is_kept() -> None:
    """Between pods the receiver sees the sender's own address."""
    assert "saw 172.18.0.2" in problem(action(ALLOW), "reached", saw="172.18.0.2")
    assert problem(action(ALLOW, "host"), "reached", saw="10.0.0.77") == ""


def test_answer_that_policy_forbids() -> None:
    """An answer where none was allowed is a failure."""
    assert "but it was answered" in problem(action(INGRESS_DENIED), "refused", DROP)


def test_explained_silence() -> None:
    """Silence with the right event is right."""
    assert problem(action(INGRESS_DENIED), "timeout", DROP) == ""
    v6 = {**DROP, "saddr": "fd00::1", "daddr": "fd00::2", "protocol": 58, "dport": 0x8000}
    assert problem(action(INGRESS_DENIED, kind="icmp", family=6), "timeout", v6) == ""
    host = {**DROP, "saddr": "10.0.0.77"}
    assert problem(action(INGRESS_DENIED, "host"), "timeout", host) == ""


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "trace"},
        {"dport": 8081},
        {"protocol": 17},
        {"saddr": "10.0.0.9"},
        {"daddr": "10.0.1.9"},
        {"direction": "egress"},
        {"reason_number": 181},
    ],
)
def test_unexplained_silence(wrong) -> None:
    """Silence without the right event is a failure: something else lost the packet."""
    assert "no event" in problem(action(INGRESS_DENIED), "timeout", {**DROP, **wrong})


def test_reason_and_end_matter() -> None:
    """A deny rule is not a default deny, egress is not ingress."""
    assert "deny rule at ingress" in problem(action(INGRESS_DENY_RULE), "timeout", DROP)
    assert "at egress" in problem(action(EGRESS_DENIED), "timeout", DROP)


def test_only_new_events_count() -> None:
    """What an agent reported before the step explains nothing in it."""
    old, new = {"time": 1, **DROP}, {"time": 2, **DROP}
    assert new_events([[old], []], [[old, new], [old]]) == [new, old]


def results(problem: str) -> list[ScenarioResult]:
    outcome = judge(action(ALLOW), {"result": problem}, SPOTS, [DROP])
    return [ScenarioResult(SUITE[0], [outcome, outcome]), ScenarioResult(SUITE[1])]


def test_summary() -> None:
    """The last line says how many tests and actions there were."""
    assert report.summary(results("reached"), 3) == (
        "✅ All 1 tests (2 actions) successful, 3 tests skipped, 1 scenarios skipped."
    )
    assert report.summary(results("timeout"), 0).splitlines() == [
        "❌ 1/1 tests failed (2/2 actions), 0 tests skipped, 1 scenarios skipped.",
        f"   Failed: {SUITE[0].name}",
    ]


def test_lines() -> None:
    """Each scenario has a line; a failure shows action, problem and the events."""
    good, skipped = results("reached")
    assert report.line(good, lambda event: []).startswith(f"✅ {SUITE[0].name}: ")
    assert "needs a second node" in report.line(skipped, lambda event: [])
    bad = report.line(results("timeout")[0], lambda event: ["xx drop"]).splitlines()
    assert bad[0].startswith("❌")
    assert bad[1] == "   client -> echo 8080/tcp IPv4: expected an answer, got timeout"
    assert bad[2] == "      xx drop"


def test_documents() -> None:
    """JSON says ok or not; JUnit counts failures and skips."""
    assert report.document(results("reached"))["ok"]
    assert not report.document(results("timeout"))["ok"]
    suite = ElementTree.fromstring(report.junit(results("timeout")))
    counted = {key: suite.get(key) for key in ("tests", "failures", "skipped")}
    assert counted == {"tests": "2", "failures": "1", "skipped": "1"}
