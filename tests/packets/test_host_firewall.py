"""The host firewall: what enters and leaves a node on its own behalf, and nothing else."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    IPerror6,
    IPv6,
    UDPerror,
)
from scapy.layers.l2 import ARP, Ether

from bench.frames import echo, ip, parsed, tcp, udp
from bench.testnode import (
    EGRESS,
    INGRESS,
    NEXT,
    NODE4,
    NODE6,
    PEER4,
    PEER6,
    PROGRAMS,
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
)
from fimbria.datapath import abi
from fimbria.datapath.abi import DropReason, Identity, PolicyEntry, PolicyKey

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

HOST = int(abi.EndpointIds.HOST)
TCP, UDP_ = 6, 17
LIMIT = 60_000
BOTH = INGRESS | EGRESS


@pytest.fixture(params=[1, 0], ids=["tunnel", "native"])
def node(request: pytest.FixtureRequest) -> Iterator[Node]:
    """A node with the host firewall; both ways of routing."""
    made = Node({"cfg_host_firewall": 1, "cfg_tunnel": request.param})
    yield made
    made.close()


@pytest.fixture
def tunnel() -> Iterator[Node]:
    """The same, with tunnel routing only."""
    made = Node({"cfg_host_firewall": 1})
    yield made
    made.close()


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def six(request: pytest.FixtureRequest) -> bool:
    """Both families."""
    return request.param == 6


def port(identity: int, protocol: int, number: int, *, egress: bool = False) -> PolicyKey:
    """The key of one peer, protocol and port."""
    way = int(abi.PolicyShape.EGRESS) if egress else 0
    return PolicyKey(identity, number, protocol, int(abi.PolicyShape.PORT) | way)


def host_policy(
    node: Node, flags: int, entries: dict[PolicyKey, PolicyEntry] | None = None
) -> None:
    """Give the node itself a policy."""
    node.policy(7, flags, entries)
    ref = abi.PolicyRef(policy_id=7)
    node.maps["cilium_policy_ref"].put(struct.pack("=I", HOST), ref.pack())


def ends(six: bool) -> tuple[str, str, str, str]:
    """The node, another node, a pod of it, and somebody outside."""
    return (NODE6, PEER6, REMOTE6, WORLD6) if six else (NODE4, PEER4, REMOTE4, WORLD4)


def test_who_may_come_in(node: Node, six: bool) -> None:
    """A packet for the node is judged by its sender's identity; replies need no rule."""
    own, peer, _, world = ends(six)
    host_policy(node, INGRESS, {port(Identity.REMOTE_NODE, TCP, 22): PolicyEntry(rule_id=20)})
    assert node.run("from_netdev", tcp(peer, own, dport=22), "eth0").verdict == NEXT
    assert node.run("from_netdev", tcp(peer, own, "A", dport=22), "eth0").verdict == NEXT
    answer = tcp(own, peer, "SA", sport=22, dport=4000)
    assert node.run("to_netdev", answer, "eth0").verdict == NEXT
    refused = node.run("from_netdev", tcp(world, own, dport=22), "eth0")
    assert (refused.verdict, refused.drop) == (SHOT, DropReason.POLICY)
    event = refused.events[-1]
    assert (event.source, event.dst_label) == (HOST, Identity.HOST)
    assert event.src_label in (Identity.WORLD_IPV4, Identity.WORLD_IPV6)
    assert node.run("from_netdev", tcp(peer, own, dport=23), "eth0").drop == DropReason.POLICY
    assert len(node.entries()) == 1


