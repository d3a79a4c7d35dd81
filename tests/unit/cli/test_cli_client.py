"""The client of the agent's socket: what it says when something is wrong."""

from __future__ import annotations

import json

import pytest

from fimbria.cli.client import AgentClient, AgentError
from fimbria.cli.errors import CliError


def test_unreachable_says_what_to_do(run, tmp_path) -> None:
    """Without an agent: one line with the path and two ways on, exit code 1."""
    result = run("--socket", str(tmp_path / "none.sock"), "status")
    assert result.exit_code == 1
    assert len(result.output.splitlines()) == 1
    for part in ("none.sock", "--socket", "--lab"):
        assert part in result.output


def test_dead_agent(run, agent) -> None:
    """A socket whose agent is gone is told from one that never was."""
    agent.stop()
    result = run("--socket", agent.path, "status")
    assert result.exit_code == 1
    assert "is gone" in result.output


def test_error_document(agent) -> None:
    """The agent's error names field and hint on one line."""
    agent.give("/v1/x", {"error": "not a pod", "field": "src.pod", "hint": "see list"}, 400)
    with pytest.raises(AgentError) as caught:
        AgentClient(agent.path).get("/v1/x")
    assert caught.value.status == 400
    assert caught.value.format_message() == "src.pod: not a pod: see list"


def test_error_that_is_no_document(agent) -> None:
    """Text instead of an error document is passed on."""
    agent.answers["/v1/x"] = (500, b"internal\nerror")
    with pytest.raises(AgentError, match="internal"):
        AgentClient(agent.path).get("/v1/x")


def test_answer_that_is_no_json(agent) -> None:
    """A broken answer is named with the path that gave it."""
    agent.answers["/v1/x"] = (200, b"<html>")
    with pytest.raises(CliError, match="/v1/x is not JSON"):
        AgentClient(agent.path).get("/v1/x")


def test_post_sends_json(agent) -> None:
    """A body goes out as JSON."""
    agent.give("/v1/x", {"ok": True})
    assert AgentClient(agent.path).post("/v1/x", {"a": [1]}) == {"ok": True}
    assert agent.requests == [("POST /v1/x", {"a": [1]})]


def test_lines(agent) -> None:
    """A stream is read line by line; blank lines are heartbeats."""
    agent.answers["/v1/monitor?last=2"] = (200, b'{"n": 1}\n\n{"n": 2}\n')
    lines = list(AgentClient(agent.path).lines("/v1/monitor", {"last": 2}))
    assert lines == [{"n": 1}, {"n": 2}]


def test_environment_names_the_socket(run, agent, monkeypatch) -> None:
    """CILIUM_SOCK is used where no option is given."""
    agent.give("/v1/identity", [])
    monkeypatch.setenv("CILIUM_SOCK", agent.path)
    result = run("identity", "list", "-o", "json")
    assert json.loads(result.output) == []


def test_answer_that_breaks_off(run, agent) -> None:
    """An agent that dies while it answers is one line, in a document as in a stream."""
    for path, words in {
        "/v1/policy": ["policy", "wait"],
        "/v1/monitor?last=4096&follow=0": ["monitor", "--last", "3"],
    }.items():
        for body in (b"", b'{"revision": ', b'{"n": 1}\n{"n'):
            if path != "/v1/policy" and not body:
                continue
            agent.answers[path] = (200, body)
            result = run("--socket", agent.path, *words)
            assert result.exit_code == 1, (words, body)
            assert "is not JSON" in result.output


def test_no_answer_in_time(run, agent) -> None:
    """Waiting for a revision that does not come says what is missing, not that the agent is."""
    agent.late = {"/v1/policy/wait?revision=9"}
    result = run("--socket", agent.path, "policy", "wait", "9", "--max-wait-time", "0.05")
    assert result.exit_code == 1
    assert "revision 9 is not enforced on every endpoint after 0.05 s" in result.output
