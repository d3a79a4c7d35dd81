"""Ports that are used again: what is past hides nothing, and gives its place to what follows."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, TCP
from scapy.layers.inet6 import ICMPv6DestUnreach

from bench.frames import ether, ip, tcp, udp
from bench.testnode import REDIRECT, A, Addresses, B, Node, Outcome, Pod
from fimbria.datapath import abi
from tests.packets.halfopen import (
    ESTABLISHED,
    HALF_OPEN,
    allow,
    establish,
    expire,
    where,
)

pytestmark = pytest.mark.root


@pytest.mark.parametrize("opener", [A, B], ids=["same", "other"])
def test_ports_used_again(node: Node, at: Addresses, opener: Pod) -> None:
    """A closed connection stays for what is late, until its successor is answered."""
    establish(node, at)
    node.run("from_container", tcp(at.own, at.local, "FA", pod=A), A.device)
    node.run("from_container", tcp(at.local, at.own, "FA", sport=80, dport=4000, pod=B), B.device)
    assert where(node) == (1, 0)
    (old,) = node.entries(ESTABLISHED).values()
    other = B if opener is A else A

    def send(pod: Pod, flags: str) -> Outcome:
        ends = (at.own, at.local, 4000, 80) if pod is A else (at.local, at.own, 80, 4000)
        packet = tcp(ends[0], ends[1], flags, sport=ends[2], dport=ends[3], pod=pod)
        return node.run("from_container", packet, pod.device)

    out = send(opener, "S")
    assert (out.verdict, out.events[-1].ct_state) == (REDIRECT, abi.CtState.NEW)
    assert where(node) == (1, 1)
    assert send(other, "A").verdict == REDIRECT, "late"
    (entry,) = node.entries(HALF_OPEN).values()
    assert entry.dir[1 - entry.orig].packets == 0, "which answers nothing"
    assert send(other, "SA").verdict == REDIRECT
    assert where(node) == (0, 1)
    assert send(opener, "A").verdict == REDIRECT
    assert where(node) == (1, 0)
    (entry,) = node.entries(ESTABLISHED).values()
    assert not entry.flags & (abi.CtFlags.RX_CLOSING | abi.CtFlags.TX_CLOSING)
    assert (entry.orig == old.orig) is (opener is A)
    out = send(other, "A")
    assert (out.verdict, out.events) == (REDIRECT, []), "on the fast path"


def test_an_expired_connection_hides_nothing(node: Node, at: Addresses) -> None:
    """What opens in place of an expired connection is half-open like every other."""
    establish(node, at)
    expire(node)
    out = node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    assert (out.verdict, out.events[-1].ct_state) == (REDIRECT, abi.CtState.NEW)
    assert len(node.entries(HALF_OPEN)) == 1
    answer = tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B)
    assert node.run("from_container", answer, B.device).verdict == REDIRECT
    assert where(node) == (0, 1)
    node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device)
    assert where(node) == (1, 0)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_successor_takes_the_place_of_what_is_past(
    node: Node, at: Addresses, protocol: str
) -> None:
    """The entry of a connection that is over holds nothing of it once its successor is there."""

    def exchange() -> None:
        if protocol == "tcp":
            establish(node, at)
        else:
            node.run("from_container", udp(at.own, at.local, pod=A), A.device)
            back = udp(at.local, at.own, sport=53, dport=4000, pod=B)
            node.run("from_container", back, B.device)

    exchange()
    ((key, first),) = node.entries(ESTABLISHED).items()
    assert where(node) == (1, 0)
    past = first._replace(
        expires=(first.created - 1000) & 0xFFFFFFFF,
        flags=abi.CtFlags.RX_CLOSING,
        rule_egress=77,
        src_lxc=78,
        created=79,
        dir=tuple(side._replace(packets=80, bytes=81, revision=1, oif=82) for side in first.dir),
    )
    node.maps[ESTABLISHED].put(key.pack(), past.pack())
    node.set_revision(2)
    exchange()
    assert len(node.entries(HALF_OPEN)) == 0
    ((_, second),) = node.entries(ESTABLISHED).items()
    same = {"revision": 2, "last_report": 0}
    assert [side._replace(**same) for side in second.dir] == [
        side._replace(**same) for side in first.dir
    ]
    assert second._replace(expires=0, created=0, dir=()) == first._replace(
        expires=0, created=0, dir=()
    )
    assert [side.revision for side in second.dir] == [2, 2]
    assert where(node) == (1, 0)


def test_an_error_beside_an_expired_connection(node: Node, at: Addresses) -> None:
    """An ICMP error about a SYN passes, whatever is left of an older connection."""
    allow(node)
    establish(node, at)
    expire(node)
    node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    assert where(node) == (0, 1)
    refused = ICMPv6DestUnreach(code=4) if ":" in at.own else ICMP(type=3, code=3)
    about = ip(at.own, at.local) / TCP(sport=4000, dport=80, flags="S")
    error = bytes(ether(B) / ip(at.local, at.own) / refused / about)
    out = node.run("from_container", error, B.device)
    assert (out.verdict, out.events[-1].ct_state) == (REDIRECT, abi.CtState.RELATED)


def test_an_expired_connection_takes_no_packet(node: Node, at: Addresses) -> None:
    """What is no SYN finds nothing in an expired connection, and begins half-open."""
    establish(node, at)
    expire(node)
    out = node.run("from_container", tcp(at.own, at.local, "A", pod=A), A.device)
    assert (out.verdict, out.events[-1].ct_state) == (REDIRECT, abi.CtState.NEW)
    assert where(node) == (0, 1)
