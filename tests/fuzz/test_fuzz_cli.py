"""Whatever stands on the command line, and whatever the agent answers: output, or one line.

A traceback is never an answer. What was once one is in corpus/cli: words and the agent's answer.
"""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from fimbria.cli.client import AgentClient
from fimbria.cli.main import root

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result

CORPUS = sorted((Path(__file__).parent / "corpus" / "cli").glob("*.json"))
TRACE = ["policy", "trace", "--src", "a", "--dst", "b"]
COMMANDS = [
    ["status"], ["status", "--brief"], ["endpoint", "list"], ["endpoint", "get", "7"],
    ["identity", "list"], ["identity", "get", "7"], ["ip", "list"], ["node", "list"],
    ["policy", "get"], ["policy", "get", "a/b"], ["policy", "list"], ["policy", "selectors"],
    ["policy", "wait"], ["policy", "wait", "3"], TRACE, ["map", "list"], ["map", "get", "x"],
    ["config", "get"], ["config", "get", "mtu"], ["monitor", "--last", "3"],
    ["monitor", "--last", "3", "-v"], ["monitor", "-t", "drop", "--from", "2"],
]  # fmt: skip
NAMES = [
    "id", "identity", "labels", "state", "status", "policy", "ingress", "egress", "enforcing",
    "networking", "addressing", "ipv4", "ipv6", "revision", "policies", "name", "namespace",
    "rules", "reason", "kind", "spec", "selector", "users", "identities", "text", "cidr",
    "source", "requested", "effective", "controllers", "type", "subtype", "saddr", "daddr",
    "sport", "dport", "verdict", "rule", "time", "flags", "refcount", "error", "hint", "field",
    "maps", "entries", "key", "value"
]  # fmt: skip

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
    | st.sampled_from([*NAMES, "10.0.0.1", "fd00::1"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=6), inner, max_size=6),
    max_leaves=15,
)  # fmt: skip
answers = json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=60)
words = st.lists(
    st.sampled_from([*NAMES, "list", "get", "-o", "json", "yaml", "--last", "-1", "--dport", "-v",
                     "80/TCP", "99999", "--src", "--to", "--type", "drop", "--", "-h", "../x"])
    | st.text(max_size=6),
    max_size=5,
)  # fmt: skip


@pytest.fixture(scope="module")
def agent() -> Iterator[list[bytes]]:
    """An agent whose answer to everything is the one element of the list."""
    said = [b"null"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AgentClient, "_open", lambda *_: BytesIO(said[0]))
        yield said


def run(arguments: list[str]) -> Result:
    """Run the command line; what ends it is an exit, and an error says something."""
    result = CliRunner().invoke(root, arguments, prog_name="fimbria")
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.exit_code in (0, 1, 2)
    if result.exit_code:
        assert result.output.strip()
    return result


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(COMMANDS), st.sampled_from(["table", "json", "yaml"]), answers)
def test_any_answer(agent: list[bytes], command: list[str], form: str, answer: bytes) -> None:
    """An agent of another version, or a broken one, may answer anything."""
    agent[0] = answer
    run([*command, "-o", form])


@settings(deadline=None)
@given(st.sampled_from(COMMANDS), words)
def test_any_arguments(agent: list[bytes], command: list[str], more: list[str]) -> None:
    """Arguments are taken, or refused by name with exit code 2."""
    agent[0] = b"{}"
    run([*command, *more])


@given(words)
def test_any_words(more: list[str]) -> None:
    """What is no command is refused; a group alone says what there is."""
    for group in ([], ["bpf"], ["policy"], ["connectivity"]):
        result = CliRunner().invoke(root, [*group, "not-there", "--", *more], prog_name="fimbria")
        assert result.exit_code == 2
        assert "not-there" in result.output


@settings(deadline=None)
@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_manifest_to_validate(text: bytes) -> None:
    """Any bytes on standard input are policies, or an error with the line."""
    result = CliRunner().invoke(root, ["policy", "validate", "-"], input=text)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    assert result.output.strip()


@pytest.mark.parametrize("case", CORPUS, ids=lambda path: path.stem)
def test_found_cases(agent: list[bytes], case: Path) -> None:
    """What once ended in a traceback ends in one line, exit code 1."""
    found = json.loads(case.read_text())
    agent[0] = json.dumps(found["answer"]).encode()
    result = run(found["words"])
    assert result.exit_code == 1
    assert len(result.output.strip().splitlines()) == 1