def test_what_the_node_may_send(node: Node, six: bool) -> None:
    """A packet of the node's own is judged by its receiver's identity; answers come back."""
    own, peer, _, world = ends(six)
    host_policy(
        node, EGRESS, {port(Identity.REMOTE_NODE, TCP, 6443, egress=True): PolicyEntry(rule_id=21)}
    )
    sent = node.run("to_netdev", tcp(own, peer, dport=6443), "eth0")
    assert sent.verdict == NEXT
    assert [e.rule for e in sent.events if e.type == abi.EventType.POLICY_VERDICT] == [21]
    answer = tcp(peer, own, "SA", sport=6443, dport=4000)
    assert node.run("from_netdev", answer, "eth0").verdict == NEXT
    assert node.run("to_netdev", tcp(own, peer, "A", dport=6443), "eth0").verdict == NEXT
    refused = node.run("to_netdev", udp(own, world), "eth0")
    assert (refused.verdict, refused.drop) == (SHOT, DropReason.POLICY)
    assert (refused.events[-1].source, refused.events[-1].direction) == (HOST, abi.Direction.EGRESS)


def test_permission_that_is_taken_away(node: Node, six: bool) -> None:
    """An established connection ends at its next packet, in either direction."""
    own, peer, _, _ = ends(six)
    for against in (False, True):
        host_policy(node, INGRESS, {port(Identity.REMOTE_NODE, TCP, 22): PolicyEntry(rule_id=20)})
        sport = 4000 + against
        opening = tcp(peer, own, sport=sport, dport=22)
        assert node.run("from_netdev", opening, "eth0").verdict == NEXT
        answer = tcp(own, peer, "SA", sport=22, dport=sport)
        assert node.run("to_netdev", answer, "eth0").verdict == NEXT
        host_policy(node, INGRESS)
        node.set_revision(2 + against)
        forth = ("from_netdev", tcp(peer, own, "A", sport=sport, dport=22))
        back = ("to_netdev", tcp(own, peer, "A", sport=22, dport=sport))
        for program, packet in [back, forth, back] if against else [forth, back, forth]:
            assert node.run(program, packet, "eth0").drop == DropReason.POLICY


def test_without_policy_everything_passes(node: Node, six: bool) -> None:
    """Switched on, and no policy selects the node: nothing is in anybody's way."""
    own, peer, _, world = ends(six)
    for packet in (tcp(peer, own), tcp(world, own), udp(peer, own), echo(world, own)):
        out = node.run("from_netdev", packet, "eth0")
        assert (out.verdict, out.drop) == (NEXT, None)
    for packet in (tcp(own, peer, sport=5), tcp(own, world, sport=5), echo(own, world, id=9)):
        assert node.run("to_netdev", packet, "eth0").verdict == NEXT


def test_what_is_not_the_nodes_own(node: Node, six: bool) -> None:
    """Closed both ways: packets between others, ARP, neighbour discovery, multicast go through."""
    own, peer, _, world = ends(six)
    host_policy(node, BOTH)
    others = [tcp(peer, world), bytes(Ether() / ip(peer, "ff02::1" if six else "224.0.0.1"))]
    if six:
        others += [
            bytes(Ether() / IPv6(src=peer, dst=own, hlim=255) / ICMPv6ND_NS(tgt=own)),
            bytes(Ether() / IPv6(src=peer, dst=own, hlim=255) / ICMPv6ND_NA(tgt=peer)),
        ]
    else:
        others.append(bytes(Ether() / ARP(psrc=peer, pdst=own)))
    for packet in others:
        out = node.run("from_netdev", packet, "eth0")
        assert (out.verdict, out.events) == (NEXT, []), parsed(packet).summary()
    pod = A.ip6 if six else A.ip4
    leaving = [tcp(pod, world), tcp(peer, world)]
    if six:
        leaving += [
            bytes(Ether() / IPv6(src=own, dst=peer, hlim=255) / ICMPv6ND_NS(tgt=peer)),
            bytes(Ether() / IPv6(src=own, dst=peer, hlim=255) / ICMPv6ND_NA(tgt=own)),
        ]
    else:
        leaving.append(bytes(Ether() / ARP(psrc=own, pdst=peer)))
    for packet in leaving:
        out = node.run("to_netdev", packet, "eth0")
        assert (out.verdict, out.events) == (NEXT, []), parsed(packet).summary()
    assert not node.entries()


def test_forwarded_from_pods_is_judged_once(node: Node, six: bool) -> None:
    """What a pod's program sent on carries a mark, and passes the device unseen."""
    own, _, _, world = ends(six)
    host_policy(node, BOTH)
    assert node.run("to_netdev", tcp(own, world), "eth0", mark=0x0F00).verdict == NEXT
    assert node.run("to_netdev", tcp(own, world), "eth0").verdict == SHOT


