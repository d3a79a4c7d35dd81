"""from_container: everything a pod sends, and where it goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from bench.frames import ether, ip, parsed, tcp, ttl_of, udp
from bench.testnode import (
    EGRESS,
    NEXT,
    REDIRECT,
    REMOTE4,
    REMOTE6,
    SHOT,
    A,
    Addresses,
    B,
    Node,
)
from fimbria.datapath import abi
from fimbria.datapath.abi import CtAction, DropReason, EventType

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.root


def only(entries: Iterable[abi.CtEntry]) -> abi.CtEntry:
    (entry,) = entries
    return entry


def test_remote_pod_by_tunnel(node: Node, at: Addresses) -> None:
    """A packet for a pod of another node goes to its node, with the sender's identity as VNI."""
    out = node.run("from_container_hop", tcp(at.own, at.remote, pod=A), A.device)
    assert out.verdict == REDIRECT
    assert out.cb(0) == A.identity
    assert out.cb(1).to_bytes(4, "little") == bytes([192, 168, 77, 2])
    assert ttl_of(out.data) == 63
    entry = only(node.entries().values())
    opened = entry.dir[entry.orig]
    assert opened.action == CtAction.TUNNEL
    assert opened.oif == node.ifindex["cilium_vxlan"]
    assert (opened.packets, opened.identity, entry.src_lxc) == (1, A.identity, A.lxc_id)
    assert entry.dir[1 - entry.orig].revision == 0


def test_fast_path_is_the_slow_path_cached(node: Node, at: Addresses) -> None:
    """Packets after the first leave exactly like it, without events, and are counted."""
    first = node.run("from_container_hop", tcp(at.own, at.remote, pod=A), A.device)
    second = node.run("from_container_hop", tcp(at.own, at.remote, "A", pod=A), A.device)
    assert (second.verdict, second.cb(0), second.cb(1)) == (
        first.verdict,
        first.cb(0),
        first.cb(1),
    )
    assert ttl_of(second.data) == 63
    assert not second.events
    entry = only(node.entries().values())
    assert entry.dir[entry.orig].packets == 2
    assert entry.flags & abi.CtFlags.SEEN_NON_SYN
    if ":" not in at.own:
        frame = parsed(second.data)
        checksum = frame[IP].chksum
        del frame[IP].chksum
        assert Ether(bytes(frame))[IP].chksum == checksum


def test_local_pod(node: Node, at: Addresses) -> None:
    """A packet for a pod of the same node gets that pod's MACs; both ends share one entry."""
    out = node.run("from_container", tcp(at.own, at.local, pod=A), A.device)
    assert out.verdict == REDIRECT
    frame = parsed(out.data)
    assert (frame.src, frame.dst) == (B.node_mac, B.mac)
    back = node.run(
        "from_container", tcp(at.local, at.own, "SA", sport=80, dport=4000, pod=B), B.device
    )
    assert back.verdict == REDIRECT
    assert parsed(back.data).dst == A.mac
    entry = only(node.entries().values())
    assert [d.action for d in entry.dir] == [CtAction.PEER, CtAction.PEER]
    assert (entry.src_lxc, entry.dst_lxc) == (A.lxc_id, B.lxc_id)


def test_host_and_world_go_to_the_kernel(node: Node, at: Addresses) -> None:
    """What is for the node itself, or has no route of its own, is the kernel's to deliver."""
    assert node.run("from_container", tcp(at.own, at.host, pod=A), A.device).verdict == NEXT
    assert node.run("from_container", tcp(at.own, at.world, pod=A), A.device).verdict == NEXT
    actions = {e.dir[e.orig].action for e in node.entries().values()}
    assert actions == {CtAction.STACK}


def test_world_identity_depends_on_the_stack(at: Addresses) -> None:
    """An address that nobody knows is world: 9 or 10 with two families, 2 with one."""
    six = ":" in at.own
    for constants, expected in (
        ({}, abi.Identity.WORLD_IPV6 if six else abi.Identity.WORLD_IPV4),
        ({"cfg_ipv4" if six else "cfg_ipv6": 0}, abi.Identity.WORLD),
    ):
        node = Node(constants)
        try:
            node.policy(3, EGRESS)
            node.assign(A, 3)
            out = node.run("from_container", tcp(at.own, at.world, pod=A), A.device)
            assert out.drop == DropReason.POLICY
            assert out.events[0].dst_label == expected
        finally:
            node.close()


def test_forged_source(node: Node, at: Addresses) -> None:
    """A pod sends from its own addresses only, whoever's it borrows."""
    for source in (at.local, at.remote, at.world, at.host):
        out = node.run("from_container", udp(source, at.remote, pod=A), A.device)
        assert (out.verdict, out.drop) == (SHOT, DropReason.INVALID_SIP)
        event = out.events[0]
        assert (event.source, event.src_label) == (A.lxc_id, A.identity)
    assert node.metric(DropReason.INVALID_SIP, abi.Direction.EGRESS) == 4
    assert not node.entries()


def test_tunnel_port_is_not_for_pods(node: Node, at: Addresses) -> None:
    """A pod cannot send VXLAN, which would carry an identity of its choice."""
    out = node.run("from_container", udp(at.own, at.world, dport=8472, pod=A), A.device)
    assert out.drop == DropReason.ENCAP_PROHIBITED


