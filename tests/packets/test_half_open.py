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

ANSWERED, HALF_OPEN = "cilium_ct", "cilium_ct_new"
FROM_B = 20  # the rule that lets A open connections to B


def where(node: Node) -> tuple[int, int]:
    """Entries that are answered, and half-open ones."""
    return len(node.entries(ANSWERED)), len(node.entries(HALF_OPEN))


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


def test_the_answer_moves_a_connection(node: Node, at: Addresses) -> None:
    """The first packet of the other side moves the entry as it is: nothing is judged again."""
    allow(node)
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    assert where(node) == (0, 1)
    judged = decisions(node)
    assert judged == 2, "at either end"
    answer = tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B)
    out = node.run("from_container", answer, B.device)
    assert out.verdict == REDIRECT
    assert {event.type for event in out.events} == {abi.EventType.TRACE}
    assert where(node) == (1, 0)
    node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device)
    assert decisions(node) == judged
    (entry,) = node.entries(ANSWERED).values()
    assert (entry.src_lxc, entry.dst_lxc) == (A.lxc_id, B.lxc_id)
    assert [entry.dir[entry.orig].packets, entry.dir[1 - entry.orig].packets] == [2, 1]


def test_one_way_traffic_stays_half_open_and_fast(node: Node, at: Addresses) -> None:
    """UDP that nobody answers is judged once, whatever it sends; an answer moves it too."""
    allow(node, 17, 53)
    sent = [node.run("from_container", udp(at.own, at.local, pod=A), A.device) for _ in range(3)]
    assert {out.verdict for out in sent} == {REDIRECT}
    assert not sent[-1].events, "an established direction, on the fast path"
    assert where(node) == (0, 1)
    assert decisions(node) == 2
    answer = udp(at.local, at.own, sport=53, dport=4000, pod=B)
    assert node.run("from_container", answer, B.device).verdict == REDIRECT
    assert where(node) == (1, 0)


def test_a_syn_sent_again_changes_nothing(node: Node, at: Addresses) -> None:
    """The same SYN twice is one connection, half-open or answered."""
    syn = tcp(at.own, at.local, pod=A)
    for _ in range(2):
        assert node.run("from_container", syn, A.device).verdict == REDIRECT
    assert where(node) == (0, 1)
    node.run("from_container", tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B), B.device)
    assert node.run("from_container", syn, A.device).verdict == REDIRECT
    assert where(node) == (1, 0)


def test_permission_taken_away_while_nobody_has_answered(node: Node, at: Addresses) -> None:
    """The answer to what is no longer allowed is dropped, and ends the half-open connection."""
    allow(node)
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    node.policy(5, EGRESS)
    node.assign(A, 5)
    node.set_revision(2)
    answer = tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B)
    out = node.run("from_container", answer, B.device)
    assert (out.verdict, out.drop) == (SHOT, DropReason.POLICY)
    assert where(node) == (0, 0)


def test_ports_used_again_keep_the_place(node: Node, at: Addresses) -> None:
    """A closed connection's successor takes over its entry: no table needs an element more."""
    for flags, pod in (("S", A), ("SA", B), ("FA", A), ("FA", B)):
        packet = (
            tcp(at.own, at.local, flags, pod=A)
            if pod is A
            else tcp(at.local, at.own, flags, sport=80, dport=4000, pod=B)
        )
        node.run("from_container", packet, pod.device)
    assert where(node) == (1, 0)
    out = node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    assert out.events[-1].ct_state == abi.CtState.REOPENED
    assert where(node) == (1, 0)
    (entry,) = node.entries(ANSWERED).values()
    assert not entry.flags & (abi.CtFlags.RX_CLOSING | abi.CtFlags.TX_CLOSING)
    assert entry.dir[entry.orig].revision == 1
    assert (entry.dir[entry.orig].packets, entry.dir[1 - entry.orig].revision) == (1, 0)
    answer = tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B)
    assert node.run("from_container", answer, B.device).verdict == REDIRECT


def test_an_expired_connection_hides_nothing(node: Node, at: Addresses) -> None:
    """What opens in place of an expired connection is half-open like every other."""
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    node.run("from_container", tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B), B.device)
    ((key, entry),) = node.entries(ANSWERED).items()
    over = entry._replace(expires=(entry.created - 1000) & 0xFFFFFFFF)
    node.maps[ANSWERED].put(key.pack(), over.pack())
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
    """Twenty times more openings than fit: every answered connection stays, and stays fast."""
    answered = range(5000, 5300)
    for port in answered:
        small.run("from_container", tcp(at.own, at.local, sport=port, pod=A), A.device)
        answer = tcp(at.local, at.own, "SA", sport=80, dport=port, pod=B)
        small.run("from_container", answer, B.device)
    before = small.entries(ANSWERED)
    assert len(before) == len(answered)
    for port in range(10_000, 15_120):
        small.run("from_container", tcp(at.own, at.remote, sport=port, pod=A), A.device)
    # over the ports of what is answered, too: closed ones, and against the opener
    for port in answered:
        small.run("from_container", tcp(at.local, at.own, sport=80, dport=port, pod=B), B.device)
    assert small.entries(ANSWERED).keys() == before.keys()
    assert 0 < len(small.entries(HALF_OPEN)) <= 256
    for port in answered:
        packet = tcp(at.own, at.local, "A", sport=port, pod=A)
        assert small.run("from_container", packet, A.device).verdict == REDIRECT


@pytest.mark.parametrize("table", [HALF_OPEN, ANSWERED])
def test_a_full_table_drops_with_its_reason(
    node: Node, at: Addresses, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that does not fit is not let through untracked: 155, counted and reported."""
    tables = (HALF_OPEN, ANSWERED)
    full = {name: plain(entries=1 if name == table else 64) for name in tables}
    node.maps |= full
    # once more, on tables that refuse what LRU makes room for; the loader would not have them
    monkeypatch.setattr(mapdefs, "check", taken)
    node.load("from_container")
    try:
        verdicts = [opened(node, at, port, answered=table == ANSWERED) for port in (4000, 4001)]
        assert verdicts == [(REDIRECT, None), (SHOT, DropReason.CT_CREATE_FAILED)]
        assert node.metric(DropReason.CT_CREATE_FAILED, abi.Direction.EGRESS) == 1
        packet = tcp(at.own, at.local, "A", pod=A)
        assert node.run("from_container", packet, A.device).verdict == REDIRECT, "what fits goes on"
    finally:
        for made in full.values():
            made.close()


def opened(node: Node, at: Addresses, port: int, *, answered: bool) -> tuple[int, int | None]:
    """Open a connection, and answer it if `answered`; what became of the last packet."""
    out = node.run("from_container", tcp(at.own, at.local, sport=port, pod=A), A.device)
    if answered:
        answer = tcp(at.local, at.own, "SA", sport=80, dport=port, pod=B)
        out = node.run("from_container", answer, B.device)
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
