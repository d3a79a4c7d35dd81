"""Half-open connections: where they live, when they move, and that openings push nobody out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.frames import echo, tcp, udp
from bench.testnode import EGRESS, INGRESS, REDIRECT, SHOT, A, Addresses, B, Node
from fimbria.datapath import abi
from fimbria.datapath.abi import DropReason, PolicyEntry, PolicyKey
from fimbria.kernel import mapdefs
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.syscall import MapType
from tests.packets.halfopen import (
    ESTABLISHED,
    HALF_OPEN,
    allow,
    decisions,
    establish,
    where,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root


def test_the_openers_second_packet_moves_a_connection(node: Node, at: Addresses) -> None:
    """SYN, SYN and ACK, ACK: the third moves the entry as it is, and nothing is judged again."""
    allow(node)
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    judged = decisions(node)
    assert (where(node), judged) == ((0, 1), 2), "judged at either end"
    answer = tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B)
    out = node.run("from_container", answer, B.device)
    assert out.verdict == REDIRECT
    assert {event.type for event in out.events} == {abi.EventType.TRACE}
    assert where(node) == (0, 1)
    out = node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device)
    assert out.verdict == REDIRECT
    assert (where(node), decisions(node)) == ((1, 0), judged)
    (entry,) = node.entries(ESTABLISHED).values()
    assert (entry.src_lxc, entry.dst_lxc) == (A.lxc_id, B.lxc_id)
    assert [entry.dir[entry.orig].packets, entry.dir[1 - entry.orig].packets] == [2, 1]
    assert [side.revision for side in entry.dir] == [1, 1]


@pytest.mark.parametrize("refuser", ["receiver", "opener"])
def test_what_either_side_refuses_never_moves(node: Node, at: Addresses, refuser: str) -> None:
    """A closed port, or an opener whose kernel knows of no connection: half-open, and soon over."""
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    answer = "RA" if refuser == "receiver" else "SA"
    back = tcp(at.local, at.own, answer, sport=80, dport=4000, pod=B)
    assert node.run("from_container", back, B.device).verdict == REDIRECT
    if refuser == "opener":
        reset = tcp(at.own, at.local, "R", pod=A)
        assert node.run("from_container", reset, A.device).verdict == REDIRECT
    assert where(node) == (0, 1)
    (entry,) = node.entries(HALF_OPEN).values()
    hertz = node.constants["cfg_hz"]
    assert isinstance(hertz, int)
    assert entry.expires - entry.created <= 11 * hertz


def test_one_way_traffic_stays_half_open_and_fast(node: Node, at: Addresses) -> None:
    """UDP that nobody answers is judged once, whatever it sends; the answer moves it."""
    allow(node, 17, 53)
    sent = [node.run("from_container", udp(at.own, at.local, pod=A), A.device) for _ in range(3)]
    assert {out.verdict for out in sent} == {REDIRECT}
    assert not sent[-1].events, "an established direction, on the fast path"
    assert where(node) == (0, 1)
    assert decisions(node) == 2
    answer = udp(at.local, at.own, sport=53, dport=4000, pod=B)
    assert node.run("from_container", answer, B.device).verdict == REDIRECT
    assert where(node) == (1, 0)


def test_a_connection_found_half_way(node: Node, at: Addresses) -> None:
    """Of a connection older than the tables, any packets both ways establish it."""
    for _ in range(2):
        node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device)
    assert where(node) == (0, 1)
    back = tcp(at.local, at.own, "A", sport=80, dport=4000, pod=B)
    node.run("from_container", back, B.device)
    node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device)
    assert where(node) == (1, 0)


def test_a_syn_sent_again_changes_nothing(node: Node, at: Addresses) -> None:
    """The same SYN twice is one half-open connection, the same entry with one packet more."""
    syn = tcp(at.own, at.local, pod=A)
    states = [node.run("from_container", syn, A.device).events[-1:] for _ in range(2)]
    assert [event.ct_state for event in states[0]] == [abi.CtState.NEW]
    (entry,) = node.entries(HALF_OPEN).values()
    assert (where(node), entry.dir[entry.orig].packets) == ((0, 1), 2)


def test_a_syn_on_a_live_connection(node: Node, at: Addresses) -> None:
    """An opener that has forgotten its connection: all goes on until the other side answers.

    The other side's kernel confirms the old connection, the opener's resets that, and the SYN that
    is sent again is answered: only then the old entry goes.
    """
    establish(node, at)
    (old,) = node.entries(ESTABLISHED).values()
    syn = tcp(at.own, at.local, pod=A)
    assert node.run("from_container", syn, A.device).verdict == REDIRECT
    assert list(node.entries(ESTABLISHED).values()) == [old]
    assert where(node) == (1, 1)
    challenge = tcp(at.local, at.own, "A", sport=80, dport=4000, pod=B)
    for _ in range(2):
        assert node.run("from_container", challenge, B.device).verdict == REDIRECT
    assert node.run("from_container", tcp(at.own, at.local, "R", pod=A), A.device).verdict == (
        REDIRECT
    )
    assert node.run("from_container", syn, A.device).verdict == REDIRECT
    assert where(node) == (1, 1)
    answer = tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B)
    assert node.run("from_container", answer, B.device).verdict == REDIRECT
    assert where(node) == (0, 1)
    assert node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device).verdict == (
        REDIRECT
    )
    assert where(node) == (1, 0)
    (entry,) = node.entries(ESTABLISHED).values()
    assert not entry.flags & (abi.CtFlags.RX_CLOSING | abi.CtFlags.TX_CLOSING)


def test_a_syn_that_is_denied_leaves_what_is_there(node: Node, at: Addresses) -> None:
    """Neither direction's denied SYN touches a live connection, or leaves anything behind."""
    allow(node)
    establish(node, at)
    before = node.entries(ESTABLISHED)
    back = tcp(at.local, at.own, sport=80, dport=4000, pod=B)
    assert node.run("from_container", back, B.device).drop == DropReason.POLICY
    node.policy(5, EGRESS | INGRESS)
    node.assign(A, 5)
    again = tcp(at.own, at.local, pod=A)
    assert node.run("from_container", again, A.device).drop == DropReason.POLICY
    assert node.entries(ESTABLISHED) == before
    assert where(node) == (1, 0)


