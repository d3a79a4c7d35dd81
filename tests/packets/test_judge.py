"""The policy lookup alone, through the batch that property tests use (bpf/tests/judge.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from bench.testnode import EGRESS, INGRESS, Node
from fimbria.analysis.kernel import KernelJudge
from fimbria.datapath.abi import (
    PolicyEntry,
    PolicyEntryFlags,
    PolicyFlags,
    PolicyKey,
    PolicyMatch,
    PolicyPrecedence,
    PolicyShape,
    RuleIds,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

OPEN = INGRESS | PolicyFlags.INGRESS_OPEN


class Judge:
    """judge_policy on a node's maps."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._kernel = KernelJudge(node.load("tests/judge", plain=True))

    def ask(
        self, *peers: tuple[int, int], policy: int = 3, protocol: int = 6, egress: int = 0,
        cidr: int = 0,
    ) -> list[Any]:  # fmt: skip
        """One answer per (identity, port)."""
        return list(
            self._kernel.ask(
                [(policy, identity, cidr, port, protocol, egress) for identity, port in peers]
            )
        )

    def verdicts(self, *peers: tuple[int, int], **asked: int) -> list[tuple[int, int]]:
        """(verdict, rule) per (identity, port)."""
        return [(int(a["verdict"]), int(a["rule"])) for a in self.ask(*peers, **asked)]


@pytest.fixture
def judge() -> Iterator[Judge]:
    node = Node()
    yield Judge(node)
    node.close()


def allow(rule: int, precedence: int = PolicyPrecedence.ALLOW) -> PolicyEntry:
    return PolicyEntry(rule_id=rule, precedence=precedence)


def deny(rule: int, precedence: int = PolicyPrecedence.DENY) -> PolicyEntry:
    return PolicyEntry(rule_id=rule, flags=PolicyEntryFlags.DENY, precedence=precedence)


def go_on(rule: int, precedence: int) -> PolicyEntry:
    return PolicyEntry(rule_id=rule, flags=PolicyEntryFlags.PASS, precedence=precedence)


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
    answers = judge.ask((7, 80), (7, 87), (7, 88)) + judge.ask((7, 80), protocol=17)
    assert [(a["verdict"], a["rule"], a["shape"]) for a in answers] == [
        (0, 20, 17),
        (0, 21, 14),
        (0, 22, 1),
        (0, 23, 0),
    ]
    assert [a["match"] for a in answers] == [
        PolicyMatch.L3_L4,
        PolicyMatch.L3_L4,
        PolicyMatch.L3_PROTO,
        PolicyMatch.L3_ONLY,
    ]
    (other,) = judge.ask((8, 80))
    assert (other["verdict"], other["rule"], other["match"], other["enforced"]) == (-133, 0, 0, 1)


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
    assert judge.verdicts(*asked, egress=1) == [
        (0, 21),
        (0, 22),
        (-181, 23),
        (0, 21),
        (-181, 25),
        (-181, 26),
        (0, 20),
    ]
    assert judge.ask((7, 80), egress=1)[0]["match"] == PolicyMatch.L4_ONLY


def test_redirect(judge: Judge) -> None:
    """A redirect beats a longer allow of another side and yields to a deny; it names its port."""
    to_proxy = PolicyEntry(20, proxy_port=10_080, precedence=PolicyPrecedence.REDIRECT)
    judge.node.policy(
        3,
        INGRESS,
        {
            PolicyKey(0, 0, 6, PolicyShape.PROTO): to_proxy,
            PolicyKey(7, 80, 6, PolicyShape.PORT): allow(21),
            PolicyKey(8, 0, 0, PolicyShape.ANY): deny(22),
        },
    )
    redirected, denied = judge.ask((7, 80), (8, 80))
    assert (redirected["verdict"], redirected["rule"]) == (0, 20)
    assert redirected["proxy_port"] == 10_080
    assert (denied["verdict"], denied["rule"], denied["proxy_port"]) == (-181, 22, 0)


def test_cidr_side(judge: Judge) -> None:
    """The prefix of a peer's address is a side of its own, between the peer's and anyone's."""
    prefix = 0x01000001
    judge.node.policy(
        3,
        INGRESS,
        {
            PolicyKey(prefix, 0, 6, PolicyShape.PROTO): allow(20),
            PolicyKey(prefix, 81, 6, PolicyShape.PORT): allow(21),
            PolicyKey(0, 80, 6, PolicyShape.PORT): allow(22),
            PolicyKey(0, 81, 6, PolicyShape.PORT): allow(23),
            PolicyKey(7, 0, 6, PolicyShape.PROTO): allow(24),
            PolicyKey(prefix, 82, 6, PolicyShape.PORT): deny(25),
        },
    )
    asked = [(6, 79), (6, 80), (6, 81), (7, 79), (7, 81), (7, 82)]
    assert judge.verdicts(*asked, cidr=prefix) == [
        (0, 20),
        (0, 22),
        (0, 21),
        (0, 24),
        (0, 21),
        (-181, 25),
    ]
    assert judge.verdicts((6, 79)) == [(-133, 0)]
    assert judge.ask((6, 79), cidr=prefix)[0]["match"] == PolicyMatch.L3_PROTO