def test_a_forger_of_our_own_address(node: Node, six: bool) -> None:
    """Nobody outside has an address of this node, and none of its pods'."""
    own, *_ = ends(six)
    for source in (own, A.ip6 if six else A.ip4):
        assert node.run("from_netdev", tcp(source, own), "eth0").drop == DropReason.INVALID_SIP


def test_pod_to_its_node(node: Node, six: bool) -> None:
    """The pod's egress and the node's ingress both have their say; replies need neither."""
    own, *_ = ends(six)
    pod = B.ip6 if six else B.ip4
    node.policy(3, EGRESS, {port(Identity.HOST, TCP, 80, egress=True): PolicyEntry(rule_id=30)})
    node.assign(B, 3)
    host_policy(node, INGRESS, {port(B.identity, TCP, 81): PolicyEntry(rule_id=31)})
    assert node.run("from_container", tcp(pod, own, dport=81, pod=B), B.device).verdict == SHOT
    refused = node.run("from_container", tcp(pod, own, pod=B), B.device)
    assert (refused.drop, refused.events[-1].source) == (DropReason.POLICY, HOST)
    host_policy(node, INGRESS, {port(B.identity, TCP, 80): PolicyEntry(rule_id=31)})
    assert node.run("from_container", tcp(pod, own, pod=B), B.device).verdict == NEXT
    (entry,) = node.entries().values()
    assert (entry.rule_egress, entry.rule_ingress) == (30, 31)
    assert (entry.src_lxc, entry.dst_lxc) == (B.lxc_id, HOST)
    host_policy(node, BOTH, {port(B.identity, TCP, 80): PolicyEntry(rule_id=31)})
    node.set_revision(2)
    answer = tcp(own, pod, "SA", sport=80, dport=4000)
    assert node.run("from_host", answer, "cilium_host").verdict == REDIRECT


def test_node_to_its_pod(node: Node, six: bool) -> None:
    """The node's egress and the pod's ingress both have their say."""
    own, *_ = ends(six)
    pod = B.ip6 if six else B.ip4
    host_policy(node, EGRESS)
    refused = node.run("from_host", tcp(own, pod), "cilium_host")
    assert (refused.drop, refused.events[-1].source) == (DropReason.POLICY, HOST)
    host_policy(node, EGRESS, {port(B.identity, TCP, 80, egress=True): PolicyEntry(rule_id=32)})
    node.policy(3, INGRESS)
    node.assign(B, 3)
    refused = node.run("from_host", tcp(own, pod), "cilium_host")
    assert (refused.drop, refused.events[-1].source) == (DropReason.POLICY, B.lxc_id)
    node.policy(4, INGRESS, {port(Identity.HOST, TCP, 80): PolicyEntry(rule_id=33)})
    node.assign(B, 4)
    assert node.run("from_host", tcp(own, pod), "cilium_host").verdict == REDIRECT
    answer = tcp(pod, own, "SA", sport=80, dport=4000, pod=B)
    assert node.run("from_container", answer, B.device).verdict == NEXT


def test_node_to_a_remote_pod(tunnel: Node, six: bool) -> None:
    """Judged before the tunnel; the answers come by it, and others' openings are judged there."""
    own, _, remote, _ = ends(six)
    host_policy(tunnel, BOTH, {port(REMOTE_ID, TCP, 80, egress=True): PolicyEntry(rule_id=34)})
    assert tunnel.run("from_host", tcp(own, remote), "cilium_host").verdict == REDIRECT
    assert tunnel.run("from_host", tcp(own, remote, "A"), "cilium_host").verdict == REDIRECT
    via = {"vni": REMOTE_ID, "outer": PEER4}
    answer = tcp(remote, own, "SA", sport=80, dport=4000)
    assert tunnel.run("from_overlay_hop", answer, "cilium_vxlan", **via).verdict == NEXT
    again = tcp(remote, own, "A", sport=80, dport=4000)
    assert tunnel.run("from_overlay_hop", again, "cilium_vxlan", **via).verdict == NEXT
    refused = tunnel.run("from_host", tcp(own, remote, dport=81), "cilium_host")
    assert refused.drop == DropReason.POLICY
    opening = tcp(remote, own, dport=22)
    assert tunnel.run("from_overlay_hop", opening, "cilium_vxlan", **via).drop == DropReason.POLICY


