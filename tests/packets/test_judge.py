"""The policy lookup alone, through the batch that property tests use (bpf/tests/judge.h)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

import pytest

from bench.testnode import EGRESS, INGRESS, Node
from fimbria.datapath.abi import PolicyEntry, PolicyEntryFlags, PolicyKey, PolicyMatch, PolicyShape
from fimbria.kernel.bpf import run_syscall

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

_QUESTION = struct.Struct("=II2sBB")
_ANSWER = struct.Struct("=iIBBBx")
_SIZE = _QUESTION.size + _ANSWER.size
_MAX = 512


class Answer(NamedTuple):
    verdict: int
    rule: int
    shape: int
    match: int
    enforced: int


class Judge:
    """judge_policy on a node's maps."""

    def __init__(self, node: Node) -> None:
        self.node = node
        loaded = node.load("tests/judge", plain=True)
        self._cases = loaded.maps["judge_cases"]
        self._fd = loaded.programs["judge_policy"].fd

    def ask(self, questions: list[tuple[int, int, int, int, int]]) -> list[Answer]:
        """(policy id, identity, port, protocol, egress) in, answers out."""
        batch = bytearray(8 + _SIZE * _MAX)
        struct.pack_into("=I", batch, 0, len(questions))
        for i, (policy, identity, port, protocol, egress) in enumerate(questions):
            _QUESTION.pack_into(
                batch, 8 + _SIZE * i, policy, identity, port.to_bytes(2, "big"), protocol, egress
            )
        self._cases.put(bytes(4), bytes(batch))
        assert run_syscall(self._fd, bytes(4))[0] == 0
        done = self._cases.get(bytes(4))
        assert done is not None
        at = [8 + _SIZE * i + _QUESTION.size for i in range(len(questions))]
        return [Answer(*_ANSWER.unpack_from(done, offset)) for offset in at]


@pytest.fixture
def judge() -> Iterator[Judge]:
    node = Node()
    yield Judge(node)
    node.close()


def allow(rule: int) -> PolicyEntry:
    return PolicyEntry(rule_id=rule)


def deny(rule: int) -> PolicyEntry:
    return PolicyEntry(rule_id=rule, flags=PolicyEntryFlags.DENY)


def test_longest_shape_first(judge: Judge) -> None:
    """Within a side the longest shape that matches counts; ports are masked to the shape."""
    judge.node.policy(
        3,
        INGRESS,
        {
            PolicyKey(7, 80, 6, PolicyShape.PORT): allow(20),
            PolicyKey(7, 80, 6, 14): allow(21),  # 80-87
            PolicyKey(7, 0, 6, PolicyShape.PROTO): allow(22),
            PolicyKey(7, 0, 0, PolicyShape.ANY): allow(23),
        },
    )
    answers = judge.ask([(3, 7, 80, 6, 0), (3, 7, 87, 6, 0), (3, 7, 88, 6, 0), (3, 7, 80, 17, 0)])
    assert [(a.verdict, a.rule, a.shape) for a in answers] == [
        (0, 20, 17),
        (0, 21, 14),
        (0, 22, 1),
        (0, 23, 0),
    ]
    assert [a.match for a in answers] == [
        PolicyMatch.L3_L4,
        PolicyMatch.L3_L4,
        PolicyMatch.L3_PROTO,
        PolicyMatch.L3_ONLY,
    ]
    (other,) = judge.ask([(3, 8, 80, 6, 0)])
    assert other == Answer(-133, 0, 0, 0, 1)


def test_sides(judge: Judge) -> None:
    """Between the sides the longer shape, at equal length the peer's; a deny on either wins."""
    judge.node.policy(
        3,
        EGRESS,
        {
            PolicyKey(7, 0, 0, 0x80): allow(20),
            PolicyKey(0, 80, 6, 0x80 | 17): allow(21),
            PolicyKey(8, 80, 6, 0x80 | 17): allow(22),
            PolicyKey(9, 80, 6, 0x80 | 17): deny(23),
            PolicyKey(10, 0, 6, 0x80 | 1): allow(24),
            PolicyKey(0, 81, 6, 0x80 | 17): deny(25),
            PolicyKey(9, 81, 6, 0x80 | 17): deny(26),
        },
    )
    asked = [(7, 80), (8, 80), (9, 80), (10, 80), (10, 81), (9, 81), (7, 82)]
    answers = judge.ask([(3, identity, port, 6, 1) for identity, port in asked])
    assert [(a.verdict, a.rule) for a in answers] == [
        (0, 21),
        (0, 22),
        (-181, 23),
        (0, 21),
        (-181, 25),
        (-181, 26),
        (0, 20),
    ]
    assert answers[0].match == PolicyMatch.L4_ONLY


def test_direction_that_is_not_enforced(judge: Judge) -> None:
    """A direction that the policy says nothing about is allowed, by no rule."""
    judge.node.policy(3, EGRESS)
    ingress, egress = judge.ask([(3, 7, 80, 6, 0), (3, 7, 80, 6, 1)])
    assert ingress == Answer(0, 0, 0, 0, 0)
    assert egress.verdict == -133


def test_full_batch(judge: Judge) -> None:
    """512 questions in one run, each answered on its own."""
    judge.node.policy(3, INGRESS, {PolicyKey(0, p, 6, 17): allow(p) for p in range(100, 356)})
    answers = judge.ask([(3, 1, p, 6, 0) for p in range(512)])
    assert [a.rule for a in answers] == [p if 100 <= p < 356 else 0 for p in range(512)]