def test_ranks_of_an_ordered_tier(judge: Judge) -> None:
    """Where rules are asked in order, the first of them decides, however short its key."""
    judge.node.policy(
        3,
        INGRESS,
        {
            PolicyKey(0, 0, 0, PolicyShape.ANY): deny(20, 0x10000),
            PolicyKey(7, 80, 6, PolicyShape.PORT): allow(21, 0xFFFF),
            PolicyKey(8, 80, 6, PolicyShape.PORT): allow(22, 0xFFFFFFFF),
        },
    )
    assert judge.verdicts((7, 80), (8, 80)) == [(-181, 20), (0, 22)]


def test_tiers(judge: Judge) -> None:
    """A miss of an open tier and a PASS go on; a decision does not; the last one's miss allows."""
    admin = {
        PolicyKey(7, 80, 6, PolicyShape.PORT): deny(20, 9),
        PolicyKey(8, 0, 0, PolicyShape.ANY): allow(21, 8),
        PolicyKey(9, 0, 0, PolicyShape.ANY): go_on(22, 7),
        PolicyKey(0, 90, 6, PolicyShape.PORT): deny(23, 6),
    }
    normal = {PolicyKey(7, 0, 0, PolicyShape.ANY): allow(30)}
    baseline = {PolicyKey(0, 0, 0, PolicyShape.ANY): deny(40, 1)}
    judge.node.policy(5, OPEN, baseline)
    judge.node.policy(4, INGRESS, normal, next_id=5)
    judge.node.policy(3, OPEN, admin, next_id=4)
    asked = [(7, 80), (7, 81), (8, 90), (9, 90), (9, 81), (10, 90)]
    assert judge.verdicts(*asked) == [
        (-181, 20),
        (0, 30),
        (0, 21),
        (-133, 0),
        (-133, 0),
        (-181, 23),
    ]
    assert [a["tier"] for a in judge.ask(*asked)] == [3, 4, 3, 4, 4, 3]
    judge.node.policy(4, OPEN, normal, next_id=5)
    assert judge.verdicts((7, 81), (9, 90), (10, 81)) == [(0, 30), (-181, 40), (-181, 40)]
    judge.node.policy(5, OPEN, {})
    (last,) = judge.ask((10, 81))
    assert (last["verdict"], last["rule"], last["match"], last["enforced"], last["tier"]) == (
        0,
        RuleIds.ALLOW_ALL,
        PolicyMatch.ALL,
        1,
        5,
    )


def test_tier_that_says_nothing_about_a_direction(judge: Judge) -> None:
    """A direction that a tier does not enforce is the next one's, and nobody's after the last."""
    judge.node.policy(5, INGRESS, {})
    judge.node.policy(4, EGRESS, {}, next_id=5)
    judge.node.policy(3, EGRESS | PolicyFlags.EGRESS_OPEN, {}, next_id=4)
    assert judge.verdicts((7, 80)) == [(-133, 0)]
    judge.node.policy(5, EGRESS, {})
    (answer,) = judge.ask((7, 80))
    assert (answer["verdict"], answer["rule"], answer["enforced"]) == (0, 0, 0)
    assert judge.verdicts((7, 80), egress=1) == [(-133, 0)]


def test_a_chain_without_end_is_closed(judge: Judge) -> None:
    """Three tiers are asked; a fourth, or a circle, drops instead of letting pass."""
    judge.node.policy(3, OPEN, {}, next_id=3)
    assert judge.verdicts((7, 80)) == [(-133, 0)]


def test_direction_that_is_not_enforced(judge: Judge) -> None:
    """A direction that the policy says nothing about is allowed, by no rule."""
    judge.node.policy(3, EGRESS)
    (ingress,), (egress,) = judge.ask((7, 80)), judge.ask((7, 80), egress=1)
    assert [int(ingress[name]) for name in ("verdict", "rule", "match", "enforced")] == [0] * 4
    assert egress["verdict"] == -133


def test_full_batch(judge: Judge) -> None:
    """More questions than one run takes, each answered on its own."""
    judge.node.policy(3, INGRESS, {PolicyKey(0, p, 6, 17): allow(p) for p in range(100, 356)})
    answers = judge.ask(*((1, p) for p in range(600)))
    assert [a["rule"] for a in answers] == [p if 100 <= p < 356 else 0 for p in range(600)]