def test_a_remote_pod_past_the_tunnel(tunnel: Node, six: bool) -> None:
    """Pods of other nodes send to a node's address on the underlay: they keep their identity."""
    own, _, remote, _ = ends(six)
    host_policy(tunnel, INGRESS, {port(REMOTE_ID, TCP, 80): PolicyEntry(rule_id=35)})
    assert tunnel.run("from_netdev", tcp(remote, own), "eth0").verdict == NEXT
    pod = B.ip6 if six else B.ip4
    assert tunnel.run("from_netdev", tcp(remote, pod), "eth0").drop == DropReason.UNKNOWN_SENDER


def test_the_tunnels_own_packets(tunnel: Node) -> None:
    """They are the node's own traffic, whatever they carry, and one connection per direction."""
    host_policy(tunnel, BOTH)
    inwards = [udp(PEER4, NODE4, sport=40000 + n, dport=8472) for n in range(4)]
    outwards = [udp(NODE4, PEER4, sport=40000 + n, dport=8472) for n in range(4)]
    assert tunnel.run("from_netdev", inwards[0], "eth0").drop == DropReason.POLICY
    assert tunnel.run("to_netdev", outwards[0], "eth0").drop == DropReason.POLICY
    rules = {
        port(Identity.REMOTE_NODE, UDP_, 8472): PolicyEntry(rule_id=40),
        port(Identity.REMOTE_NODE, UDP_, 8472, egress=True): PolicyEntry(rule_id=41),
    }
    host_policy(tunnel, BOTH, rules)
    for packet in inwards:
        assert tunnel.run("from_netdev", packet, "eth0").verdict == NEXT
    for packet in outwards:
        assert tunnel.run("to_netdev", packet, "eth0").verdict == NEXT
    counts = [e.dir[e.orig].packets for e in tunnel.entries().values()]
    assert counts == [4, 4]
    stranger = udp(WORLD4, NODE4, dport=8472)
    assert tunnel.run("from_netdev", stranger, "eth0").drop == DropReason.POLICY


def test_protocols_without_ports(node: Node, six: bool) -> None:
    """The node may speak what its pods may not: judged packet by packet, by who and not by port."""
    own, peer, _, world = ends(six)
    host_policy(
        node,
        BOTH,
        {
            PolicyKey(Identity.REMOTE_NODE, 0, 0, 0): PolicyEntry(rule_id=50),
            PolicyKey(Identity.REMOTE_NODE, 0, 0, 0x80): PolicyEntry(rule_id=51),
        },
    )
    field = {"nh": 47} if six else {"proto": 47}
    assert (
        node.run("from_netdev", bytes(Ether() / ip(peer, own, **field)) + bytes(8), "eth0").verdict
        == NEXT
    )
    assert (
        node.run("to_netdev", bytes(Ether() / ip(own, peer, **field)) + bytes(8), "eth0").verdict
        == NEXT
    )
    stranger = bytes(Ether() / ip(world, own, **field)) + bytes(8)
    assert node.run("from_netdev", stranger, "eth0").drop == DropReason.POLICY
    assert not node.entries()


