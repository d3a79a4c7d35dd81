"""Fragments find their ports again; ICMP errors pass with the connection that they speak of."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)

from bench.frames import ether, ip, tcp, udp
from bench.testnode import (
    EGRESS,
    INGRESS,
    NODE4,
    PEER4,
    PEER6,
    REDIRECT,
    REMOTE4,
    REMOTE6,
    REMOTE_ID,
    WORLD4,
    A,
    B,
    Node,
)
from fimbria.datapath import abi
from fimbria.datapath.abi import DropReason, PolicyEntry, PolicyKey

pytestmark = pytest.mark.root

DNS = PolicyKey(REMOTE_ID, 53, 17, abi.PolicyShape.PORT | abi.PolicyShape.EGRESS)


def first4(size: int = 64, *, id: int = 77, proto: Any = None) -> bytes:
    head = IP(src=A.ip4, dst=REMOTE4, id=id, flags="MF")
    return bytes(ether(A) / head / (proto or UDP(sport=4000, dport=53)) / bytes(size))


def later4(*, id: int = 77, proto: int = 17, offset: int = 9) -> bytes:
    return bytes(ether(A) / IP(src=A.ip4, dst=REMOTE4, id=id, frag=offset, proto=proto)) + bytes(40)


def fragment6(offset: int, more: int, payload: Any, nh: int = 17) -> bytes:
    head = IPv6(src=A.ip6, dst=REMOTE6) / IPv6ExtHdrFragment(offset=offset, m=more, id=77, nh=nh)
    return bytes(ether(A) / head / payload)


def test_fragments_share_the_first_ones_ports(node: Node) -> None:
    """A later fragment is judged, counted and sent like the datagram's first."""
    node.policy(3, EGRESS, {DNS: PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    early = node.run("from_container", later4(), A.device)
    assert early.drop == DropReason.FRAG_NOT_FOUND
    assert node.run("from_container", first4(), A.device).verdict == REDIRECT
    assert node.run("from_container", later4(), A.device).verdict == REDIRECT
    (entry,) = node.entries().values()
    assert entry.dir[entry.orig].packets == 2
    other = node.run("from_container", later4(id=78), A.device)
    assert other.drop == DropReason.FRAG_NOT_FOUND
    assert node.run("from_container", later4(proto=6), A.device).drop == DropReason.FRAG_NOT_FOUND


def test_fragments_of_ipv6(node: Node) -> None:
    """The same behind IPv6's fragment header; a lone atomic fragment is a whole packet."""
    node.policy(3, EGRESS, {DNS: PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    later = fragment6(9, 0, b"\xff" * 40)
    assert node.run("from_container", later, A.device).drop == DropReason.FRAG_NOT_FOUND
    head = UDP(sport=4000, dport=53, chksum=1) / bytes(64)
    assert node.run("from_container", fragment6(0, 1, head), A.device).verdict == REDIRECT
    assert node.run("from_container", later, A.device).verdict == REDIRECT
    atomic = fragment6(0, 0, UDP(sport=4001, dport=53, chksum=1))
    assert node.run("from_container", atomic, A.device).verdict == REDIRECT
    assert len(node.entries()) == 2


def test_fragments_of_what_is_denied(node: Node) -> None:
    """Remembered ports are no permission."""
    node.policy(3, EGRESS)
    node.assign(A, 3)
    assert node.run("from_container", first4(), A.device).drop == DropReason.POLICY
    assert node.run("from_container", later4(), A.device).drop == DropReason.POLICY


def test_large_ping(node: Node) -> None:
    """An echo request in fragments is one flow, and its fragments are requests."""
    key = PolicyKey(REMOTE_ID, 8, 1, abi.PolicyShape.PORT | abi.PolicyShape.EGRESS)
    node.policy(3, EGRESS, {key: PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    ping = first4(proto=ICMP(type=8, id=5))
    assert node.run("from_container", ping, A.device).verdict == REDIRECT
    assert node.run("from_container", later4(proto=1), A.device).verdict == REDIRECT
    assert len(node.entries()) == 1


def test_extension_headers(node: Node) -> None:
    """Options and routing headers are walked to the ports; an endless chain is refused."""
    head = IPv6(src=A.ip6, dst=REMOTE6)
    chain = head / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(addresses=[])
    packet = bytes(ether(A) / chain / UDP(sport=4000, dport=53))
    assert node.run("from_container", packet, A.device).verdict == REDIRECT
    (key,) = node.entries()
    assert {key.port_a, key.port_b} == {4000, 53}
    for _ in range(6):
        head = head / IPv6ExtHdrDestOpt()
    endless = bytes(ether(A) / head / UDP(sport=4000, dport=53))
    assert node.run("from_container", endless, A.device).drop == DropReason.INVALID_EXTHDR
    cut = bytes(ether(A) / IPv6(src=A.ip6, dst=REMOTE6, nh=0)) + bytes(3)
    assert node.run("from_container", cut, A.device).drop == DropReason.INVALID_EXTHDR


@pytest.mark.parametrize("six", [False, True])
def test_error_from_a_router_passes(node: Node, six: bool) -> None:
    """An error about a packet that a pod sent reaches the pod without a rule."""
    own, remote, router = (A.ip6, REMOTE6, PEER6) if six else (A.ip4, REMOTE4, PEER4)
    node.policy(3, INGRESS)
    node.assign(A, 3)
    node.run("from_container", udp(own, remote, pod=A), A.device)
    inner = ip(own, remote) / UDP(sport=4000, dport=53)
    kinds: list[Any] = (
        [ICMPv6DestUnreach(), ICMPv6PacketTooBig(), ICMPv6TimeExceeded()]
        if six
        else [ICMP(type=3, code=4), ICMP(type=11), ICMP(type=12)]
    )
    via = {"vni": abi.Identity.REMOTE_NODE, "outer": PEER4}
    for kind in kinds:
        packet = bytes(ether(None) / ip(router, own) / kind / inner)
        out = node.run("from_overlay_hop", packet, "cilium_vxlan", **via)
        assert out.verdict == REDIRECT
        assert {e.ct_state for e in out.events} == {abi.CtState.RELATED}
    assert len(node.entries()) == 1


@pytest.mark.parametrize("six", [False, True])
def test_error_about_nothing_is_judged(node: Node, six: bool) -> None:
    """An error about a connection that nobody has is like any other unexpected packet."""
    own, remote, router = (A.ip6, REMOTE6, PEER6) if six else (A.ip4, REMOTE4, PEER4)
    node.policy(3, INGRESS)
    node.assign(A, 3)
    kind: Any = ICMPv6DestUnreach() if six else ICMP(type=3, code=1)
    inner = ip(own, remote) / UDP(sport=4000, dport=53)
    via = {"vni": abi.Identity.REMOTE_NODE, "outer": PEER4}
    packet = bytes(ether(None) / ip(router, own) / kind / inner)
    out = node.run("from_overlay_hop", packet, "cilium_vxlan", **via)
    assert out.drop == DropReason.POLICY
    foreign = bytes(ether(None) / ip(router, own) / kind / ip(remote, router) / UDP())
    out = node.run("from_overlay_hop", foreign, "cilium_vxlan", **via)
    assert out.drop == DropReason.INVALID
    cut = bytes(ether(None) / ip(router, own) / kind) + b"\x45\0\0"
    out = node.run("from_overlay_hop", cut, "cilium_vxlan", **via)
    assert out.drop == DropReason.INVALID


def test_error_of_a_pod(node: Node) -> None:
    """A pod answers errors about what it got, and cannot speak of others' connections."""
    node.policy(3, INGRESS)
    node.assign(A, 3)
    node.run("from_container", udp(A.ip4, B.ip4, pod=A), A.device)
    inner = IP(src=A.ip4, dst=B.ip4) / UDP(sport=4000, dport=53)
    error = bytes(ether(B) / IP(src=B.ip4, dst=A.ip4) / ICMP(type=3, code=3) / inner)
    assert node.run("from_container", error, B.device).verdict == REDIRECT
    node.run("from_container", udp(A.ip4, REMOTE4, pod=A), A.device)
    theirs = IP(src=A.ip4, dst=REMOTE4) / UDP(sport=4000, dport=53)
    error = bytes(ether(B) / IP(src=B.ip4, dst=A.ip4) / ICMP(type=3, code=3) / theirs)
    assert node.run("from_container", error, B.device).drop == DropReason.INVALID_SIP


def test_error_after_permission_is_gone(node: Node) -> None:
    """An error does not outlive the permission of its connection."""
    key = PolicyKey(B.identity, 53, 17, abi.PolicyShape.PORT | abi.PolicyShape.EGRESS)
    node.policy(3, EGRESS, {key: PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    node.run("from_container", udp(A.ip4, B.ip4, pod=A), A.device)
    node.policy(4, EGRESS)
    node.assign(A, 4)
    node.set_revision(2)
    inner = IP(src=A.ip4, dst=B.ip4) / UDP(sport=4000, dport=53)
    error = bytes(ether(B) / IP(src=B.ip4, dst=A.ip4) / ICMP(type=3, code=3) / inner)
    for _ in range(2):
        assert node.run("from_container", error, B.device).drop == DropReason.POLICY


def test_other_icmp_is_judged_packet_by_packet(node: Node) -> None:
    """ICMP that is neither echo nor error has no connection; its type is its port in policy."""
    key = PolicyKey(B.identity, 13, 1, abi.PolicyShape.PORT | abi.PolicyShape.EGRESS)
    node.policy(3, EGRESS, {key: PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    stamp = bytes(ether(A) / IP(src=A.ip4, dst=B.ip4) / ICMP(type=13))
    assert node.run("from_container", stamp, A.device).verdict == REDIRECT
    mask = bytes(ether(A) / IP(src=A.ip4, dst=B.ip4) / ICMP(type=17))
    assert node.run("from_container", mask, A.device).drop == DropReason.POLICY
    assert not node.entries()


def test_ping_with_identifier_zero(node: Node) -> None:
    """Identifier 0 names both ends alike; still a request the other way is no reply."""
    key = PolicyKey(B.identity, 128, 58, abi.PolicyShape.PORT | abi.PolicyShape.EGRESS)
    node.policy(3, EGRESS | INGRESS, {key: PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    ping = bytes(ether(A) / IPv6(src=A.ip6, dst=B.ip6) / ICMPv6EchoRequest(id=0))
    assert node.run("from_container", ping, A.device).verdict == REDIRECT
    back = bytes(ether(B) / IPv6(src=B.ip6, dst=A.ip6) / ICMPv6EchoRequest(id=0))
    assert node.run("from_container", back, B.device).drop == DropReason.POLICY


def test_reset_of_a_refused_connection(node: Node) -> None:
    """A reset before the connection was open closes the entry at once."""
    node.run("from_container", tcp(A.ip4, B.ip4, pod=A), A.device)
    reset = tcp(B.ip4, A.ip4, "RA", sport=80, dport=4000, pod=B)
    assert node.run("from_container", reset, B.device).verdict == REDIRECT
    (entry,) = node.entries().values()
    closed = abi.CtFlags.RX_CLOSING | abi.CtFlags.TX_CLOSING
    assert entry.flags & closed == closed


def test_hosts_own_fragments_are_not_dropped(node: Node) -> None:
    """Fragments for the node itself are the kernel's, however they come."""
    packet = bytes(ether(None) / IP(src=WORLD4, dst=NODE4, frag=100, proto=17)) + bytes(40)
    via = {"vni": REMOTE_ID, "outer": PEER4}
    assert node.run("from_overlay_hop", packet, "cilium_vxlan", **via).drop is None
    assert node.run("from_host", packet, "cilium_host").drop is None


def test_tcp_in_a_first_fragment(node: Node) -> None:
    """TCP flags are seen in a first fragment too."""
    head = IP(src=A.ip4, dst=REMOTE4, id=5, flags="MF")
    packet = bytes(ether(A) / head / TCP(sport=4000, dport=80, flags="S")) + bytes(24)
    assert node.run("from_container", packet, A.device).verdict == REDIRECT
    (entry,) = node.entries().values()
    assert entry.dir[entry.orig].tcp_flags == 2
    assert not entry.flags & abi.CtFlags.SEEN_NON_SYN