def test_the_other_side_opens_over_a_live_connection(node: Node, at: Addresses) -> None:
    """A SYN against a live connection, which it is allowed to send: the old one until answered."""
    establish(node, at)
    back = tcp(at.local, at.own, sport=80, dport=4000, pod=B)
    assert node.run("from_container", back, B.device).verdict == REDIRECT
    assert where(node) == (1, 1)
    data = tcp(at.own, at.local, "A", pod=A)
    out = node.run("from_container", data, A.device)
    assert (out.verdict, out.events) == (REDIRECT, []), "still on the fast path"
    answer = tcp(at.own, at.local, "SA", pod=A)
    assert node.run("from_container", answer, A.device).verdict == REDIRECT
    assert where(node) == (0, 1)
    last = tcp(at.local, at.own, "A", sport=80, dport=4000, pod=B)
    assert node.run("from_container", last, B.device).verdict == REDIRECT
    assert where(node) == (1, 0)
    (entry,) = node.entries(ESTABLISHED).values()
    assert (entry.src_lxc, entry.dst_lxc) == (B.lxc_id, A.lxc_id)


def test_an_echo_request_against_the_direction(node: Node, at: Addresses) -> None:
    """Identifier 0 serves both directions: denied, the other's request changes nothing."""
    protocol, request = (58, 128) if ":" in at.own else (1, 8)
    allow(node, protocol, request)
    node.run("from_container", echo(at.own, at.local, id=0, pod=A), A.device)
    node.run("from_container", echo(at.local, at.own, id=0, reply=True, pod=B), B.device)
    before = node.entries(ESTABLISHED)
    assert where(node) == (1, 0)
    ping = echo(at.local, at.own, id=0, pod=B)
    assert node.run("from_container", ping, B.device).drop == DropReason.POLICY
    assert (where(node), node.entries(ESTABLISHED)) == ((1, 0), before)
    node.assign(A, 0)
    node.assign(B, 0)
    out = node.run("from_container", ping, B.device)
    assert (out.verdict, out.events[-1].ct_state) == (REDIRECT, abi.CtState.REOPENED)
    assert where(node) == (0, 1)
    back = echo(at.own, at.local, id=0, reply=True, pod=A)
    assert node.run("from_container", back, A.device).verdict == REDIRECT
    assert where(node) == (1, 0)


def test_both_sides_open_at_once(node: Node, at: Addresses) -> None:
    """SYN against SYN: the later one's entry holds, both answers pass, and data moves it."""
    forth = tcp(at.own, at.local, pod=A)
    back = tcp(at.local, at.own, sport=80, dport=4000, pod=B)
    assert node.run("from_container", forth, A.device).verdict == REDIRECT
    out = node.run("from_container", back, B.device)
    assert (out.verdict, out.events[-1].ct_state) == (REDIRECT, abi.CtState.REOPENED)
    assert where(node) == (0, 1)
    for pod, packet in (
        (A, tcp(at.own, at.local, "SA", pod=A)),
        (B, tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B)),
        (A, tcp(at.own, at.local, "A", pod=A)),
        (B, tcp(at.local, at.own, "A", sport=80, dport=4000, pod=B)),
    ):
        assert node.run("from_container", packet, pod.device).verdict == REDIRECT
    assert where(node) == (1, 0)


