"""from_container: everything a pod sends, in both families."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from bench.frames import echo, ether, ip, parsed, tcp, udp
from bench.testnode import (
    EGRESS,
    INGRESS,
    NEXT,
    NODE4,
    NODE6,
    REDIRECT,
    REMOTE4,
    REMOTE6,
    REMOTE_ID,
    SHOT,
    WORLD4,
    WORLD6,
    A,
    B,
    Node,
    mapped,
)
from fimbria.datapath import abi
from fimbria.datapath.abi import CtAction, DropReason, EventType, PolicyEntry, PolicyKey

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize(
    ("own", "local", "remote", "world", "host"),
    [
        pytest.param(A.ip4, B.ip4, REMOTE4, WORLD4, NODE4, id="ipv4"),
        pytest.param(A.ip6, B.ip6, REMOTE6, WORLD6, NODE6, id="ipv6"),
    ],
)


def ports(identity: int, port: int, *, egress: bool, protocol: int = 6) -> PolicyKey:
    """The key of a rule for one port."""
    shape = abi.PolicyShape.PORT | (abi.PolicyShape.EGRESS if egress else 0)
    return PolicyKey(identity, port, protocol, shape)


def only(entries: Iterable[abi.CtEntry]) -> abi.CtEntry:
    (entry,) = entries
    return entry


def ttl_of(data: bytes) -> int:
    frame = parsed(data)
    return frame[IPv6].hlim if IPv6 in frame else frame[IP].ttl


@FAMILIES
def test_remote_pod_by_tunnel(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """A packet for a pod of another node goes to its node, with the sender's identity as VNI."""
    out = node.run("from_container_hop", tcp(own, remote, pod=A), A.device)
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


