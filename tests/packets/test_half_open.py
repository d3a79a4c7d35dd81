"""Half-open connections: where they live, when they move, and that openings push nobody out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from bench.frames import tcp, udp
from bench.testnode import EGRESS, INGRESS, REDIRECT, SHOT, A, Addresses, B, Node
from fimbria.datapath import abi
from fimbria.datapath.abi import DropReason, PolicyEntry, PolicyKey
from fimbria.kernel import mapdefs
from fimbria.kernel.maps import BpfMap
from fimbria.kernel.syscall import MapType

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

ESTABLISHED, HALF_OPEN = "cilium_ct", "cilium_ct_new"
FROM_B = 20  # the rule that lets A open connections to B


def where(node: Node) -> tuple[int, int]:
    """Entries that are established, and half-open ones."""
    return len(node.entries(ESTABLISHED)), len(node.entries(HALF_OPEN))


def allow(node: Node, protocol: int = 6, port: int = 80) -> None:
    """A may open to B, nothing else; B's policy is the same from the other end."""
    for policy, pod, peer, side in ((3, A, B, EGRESS), (4, B, A, INGRESS)):
        shape = abi.PolicyShape.PORT | (abi.PolicyShape.EGRESS if side == EGRESS else 0)
        key = PolicyKey(peer.identity, port, protocol, shape)
        node.policy(policy, EGRESS | INGRESS, {key: PolicyEntry(rule_id=FROM_B)})
        node.assign(pod, policy)


def decisions(node: Node) -> int:
    """How often the rule has decided."""
    values = node.maps["cilium_rule_stats"].get_percpu(FROM_B.to_bytes(4, "little")) or []
    return sum(abi.MetricsValue.unpack(value).count for value in values)


def establish(node: Node, at: Addresses, port: int = 4000) -> None:
    """The three packets that open a TCP connection."""
    syn = tcp(at.own, at.local, sport=port, pod=A)
    answer = tcp(at.local, at.own, "SA", sport=80, dport=port, pod=B)
    node.run("from_container", syn, A.device)
    node.run("from_container", answer, B.device)
    node.run("from_container", tcp(at.own, at.local, "A", sport=port, pod=A), A.device)


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
    """The same SYN twice is one connection, half-open or established."""
    syn = tcp(at.own, at.local, pod=A)
    for _ in range(2):
        assert node.run("from_container", syn, A.device).verdict == REDIRECT
    assert where(node) == (0, 1)
    establish(node, at)
    assert node.run("from_container", syn, A.device).verdict == REDIRECT
    assert where(node) == (1, 0)


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


def test_ports_used_again_keep_the_place(node: Node, at: Addresses) -> None:
    """A closed connection's successor takes over its entry: no table needs an element more."""
    establish(node, at)
    node.run("from_container", tcp(at.own, at.local, "FA", pod=A), A.device)
    node.run("from_container", tcp(at.local, at.own, "FA", sport=80, dport=4000, pod=B), B.device)
    assert where(node) == (1, 0)
    out = node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    assert out.events[-1].ct_state == abi.CtState.REOPENED
    assert where(node) == (1, 0)
    (entry,) = node.entries(ESTABLISHED).values()
    assert not entry.flags & (abi.CtFlags.RX_CLOSING | abi.CtFlags.TX_CLOSING)
    assert entry.dir[entry.orig].revision == 1
    assert (entry.dir[entry.orig].packets, entry.dir[1 - entry.orig].revision) == (1, 0)
    answer = tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B)
    assert node.run("from_container", answer, B.device).verdict == REDIRECT


def test_an_expired_connection_hides_nothing(node: Node, at: Addresses) -> None:
    """What opens in place of an expired connection is half-open like every other."""
    establish(node, at)
    ((key, entry),) = node.entries(ESTABLISHED).items()
    over = entry._replace(expires=(entry.created - 1000) & 0xFFFFFFFF)
    node.maps[ESTABLISHED].put(key.pack(), over.pack())
    out = node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    assert (out.verdict, out.events[-1].ct_state) == (REDIRECT, abi.CtState.NEW)
    assert where(node) == (0, 1)


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