def test_echo_and_errors(node: Node, six: bool) -> None:
    """Echo by its type; an error about a connection that may be passes, any other is judged."""
    own, peer, _, world = ends(six)
    kind, protocol = (128, 58) if six else (8, 1)
    host_policy(
        node,
        BOTH,
        {
            port(Identity.REMOTE_NODE, protocol, kind): PolicyEntry(rule_id=60),
            port(Identity.REMOTE_NODE, UDP_, 53, egress=True): PolicyEntry(rule_id=61),
        },
    )
    assert node.run("from_netdev", echo(peer, own), "eth0").verdict == NEXT
    assert node.run("to_netdev", echo(own, peer, reply=True), "eth0").verdict == NEXT
    assert node.run("from_netdev", echo(world, own), "eth0").drop == DropReason.POLICY
    assert node.run("to_netdev", udp(own, peer), "eth0").verdict == NEXT

    def unreachable(target: str) -> bytes:
        if six:
            cause = IPerror6(src=own, dst=target) / UDPerror(sport=4000, dport=53)
            return bytes(Ether() / IPv6(src=target, dst=own) / ICMPv6DestUnreach() / cause)
        cause = IP(src=own, dst=target) / UDP(sport=4000, dport=53)
        return bytes(Ether() / IP(src=target, dst=own) / ICMP(type=3, code=3) / cause)

    assert node.run("from_netdev", unreachable(peer), "eth0").verdict == NEXT
    assert node.run("from_netdev", unreachable(world), "eth0").drop == DropReason.POLICY


def test_fragments(tunnel: Node) -> None:
    """A later fragment has the ports of the first; one without is dropped."""
    host_policy(tunnel, INGRESS, {port(Identity.REMOTE_NODE, UDP_, 53): PolicyEntry(rule_id=70)})
    first = bytes(Ether() / IP(src=PEER4, dst=NODE4, id=5, flags="MF") / UDP(dport=53) / bytes(16))
    later = bytes(Ether() / IP(src=PEER4, dst=NODE4, id=5, frag=3, proto=17) / bytes(16))
    stray = bytes(Ether() / IP(src=PEER4, dst=NODE4, id=6, frag=3, proto=17) / bytes(16))
    assert tunnel.run("from_netdev", first, "eth0").verdict == NEXT
    assert tunnel.run("from_netdev", later, "eth0").verdict == NEXT
    assert tunnel.run("from_netdev", stray, "eth0").drop == DropReason.FRAG_NOT_FOUND


def test_a_family_that_pods_do_not_have() -> None:
    """In an IPv4 cluster the node's IPv6 is its own, and judged nevertheless."""
    node = Node({"cfg_host_firewall": 1, "cfg_ipv6": 0})
    try:
        host_policy(node, BOTH, {port(Identity.REMOTE_NODE, TCP, 22): PolicyEntry(rule_id=20)})
        assert node.run("from_netdev", tcp(PEER6, NODE6, dport=22), "eth0").verdict == NEXT
        assert node.run("from_netdev", tcp(WORLD6, NODE6, dport=22), "eth0").verdict == SHOT
        assert node.run("to_netdev", tcp(NODE6, WORLD6, dport=22), "eth0").verdict == SHOT
    finally:
        node.close()


def test_endpoint_routes_judge_the_node(six: bool) -> None:
    """Where the kernel routes to a pod's device, the node's egress is judged there."""
    own, *_ = ends(six)
    node = Node(
        {"cfg_host_firewall": 1, "cfg_tunnel": 0, "cfg_endpoint_routes": 1, "cfg_host_routing": 0}
    )
    try:
        pod = B.ip6 if six else B.ip4
        host_policy(node, EGRESS)
        assert node.run("to_container", tcp(own, pod), B.device).drop == DropReason.POLICY
        host_policy(node, EGRESS, {port(B.identity, TCP, 80, egress=True): PolicyEntry(rule_id=32)})
        assert node.run("to_container", tcp(own, pod), B.device).verdict == NEXT
    finally:
        node.close()


@pytest.mark.parametrize("trace", [0, 3])
@pytest.mark.parametrize("routing", [0, 1], ids=["legacy", "bpf"])
def test_the_verifier(node: Node, routing: int, trace: int) -> None:
    """Every program loads with the host firewall, far from the verifier's limit."""
    node.constants |= {"cfg_host_routing": routing, "cfg_trace": trace}
    for name in PROGRAMS:
        with node.load_apart(name) as loaded:
            walked = loaded.programs[name].info().verified_insns
        assert walked <= LIMIT, f"{name}: {walked} instructions walked"