@FAMILIES
def test_fast_path_is_the_slow_path_cached(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """Packets after the first leave exactly like it, without events, and are counted."""
    first = node.run("from_container_hop", tcp(own, remote, pod=A), A.device)
    second = node.run("from_container_hop", tcp(own, remote, "A", pod=A), A.device)
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
    if ":" not in own:
        frame = parsed(second.data)
        checksum = frame[IP].chksum
        del frame[IP].chksum
        assert Ether(bytes(frame))[IP].chksum == checksum


@FAMILIES
def test_local_pod(node: Node, own: str, local: str, remote: str, world: str, host: str) -> None:
    """A packet for a pod of the same node gets that pod's MACs; both ends share one entry."""
    out = node.run("from_container", tcp(own, local, pod=A), A.device)
    assert out.verdict == REDIRECT
    frame = parsed(out.data)
    assert (frame.src, frame.dst) == (B.node_mac, B.mac)
    back = node.run("from_container", tcp(local, own, "SA", sport=80, dport=4000, pod=B), B.device)
    assert back.verdict == REDIRECT
    assert parsed(back.data).dst == A.mac
    entry = only(node.entries().values())
    assert [d.action for d in entry.dir] == [CtAction.PEER, CtAction.PEER]
    assert (entry.src_lxc, entry.dst_lxc) == (A.lxc_id, B.lxc_id)


@FAMILIES
def test_host_and_world_go_to_the_kernel(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """What is for the node itself, or has no route of its own, is the kernel's to deliver."""
    assert node.run("from_container", tcp(own, host, pod=A), A.device).verdict == NEXT
    assert node.run("from_container", tcp(own, world, pod=A), A.device).verdict == NEXT
    actions = {e.dir[e.orig].action for e in node.entries().values()}
    assert actions == {CtAction.STACK}


@FAMILIES
def test_world_identity_depends_on_the_stack(
    own: str, local: str, remote: str, world: str, host: str
) -> None:
    """An address that nobody knows is world: 9 or 10 with two families, 2 with one."""
    six = ":" in own
    for constants, expected in (
        ({}, abi.Identity.WORLD_IPV6 if six else abi.Identity.WORLD_IPV4),
        ({"cfg_ipv4" if six else "cfg_ipv6": 0}, abi.Identity.WORLD),
    ):
        node = Node(constants)
        try:
            node.policy(3, EGRESS)
            node.assign(A, 3)
            out = node.run("from_container", tcp(own, world, pod=A), A.device)
            assert out.drop == DropReason.POLICY
            assert out.events[0].dst_label == expected
        finally:
            node.close()


@FAMILIES
def test_forged_source(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """A pod sends from its own addresses only, whoever's it borrows."""
    for source in (local, remote, world, host):
        out = node.run("from_container", udp(source, remote, pod=A), A.device)
        assert (out.verdict, out.drop) == (SHOT, DropReason.INVALID_SIP)
        event = out.events[0]
        assert (event.source, event.src_label) == (A.lxc_id, A.identity)
    assert node.metric(DropReason.INVALID_SIP, abi.Direction.EGRESS) == 4
    assert not node.entries()


@FAMILIES
def test_riding_anothers_flow(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """A pod with another's address cannot use the other's established flow, in either direction."""
    node.run("from_container", tcp(own, remote, pod=A), A.device)
    node.run("from_container", tcp(own, remote, "A", pod=A), A.device)
    out = node.run("from_container", tcp(own, remote, "A", pod=A), B.device)
    assert (out.verdict, out.drop) == (SHOT, DropReason.INVALID_SIP)
    node.run("from_container", tcp(own, local, pod=A), A.device)
    out = node.run("from_container", tcp(local, own, "A", sport=80, dport=4000), A.device)
    assert (out.verdict, out.drop) == (SHOT, DropReason.INVALID_SIP)


@FAMILIES
def test_policy_drop_says_why(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """A drop by policy names reason, identities, endpoint, direction and policy in its event."""
    node.policy(3, EGRESS)
    node.assign(A, 3)
    out = node.run("from_container", tcp(own, remote, pod=A), A.device)
    (event,) = out.events
    assert (event.type, event.subtype) == (EventType.DROP, DropReason.POLICY)
    assert (event.source, event.direction) == (A.lxc_id, abi.Direction.EGRESS)
    assert (event.src_label, event.dst_label) == (A.identity, REMOTE_ID)
    assert (event.policy_id, event.rule) == (3, abi.RuleIds.NONE)
    assert (event.saddr, event.daddr) == (mapped(own), mapped(remote))
    assert (event.sport, event.dport, event.protocol) == (4000, 80, 6)
    assert bool(event.flags & abi.EventFlags.IPV6) == (":" in own)
    assert event.file == abi.SourceFile.POLICY
    assert event.line
    assert node.metric(DropReason.POLICY, abi.Direction.EGRESS) == 1
    assert not node.entries()


@FAMILIES
def test_receivers_policy_is_judged_on_the_way(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """A node-local flow needs the receiver's ingress policy too; its drop is the receiver's."""
    node.policy(3, INGRESS, {ports(A.identity, 80, egress=False): PolicyEntry(rule_id=20)})
    node.assign(B, 3)
    out = node.run("from_container", tcp(own, local, dport=81, pod=A), A.device)
    (event,) = out.events
    assert event.subtype == DropReason.POLICY
    assert (event.source, event.direction) == (B.lxc_id, abi.Direction.INGRESS)
    assert node.metric(DropReason.POLICY, abi.Direction.INGRESS) == 1
    out = node.run("from_container", tcp(own, local, dport=80, pod=A), A.device)
    assert out.verdict == REDIRECT
    verdict = next(e for e in out.events if e.type == EventType.POLICY_VERDICT)
    assert (verdict.rule, verdict.source, verdict.direction) == (
        20,
        B.lxc_id,
        abi.Direction.INGRESS,
    )
    assert verdict.match == abi.PolicyMatch.L3_L4
    assert only(node.entries().values()).rule_ingress == 20


@FAMILIES
def test_deny_wins(node: Node, own: str, local: str, remote: str, world: str, host: str) -> None:
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
    out = node.run("from_container", tcp(own, remote, pod=A), A.device)
    assert out.drop == DropReason.POLICY_DENY
    assert out.events[0].rule == 21


@FAMILIES
def test_permission_taken_away_ends_the_flow(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """After a revision bump the next packet is judged again, whichever direction it has."""
    allowed = {ports(B.identity, 80, egress=True): PolicyEntry(rule_id=20)}
    for reply_first in (False, True):
        node.policy(3, EGRESS, allowed)
        node.assign(A, 3)
        node.run("from_container", tcp(own, local, pod=A), A.device)
        node.run("from_container", tcp(local, own, "SA", sport=80, dport=4000, pod=B), B.device)
        node.policy(4, EGRESS)
        node.assign(A, 4)
        still = node.run("from_container", tcp(own, local, "A", pod=A), A.device)
        assert still.verdict == REDIRECT, "before the bump the cached verdict holds"
        node.set_revision(7 if reply_first else 5)
        if reply_first:
            reply = tcp(local, own, "A", sport=80, dport=4000, pod=B)
            out = node.run("from_container", reply, B.device)
        else:
            out = node.run("from_container", tcp(own, local, "A", pod=A), A.device)
        assert (out.verdict, out.drop) == (SHOT, DropReason.POLICY)
        assert out.events[0].source == A.lxc_id
        assert not node.entries()
        node.set_revision(6)


@FAMILIES
def test_permission_that_stays_keeps_the_flow(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """A bump that changes nothing for a flow costs it one pass, in either direction, no packet."""
    node.policy(3, EGRESS, {ports(B.identity, 80, egress=True): PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    node.run("from_container", tcp(own, local, pod=A), A.device)
    node.set_revision(2)
    reply = tcp(local, own, "A", sport=80, dport=4000, pod=B)
    assert node.run("from_container", reply, B.device).verdict == REDIRECT
    assert node.run("from_container", tcp(own, local, "A", pod=A), A.device).verdict == REDIRECT
    entry = only(node.entries().values())
    assert [d.revision for d in entry.dir] == [2, 2]


@FAMILIES
def test_syn_on_a_closed_connection_is_new(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """Ports used again after FIN are a new connection: judged, reported as reopened."""
    for flags in ("S", "A", "FA"):
        node.run("from_container", tcp(own, remote, flags, pod=A), A.device)
    assert only(node.entries().values()).flags & abi.CtFlags.TX_CLOSING
    out = node.run("from_container", tcp(own, remote, pod=A), A.device)
    assert out.verdict == REDIRECT
    assert out.events[-1].ct_state == abi.CtState.REOPENED
    entry = only(node.entries().values())
    assert not entry.flags & abi.CtFlags.TX_CLOSING
    assert entry.dir[entry.orig].packets == 1


@FAMILIES
def test_syn_against_a_connection_is_judged(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """The side that was connected to cannot connect back over the same ports without permission."""
    node.policy(3, INGRESS)
    node.assign(A, 3)
    node.run("from_container", tcp(own, local, pod=A), A.device)
    out = node.run("from_container", tcp(local, own, sport=80, dport=4000, pod=B), B.device)
    assert out.drop == DropReason.POLICY
    assert len(node.entries()) == 1


@FAMILIES
def test_both_sides_closed_lives_short(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """FIN both ways leaves the entry its closing time only; an expired entry counts as absent."""
    segments = [("S", A), ("SA", B), ("A", A), ("FA", A), ("FA", B)]
    for flags, pod in segments:
        source, target = (own, local) if pod is A else (local, own)
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
    out = node.run("from_container", tcp(own, local, "A", pod=A), A.device)
    assert out.events[-1].ct_state == abi.CtState.NEW


@FAMILIES
def test_tunnel_port_is_not_for_pods(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """A pod cannot send VXLAN, which would carry an identity of its choice."""
    out = node.run("from_container", udp(own, world, dport=8472, pod=A), A.device)
    assert out.drop == DropReason.ENCAP_PROHIBITED


@FAMILIES
def test_echo(node: Node, own: str, local: str, remote: str, world: str, host: str) -> None:
    """Replies to an allowed ping pass; a ping the other way with the same number is judged."""
    six = ":" in own
    protocol, request = (58, 128) if six else (1, 8)
    key = ports(B.identity, request, egress=True, protocol=protocol)
    node.policy(3, EGRESS | INGRESS, {key: PolicyEntry(rule_id=20)})
    node.assign(A, 3)
    assert node.run("from_container", echo(own, local, pod=A), A.device).verdict == REDIRECT
    reply = echo(local, own, reply=True, pod=B)
    assert node.run("from_container", reply, B.device).verdict == REDIRECT
    ping = echo(local, own, pod=B)
    assert node.run("from_container", ping, B.device).drop == DropReason.POLICY
    stray = echo(local, own, reply=True, id=9, pod=B)
    assert node.run("from_container", stray, B.device).drop == DropReason.POLICY


@FAMILIES
def test_time_exceeded(
    node: Node, own: str, local: str, remote: str, world: str, host: str
) -> None:
    """A packet whose hops are used up ends here, counted, and its sender is told by the router."""
    out = node.run("from_container", udp(own, remote, pod=A, ttl=1), A.device)
    assert out.drop == DropReason.TTL_EXCEEDED
    assert out.verdict == REDIRECT
    frame = parsed(out.data)
    assert frame.dst == A.mac
    inner = frame.lastlayer()
    assert frame.haslayer("IPerror6" if ":" in own else "IPerror"), frame.show(dump=True)
    assert inner is not None
    name = IPv6 if ":" in own else IP
    assert frame[name].dst == own
    again = type(frame)(bytes(frame))
    if ":" in own:
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