def test_time_exceeded(node: Node, at: Addresses) -> None:
    """A packet whose hops are used up ends here, counted, and its sender is told by the router."""
    out = node.run("from_container", udp(at.own, at.remote, pod=A, ttl=1), A.device)
    assert out.drop == DropReason.TTL_EXCEEDED
    assert out.verdict == REDIRECT
    frame = parsed(out.data)
    assert frame.dst == A.mac
    inner = frame.lastlayer()
    assert frame.haslayer("IPerror6" if ":" in at.own else "IPerror"), frame.show(dump=True)
    assert inner is not None
    name = IPv6 if ":" in at.own else IP
    assert frame[name].dst == at.own
    again = type(frame)(bytes(frame))
    if ":" in at.own:
        del again[IPv6].payload.cksum
        assert Ether(bytes(again))[IPv6].payload.cksum == frame[IPv6].payload.cksum
    else:
        del again[IP].chksum, again[ICMP].chksum
        fresh = Ether(bytes(again))
        assert fresh[IP].chksum == frame[IP].chksum
        assert fresh[ICMP].chksum == frame[ICMP].chksum


def test_hop_limit_on_the_fast_path(node: Node) -> None:
    """An established flow's packets obey the hop limit as well."""
    node.run("from_container", tcp(A.ip4, REMOTE4, pod=A), A.device)
    out = node.run("from_container", tcp(A.ip4, REMOTE4, "A", pod=A, ttl=1), A.device)
    assert out.drop == DropReason.TTL_EXCEEDED


def test_legacy_and_native_routing(native: Node, legacy: Node) -> None:
    """Without a tunnel: redirect_neigh to the routed device, or the kernel's routing."""
    for own, remote in ((A.ip4, REMOTE4), (A.ip6, REMOTE6)):
        assert native.run("from_container", tcp(own, remote, pod=A), A.device).verdict == REDIRECT
        assert legacy.run("from_container", tcp(own, remote, pod=A), A.device).verdict == NEXT
        assert (
            native.run("from_container", tcp(own, remote, "A", pod=A), A.device).verdict == REDIRECT
        )
    by_family = {len(k.a.strip(b"\0")): e for k, e in native.entries().items()}
    decisions = [e.dir[e.orig] for e in by_family.values()]
    assert {d.action for d in decisions} == {CtAction.NEIGH}
    assert {d.oif for d in decisions} == {native.ifindex["eth0"]}
    assert int.from_bytes(bytes([192, 168, 77, 2]), "big") in {d.nexthop for d in decisions}
    out = legacy.run("from_container", tcp(A.ip4, B.ip4, pod=A), A.device)
    assert out.verdict == REDIRECT
    entries = legacy.entries().values()
    assert CtAction.REDIRECT in {e.dir[e.orig].action for e in entries}


def test_unreachable_address_is_the_kernels_answer(native: Node) -> None:
    """An address of the node's own range without a pod goes to the kernel, which says so."""
    out = native.run("from_container", tcp(A.ip4, "10.0.1.99", pod=A), A.device)
    assert out.verdict == NEXT


def test_unknown_device(node: Node) -> None:
    """Packets of a device that no endpoint stands behind are dropped."""
    out = node.run("from_container", tcp(A.ip4, REMOTE4), "eth0")
    assert out.drop == DropReason.EP_NOT_READY


def test_other_protocols(node: Node) -> None:
    """What is not IP, or not a protocol that can be tracked, is dropped with its own reason."""
    lldp = bytes(Ether(src=A.mac, type=0x88CC)) + bytes(50)
    assert node.run("from_container", lldp, A.device).drop == DropReason.UNSUPPORTED_L2
    gre = bytes(ether(A) / ip(A.ip4, REMOTE4, proto=47)) + bytes(30)
    assert node.run("from_container", gre, A.device).drop == DropReason.CT_UNKNOWN_PROTO
    short = bytes(ether(A) / ip(A.ip4, REMOTE4, proto=6)) + bytes(3)
    assert node.run("from_container", short, A.device).drop == DropReason.CT_INVALID_HDR
    wrong = bytearray(tcp(A.ip4, REMOTE4, pod=A))
    wrong[14] = 0x65
    assert node.run("from_container", bytes(wrong), A.device).drop == DropReason.INVALID


def test_sctp(node: Node) -> None:
    """SCTP is known by its ports."""
    packet = bytes(ether(A) / ip(A.ip4, REMOTE4, proto=132)) + bytes.fromhex("0fa00050") + bytes(12)
    assert node.run("from_container", packet, A.device).verdict == REDIRECT
    (key,) = node.entries()
    assert (key.protocol, key.port_a, key.port_b) == (132, 4000, 80)


def test_family_that_is_switched_off() -> None:
    """With one family only, packets of the other are dropped."""
    node = Node({"cfg_ipv6": 0})
    try:
        out = node.run("from_container", tcp(A.ip6, REMOTE6, pod=A), A.device)
        assert out.drop == DropReason.UNKNOWN_L3
        arp = bytes(Ether(src=A.mac) / ARP(hwsrc=A.mac, psrc=A.ip4, pdst="10.0.1.1"))
        assert node.run("from_container", arp, A.device).verdict == REDIRECT
    finally:
        node.close()


def test_every_packet_is_traced_without_aggregation() -> None:
    """monitor-aggregation none: arrival and departure of each packet."""
    node = Node({"cfg_trace": 0})
    try:
        for flags in ("S", "A"):
            out = node.run("from_container", tcp(A.ip4, B.ip4, flags, pod=A), A.device)
            points = [e.subtype for e in out.events if e.type == EventType.TRACE]
            assert points == [abi.TracePoint.FROM_LXC, abi.TracePoint.TO_LXC]
    finally:
        node.close()


def test_options(node: Node) -> None:
    """IPv4 options do not hide the ports behind them."""
    head = IP(src=A.ip4, dst=REMOTE4, options=b"\x01\x01\x01\x00")
    packet = bytes(ether(A) / head / TCP(sport=4000, dport=80))
    out = node.run("from_container_hop", packet, A.device)
    assert (out.verdict, out.cb(0)) == (REDIRECT, A.identity)
    (key,) = node.entries()
    assert key.port_b == 80