def test_a_refusal_gets_through_beside_an_older_connection(node: Node, at: Addresses) -> None:
    """The reset that refuses a SYN is the new connection's, whoever had opened the old one."""
    allow(node)
    establish(node, at)
    node.policy(5, EGRESS | INGRESS)
    node.policy(6, EGRESS | INGRESS, {PolicyKey(A.identity, 4000, 6, 145): PolicyEntry(rule_id=21)})
    node.policy(7, EGRESS | INGRESS, {PolicyKey(B.identity, 4000, 6, 17): PolicyEntry(rule_id=21)})
    node.assign(A, 7)
    node.assign(B, 6)
    node.set_revision(2)
    back = tcp(at.local, at.own, sport=80, dport=4000, pod=B)
    assert node.run("from_container", back, B.device).verdict == REDIRECT
    late = tcp(at.local, at.own, "A", sport=80, dport=4000, pod=B)
    assert node.run("from_container", late, B.device).drop == DropReason.POLICY, "the old one's"
    reset = tcp(at.own, at.local, "RA", pod=A)
    assert node.run("from_container", reset, A.device).verdict == REDIRECT


def test_permission_taken_away_while_nobody_has_answered(node: Node, at: Addresses) -> None:
    """The answer to what is no longer allowed is dropped, and establishes nothing."""
    allow(node)
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    node.policy(5, EGRESS)
    node.assign(A, 5)
    node.set_revision(2)
    answer = tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B)
    out = node.run("from_container", answer, B.device)
    assert (out.verdict, out.drop) == (SHOT, DropReason.POLICY)
    assert not node.entries(ESTABLISHED)


@pytest.fixture
def small() -> Iterator[Node]:
    """A node whose tables of connections are small."""
    made = Node(ct_size=1024, ct_new_size=256)
    yield made
    made.close()


def test_a_flood_of_openings_pushes_nobody_out(small: Node, at: Addresses) -> None:
    """Twenty times more openings than fit: every established connection stays, and stays fast."""
    established = range(5000, 5300)
    for port in established:
        establish(small, at, port)
    before = small.entries(ESTABLISHED)
    assert len(before) == len(established)
    for port in range(10_000, 15_120):
        small.run("from_container", tcp(at.own, at.local, sport=port, pod=A), A.device)
        if port % 3:  # accepted or refused
            answer = "SA" if port % 3 == 1 else "RA"
            back = tcp(at.local, at.own, answer, sport=80, dport=port, pod=B)
            small.run("from_container", back, B.device)
    # over the ports of what is established, too: against the opener
    for port in established:
        small.run("from_container", tcp(at.local, at.own, sport=80, dport=port, pod=B), B.device)
    assert small.entries(ESTABLISHED).keys() == before.keys()
    assert 0 < len(small.entries(HALF_OPEN)) <= 256
    for port in established:
        packet = tcp(at.own, at.local, "A", sport=port, pod=A)
        assert small.run("from_container", packet, A.device).verdict == REDIRECT


@pytest.mark.parametrize("table", [HALF_OPEN, ESTABLISHED])
def test_a_full_table_drops_with_its_reason(
    node: Node, at: Addresses, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that does not fit is not let through untracked: 155, counted and reported."""
    tables = (HALF_OPEN, ESTABLISHED)
    full = {name: plain(entries=1 if name == table else 64) for name in tables}
    node.maps |= full
    # once more, on tables that refuse what LRU makes room for; the loader would not have them
    monkeypatch.setattr(mapdefs, "check", taken)
    node.load("from_container")
    try:
        verdicts = [opened(node, at, port, whole=table == ESTABLISHED) for port in (4000, 4001)]
        assert verdicts == [(REDIRECT, None), (SHOT, DropReason.CT_CREATE_FAILED)]
        assert node.metric(DropReason.CT_CREATE_FAILED, abi.Direction.EGRESS) == 1
        packet = tcp(at.own, at.local, "A", pod=A)
        assert node.run("from_container", packet, A.device).verdict == REDIRECT, "what fits goes on"
    finally:
        for made in full.values():
            made.close()


def opened(node: Node, at: Addresses, port: int, *, whole: bool) -> tuple[int, int | None]:
    """Send a SYN, if `whole` the other two as well; what became of the last packet."""
    out = node.run("from_container", tcp(at.own, at.local, sport=port, pod=A), A.device)
    if whole:
        back = tcp(at.local, at.own, "SA", sport=80, dport=port, pod=B)
        node.run("from_container", back, B.device)
        packet = tcp(at.own, at.local, "A", sport=port, pod=A)
        out = node.run("from_container", packet, A.device)
    return out.verdict, out.drop


def taken(found: BpfMap, *_: object) -> BpfMap:
    """In place of the loader's check: every map will do."""
    return found


def plain(entries: int) -> BpfMap:
    """A table of connections that is no LRU, and so can be full."""
    return BpfMap.create(
        MapType.HASH,
        key_size=abi.CtKey.SIZE,
        value_size=abi.CtEntry.SIZE,
        max_entries=entries,
        name="full",
    )
