"""Policy on a packet's way: verdicts, their events, modes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.frames import tcp
from bench.testnode import (
    EGRESS,
    INGRESS,
    REDIRECT,
    REMOTE4,
    REMOTE_ID,
    A,
    Addresses,
    B,
    Node,
    mapped,
)
from fimbria.datapath import abi
from fimbria.datapath.abi import DropReason, EventType, PolicyEntry, PolicyKey

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.root


def ports(identity: int, port: int, *, egress: bool, protocol: int = 6) -> PolicyKey:
    """The key of a rule for one port."""
    shape = abi.PolicyShape.PORT | (abi.PolicyShape.EGRESS if egress else 0)
    return PolicyKey(identity, port, protocol, shape)


def only(entries: Iterable[abi.CtEntry]) -> abi.CtEntry:
    (entry,) = entries
    return entry


def test_policy_drop_says_why(node: Node, at: Addresses) -> None:
    """A drop by policy names reason, identities, endpoint, direction and policy in its event."""
    node.policy(3, EGRESS)
    node.assign(A, 3)
    out = node.run("from_container", tcp(at.own, at.remote, pod=A), A.device)
    (event,) = out.events
    assert (event.type, event.subtype) == (EventType.DROP, DropReason.POLICY)
    assert (event.source, event.direction) == (A.lxc_id, abi.Direction.EGRESS)
    assert (event.src_label, event.dst_label) == (A.identity, REMOTE_ID)
    assert (event.policy_id, event.rule) == (3, abi.RuleIds.NONE)
    assert (event.saddr, event.daddr) == (mapped(at.own), mapped(at.remote))
    assert (event.sport, event.dport, event.protocol) == (4000, 80, 6)
    assert bool(event.flags & abi.EventFlags.IPV6) == (":" in at.own)
    assert event.file == abi.SourceFile.POLICY
    assert event.line
    assert node.metric(DropReason.POLICY, abi.Direction.EGRESS) == 1
    assert not node.entries()


def test_receivers_policy_is_judged_on_the_way(node: Node, at: Addresses) -> None:
    """A node-local flow needs the receiver's ingress policy too; its drop is the receiver's."""
    node.policy(3, INGRESS, {ports(A.identity, 80, egress=False): PolicyEntry(rule_id=20)})
    node.assign(B, 3)
    out = node.run("from_container", tcp(at.own, at.local, dport=81, pod=A), A.device)
    (event,) = out.events
    assert event.subtype == DropReason.POLICY
    assert (event.source, event.direction) == (B.lxc_id, abi.Direction.INGRESS)
    assert node.metric(DropReason.POLICY, abi.Direction.INGRESS) == 1
    out = node.run("from_container", tcp(at.own, at.local, dport=80, pod=A), A.device)
    assert out.verdict == REDIRECT
    verdict = next(e for e in out.events if e.type == EventType.POLICY_VERDICT)
    assert (verdict.rule, verdict.source, verdict.direction) == (
        20,
        B.lxc_id,
        abi.Direction.INGRESS,
    )
    assert verdict.match == abi.PolicyMatch.L3_L4
    assert only(node.entries().values()).rule_ingress == 20


def test_deny_wins(node: Node, at: Addresses) -> None:
    """A deny drops as 181 and names its rule, whatever allows beside it."""
    node.policy(
        3,
        EGRESS,
        {
            ports(REMOTE_ID, 80, egress=True): PolicyEntry(rule_id=20),
            PolicyKey(0, 0, 0, 0x80): PolicyEntry(rule_id=21, flags=abi.PolicyEntryFlags.DENY),
        },
    )
    node.assign(A, 3)
    out = node.run("from_container", tcp(at.own, at.remote, pod=A), A.device)
    assert out.drop == DropReason.POLICY_DENY
    assert out.events[0].rule == 21


def test_audit_mode_lets_pass_and_says_so(node: Node) -> None:
    """With audit mode a denied flow passes, and its verdict event is marked."""
    node.policy(3, EGRESS)
    node.assign(A, 3, flags=abi.PolicyRefFlags.AUDIT)
    out = node.run("from_container", tcp(A.ip4, REMOTE4, pod=A), A.device)
    assert out.verdict == REDIRECT
    verdict = next(e for e in out.events if e.type == EventType.POLICY_VERDICT)
    assert verdict.flags & abi.EventFlags.AUDITED


def test_locked_endpoint(node: Node) -> None:
    """An endpoint that waits for its first policy neither sends nor receives."""
    node.policy(abi.PolicyIds.LOCKED, EGRESS | INGRESS)
    node.assign(A, abi.PolicyIds.LOCKED)
    assert node.run("from_container", tcp(A.ip4, B.ip4, pod=A), A.device).drop == 133
    assert node.run("from_container", tcp(B.ip4, A.ip4, pod=B), B.device).drop == 133
