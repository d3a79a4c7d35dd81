"""Connections: who may use an entry, when it is judged again, when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.frames import echo, tcp
from bench.testnode import (
    EGRESS,
    INGRESS,
    REDIRECT,
    SHOT,
    A,
    Addresses,
    B,
    Node,
)
from fimbria.datapath import abi
from fimbria.datapath.abi import DropReason, PolicyEntry, PolicyKey

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


def test_riding_anothers_flow(node: Node, at: Addresses) -> None:
    """A pod with another's address cannot use the other's established flow, in either direction."""
    node.run("from_container", tcp(at.own, at.remote, pod=A), A.device)
    node.run("from_container", tcp(at.own, at.remote, "A", pod=A), A.device)
    out = node.run("from_container", tcp(at.own, at.remote, "A", pod=A), B.device)
    assert (out.verdict, out.drop) == (SHOT, DropReason.INVALID_SIP)
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    out = node.run("from_container", tcp(at.local, at.own, "A", sport=80, dport=4000), A.device)
    assert (out.verdict, out.drop) == (SHOT, DropReason.INVALID_SIP)


def test_permission_taken_away_ends_the_flow(node: Node, at: Addresses) -> None:
    """After a revision bump the next packet is judged again, whichever direction it has."""
    allowed = {ports(B.identity, 80, egress=True): PolicyEntry(rule_id=20)}
    for reply_first in (False, True):
        node.policy(3, EGRESS, allowed)
        node.assign(A, 3)
        node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
        node.run(
            "from_container", tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B), B.device
        )
        node.policy(4, EGRESS)
        node.assign(A, 4)
        still = node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device)
        assert still.verdict == REDIRECT, "before the bump the cached verdict holds"
        node.set_revision(7 if reply_first else 5)
        if reply_first:
            reply = tcp(at.local, at.own, "A", sport=80, dport=4000, pod=B)
            out = node.run("from_container", reply, B.device)
        else:
            out = node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device)
        assert (out.verdict, out.drop) == (SHOT, DropReason.POLICY)
        assert out.events[0].source == A.lxc_id
        for _ in range(2):
            late = tcp(at.local, at.own, "A", sport=80, dport=4000, pod=B)
            assert node.run("from_container", late, B.device).drop == DropReason.POLICY
            late = tcp(at.own, at.local, "A", pod=A)
            assert node.run("from_container", late, A.device).drop == DropReason.POLICY
        node.maps["cilium_ct"].delete_many(node.maps["cilium_ct"].items())
        node.set_revision(6)


def test_permission_that_stays_keeps_the_flow(node: Node, at: Addresses) -> None:
    """A bump that changes nothing for a flow costs it one pass, in either direction, no packet."""
    node.policy(3, EGRESS, {ports(B.identity, 80, egress=True): PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    node.set_revision(2)
    reply = tcp(at.local, at.own, "A", sport=80, dport=4000, pod=B)
    assert node.run("from_container", reply, B.device).verdict == REDIRECT
    assert (
        node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device).verdict == REDIRECT
    )
    entry = only(node.entries().values())
    assert [d.revision for d in entry.dir] == [2, 2]


def test_syn_on_a_closed_connection_is_new(node: Node, at: Addresses) -> None:
    """Ports used again after FIN are a new connection: judged, reported as reopened."""
    for flags in ("S", "A", "FA"):
        node.run("from_container", tcp(at.own, at.remote, flags, pod=A), A.device)
    assert only(node.entries().values()).flags & abi.CtFlags.TX_CLOSING
    out = node.run("from_container", tcp(at.own, at.remote, pod=A), A.device)
    assert out.verdict == REDIRECT
    assert out.events[-1].ct_state == abi.CtState.REOPENED
    entry = only(node.entries().values())
    assert not entry.flags & abi.CtFlags.TX_CLOSING
    assert entry.dir[entry.orig].packets == 1


def test_syn_against_a_connection_is_judged(node: Node, at: Addresses) -> None:
    """The side that was connected to cannot connect back over the same ports without permission."""
    node.policy(3, INGRESS)
    node.assign(A, 3)
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    out = node.run("from_container", tcp(at.local, at.own, sport=80, dport=4000, pod=B), B.device)
    assert out.drop == DropReason.POLICY
    assert len(node.entries()) == 1


def test_both_sides_closed_lives_short(node: Node, at: Addresses) -> None:
    """FIN both ways leaves the entry its closing time only; an expired entry counts as absent."""
    segments = [("S", A), ("SA", B), ("A", A), ("FA", A), ("FA", B)]
    for flags, pod in segments:
        source, target = (at.own, at.local) if pod is A else (at.local, at.own)
        sport, dport = (4000, 80) if pod is A else (80, 4000)
        packet = tcp(source, target, flags, sport=sport, dport=dport, pod=pod)
        node.run("from_container", packet, pod.device)
    key, entry = next(iter(node.entries().items()))
    closing = abi.CtFlags.RX_CLOSING | abi.CtFlags.TX_CLOSING
    assert entry.flags & closing == closing
    hertz = node.constants["cfg_hz"]
    assert isinstance(hertz, int)
    assert entry.expires - entry.created <= 11 * hertz
    gone = entry._replace(expires=(entry.created - 10 * hertz) & 0xFFFFFFFF)
    node.maps["cilium_ct"].put(key.pack(), gone.pack())
    out = node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device)
    assert out.events[-1].ct_state == abi.CtState.NEW


def test_echo(node: Node, at: Addresses) -> None:
    """Replies to an allowed ping pass; a ping the other way with the same number is judged."""
    six = ":" in at.own
    protocol, request = (58, 128) if six else (1, 8)
    key = ports(B.identity, request, egress=True, protocol=protocol)
    node.policy(3, EGRESS | INGRESS, {key: PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    assert node.run("from_container", echo(at.own, at.local, pod=A), A.device).verdict == REDIRECT
    reply = echo(at.local, at.own, reply=True, pod=B)
    assert node.run("from_container", reply, B.device).verdict == REDIRECT
    ping = echo(at.local, at.own, pod=B)
    assert node.run("from_container", ping, B.device).drop == DropReason.POLICY
    stray = echo(at.local, at.own, reply=True, id=9, pod=B)
    assert node.run("from_container", stray, B.device).drop == DropReason.POLICY
