"""What arrives at a node for its pods: by overlay, wire, host, and the kernel's routing."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from bench.frames import echo, parsed, tcp, udp
from bench.testnode import (
    EGRESS,
    INGRESS,
    NEXT,
    NODE4,
    NODE6,
    PEER4,
    PEER6,
    REDIRECT,
    REMOTE4,
    REMOTE6,
    REMOTE_ID,
    ROUTER4,
    SHOT,
    WORLD4,
    A,
    B,
    Node,
    wire,
)
from fimbria.datapath import abi
from fimbria.datapath.abi import CtAction, DropReason, PolicyEntry, PolicyKey

pytestmark = pytest.mark.root

FAMILIES = pytest.mark.parametrize(
    ("pod", "remote", "peer", "host"),
    [
        pytest.param(B.ip4, REMOTE4, PEER4, NODE4, id="ipv4"),
        pytest.param(B.ip6, REMOTE6, PEER6, NODE6, id="ipv6"),
    ],
)


def from_identity(identity: int, rule: int = 20) -> dict[PolicyKey, PolicyEntry]:
    """Ingress from one identity, any port."""
    return {PolicyKey(identity, 0, 0, 0): PolicyEntry(rule_id=rule)}


@FAMILIES
def test_overlay_delivers_by_the_vni(
    node: Node, pod: str, remote: str, peer: str, host: str
) -> None:
    """The sender's identity is the VNI's, whatever the ipcache has for its address."""
    node.policy(3, INGRESS, from_identity(4711))
    node.assign(B, 3)
    packet = tcp(remote, pod)
    out = node.run("from_overlay_hop", packet, "cilium_vxlan", vni=4711, outer=PEER4)
    assert out.verdict == REDIRECT
    frame = parsed(out.data)
    assert (frame.src, frame.dst) == (B.node_mac, B.mac)
    assert (frame[IPv6].hlim if IPv6 in frame else frame[IP].ttl) == 63
    out = node.run("from_overlay_hop", packet, "cilium_vxlan", vni=REMOTE_ID, outer=PEER4)
    assert out.drop == DropReason.POLICY
    assert len(node.entries()) == 1, "a forged identity does not end another's connection"


@FAMILIES
def test_overlay_fast_path_checks_what_carried_it(
    node: Node, pod: str, remote: str, peer: str, host: str
) -> None:
    """An established flow takes packets with its identity from its node only."""
    node.policy(3, INGRESS, from_identity(REMOTE_ID))
    node.assign(B, 3)
    good = {"vni": REMOTE_ID, "outer": PEER4}
    node.run("from_overlay_hop", tcp(remote, pod), "cilium_vxlan", **good)
    segment = tcp(remote, pod, "A")
    assert node.run("from_overlay_hop", segment, "cilium_vxlan", **good).verdict == REDIRECT
    other = node.run("from_overlay_hop", segment, "cilium_vxlan", vni=999, outer=PEER4)
    assert other.drop == DropReason.POLICY
    stranger = node.run(
        "from_overlay_hop", segment, "cilium_vxlan", vni=REMOTE_ID, outer="203.0.113.5"
    )
    assert stranger.drop == DropReason.UNKNOWN_SENDER
    assert node.run("from_overlay_hop", segment, "cilium_vxlan", **good).verdict == REDIRECT


@FAMILIES
def test_overlay_refuses(node: Node, pod: str, remote: str, peer: str, host: str) -> None:
    """Host's identity, none, unknown nodes and packets without a tunnel key end here."""
    packet = tcp(remote, pod)

    def run(vni: int, outer: str) -> int | None:
        return node.run("from_overlay_hop", packet, "cilium_vxlan", vni=vni, outer=outer).drop

    assert run(abi.Identity.HOST, PEER4) == DropReason.INVALID_IDENTITY
    assert run(abi.Identity.UNKNOWN, PEER4) == DropReason.INVALID_IDENTITY
    assert run(REMOTE_ID, "203.0.113.5") == DropReason.UNKNOWN_SENDER
    bare = node.run("from_overlay", packet, "cilium_vxlan")
    assert bare.drop == DropReason.NO_TUNNEL_KEY
    assert node.metric(DropReason.UNKNOWN_SENDER, abi.Direction.INGRESS) == 1


@FAMILIES
def test_overlay_to_the_host(node: Node, pod: str, remote: str, peer: str, host: str) -> None:
    """What is for the node itself goes to the kernel, and does not become a connection."""
    out = node.run(
        "from_overlay_hop", tcp(remote, host), "cilium_vxlan", vni=REMOTE_ID, outer=PEER4
    )
    assert out.verdict == NEXT
    assert not node.entries()


def test_remote_node_that_serves_the_api(node: Node) -> None:
    """remote-node in the VNI becomes kube-apiserver where the ipcache says so, never host."""
    node.ipcache("192.168.77.3", abi.Identity.KUBE_APISERVER)
    node.ipcache("192.168.77.4", abi.Identity.HOST)
    node.policy(3, INGRESS, from_identity(abi.Identity.KUBE_APISERVER))
    node.assign(B, 3)
    via = {"vni": abi.Identity.REMOTE_NODE, "outer": PEER4}
    good = node.run("from_overlay_hop", tcp("192.168.77.3", B.ip4), "cilium_vxlan", **via)
    assert good.verdict == REDIRECT
    again = tcp("192.168.77.3", B.ip4, "A")
    assert node.run("from_overlay_hop", again, "cilium_vxlan", **via).verdict == REDIRECT
    bad = node.run("from_overlay_hop", tcp("192.168.77.4", B.ip4), "cilium_vxlan", **via)
    assert bad.drop == DropReason.POLICY
    assert bad.events[0].src_label == abi.Identity.REMOTE_NODE


@FAMILIES
def test_reply_by_tunnel_needs_no_rule(
    node: Node, pod: str, remote: str, peer: str, host: str
) -> None:
    """A pod that may not be reached gets the answers to what it asked."""
    node.policy(3, INGRESS)
    node.assign(B, 3)
    node.run("from_container", tcp(pod, remote, pod=B), B.device)
    reply = tcp(remote, pod, "SA", sport=80, dport=4000)
    out = node.run("from_overlay_hop", reply, "cilium_vxlan", vni=REMOTE_ID, outer=PEER4)
    assert out.verdict == REDIRECT
    stray = tcp(remote, pod, "SA", sport=81, dport=4000)
    out = node.run("from_overlay_hop", stray, "cilium_vxlan", vni=REMOTE_ID, outer=PEER4)
    assert out.drop == DropReason.POLICY


@FAMILIES
def test_native_arrival(native: Node, pod: str, remote: str, peer: str, host: str) -> None:
    """Native routing: the source's identity is the ipcache's; others' traffic is the kernel's."""
    native.policy(3, INGRESS, from_identity(REMOTE_ID))
    native.assign(B, 3)
    out = native.run("from_netdev", tcp(remote, pod), "eth0")
    assert out.verdict == REDIRECT
    assert parsed(out.data).dst == B.mac
    assert native.run("from_netdev", tcp(remote, pod, "A"), "eth0").verdict == REDIRECT
    assert native.run("from_netdev", tcp(peer, pod), "eth0").drop == DropReason.POLICY
    assert native.run("from_netdev", tcp(remote, host), "eth0").verdict == NEXT
    assert not any(e.flags & abi.CtFlags.FROM_TUNNEL for e in native.entries().values())


@FAMILIES
def test_wire_is_not_believed(node: Node, pod: str, remote: str, peer: str, host: str) -> None:
    """From the wire nobody is a pod behind the tunnel, a pod of this node, or the node itself."""
    assert node.run("from_netdev", tcp(remote, pod), "eth0").drop == DropReason.UNKNOWN_SENDER
    own = A.ip6 if ":" in pod else A.ip4
    assert node.run("from_netdev", tcp(own, pod), "eth0").drop == DropReason.INVALID_SIP
    assert node.run("from_netdev", tcp(host, pod), "eth0").drop == DropReason.INVALID_SIP


def test_wire_traffic_that_is_not_for_pods(node: Node) -> None:
    """ARP, unknown protocols, the overlay's own packets: the kernel's, whatever they are."""
    arp = bytes(Ether(dst="ff:ff:ff:ff:ff:ff") / ARP(pdst=NODE4))
    ospf = bytes(Ether() / IP(src=PEER4, dst=NODE4, proto=89)) + bytes(20)
    fragment = bytes(Ether() / IP(src=PEER4, dst=NODE4, proto=17, frag=100)) + bytes(20)
    for packet in (arp, ospf, fragment, udp(PEER4, NODE4, dport=8472)):
        out = node.run("from_netdev", packet, "eth0")
        assert (out.verdict, out.events) == (NEXT, [])


@FAMILIES
def test_host_to_local_pod(node: Node, pod: str, remote: str, peer: str, host: str) -> None:
    """The host is who has the node's address; replies from the pod go back to the kernel."""
    node.policy(3, INGRESS, from_identity(abi.Identity.HOST, abi.RuleIds.ALLOW_LOCALHOST))
    node.assign(B, 3)
    out = node.run("from_host", tcp(host, pod), "cilium_host")
    assert out.verdict == REDIRECT
    assert parsed(out.data).dst == B.mac
    (entry,) = node.entries().values()
    assert entry.dir[entry.orig].action == CtAction.REDIRECT
    assert node.run("from_host", tcp(host, pod, "A"), "cilium_host").verdict == REDIRECT
    reply = tcp(pod, host, "SA", sport=80, dport=4000, pod=B)
    assert node.run("from_container", reply, B.device).verdict == NEXT
    routed = node.run("from_host", tcp(peer, pod, sport=4001), "cilium_host")
    assert routed.drop == DropReason.POLICY
    assert routed.events[0].src_label == abi.Identity.REMOTE_NODE


def test_nobody_else_is_the_host(node: Node) -> None:
    """An ipcache entry cannot make an address the host's."""
    node.ipcache(WORLD4, abi.Identity.HOST)
    node.policy(3, INGRESS, from_identity(abi.Identity.HOST))
    node.assign(B, 3)
    out = node.run("from_host", tcp(WORLD4, B.ip4), "cilium_host")
    assert out.drop == DropReason.POLICY
    assert out.events[0].src_label == abi.Identity.WORLD_IPV4


@FAMILIES
def test_host_to_remote_pod(node: Node, pod: str, remote: str, peer: str, host: str) -> None:
    """The host reaches pods of other nodes through the tunnel; what else it sends is its own."""
    assert node.run("from_host", tcp(host, remote), "cilium_host").verdict == REDIRECT
    assert node.run("from_host", tcp(host, peer), "cilium_host").verdict == NEXT
    assert not node.entries()


@FAMILIES
def test_endpoint_routes(pod: str, remote: str, peer: str, host: str) -> None:
    """What the kernel routed to a pod's device is judged there; what was judged passes."""
    node = Node({"cfg_tunnel": 0, "cfg_endpoint_routes": 1, "cfg_host_routing": 0})
    try:
        node.policy(3, INGRESS, from_identity(abi.Identity.HOST))
        node.assign(B, 3)
        assert node.run("to_container", tcp(host, pod), B.device).verdict == NEXT
        assert node.run("to_container", tcp(host, pod, "A"), B.device).verdict == NEXT
        refused = node.run("to_container", tcp(remote, pod), B.device)
        assert (refused.verdict, refused.drop) == (SHOT, DropReason.POLICY)
        judged = node.run("to_container", tcp(remote, pod), B.device, mark=0x0F00)
        assert judged.verdict == NEXT
        other = A.ip6 if ":" in pod else "10.0.9.9"
        if ":" not in pod:
            wrong = node.run("to_container", tcp(host, other), B.device)
            assert wrong.drop == DropReason.NON_LOCAL
    finally:
        node.close()


def test_observers_pass_everything(node: Node) -> None:
    """to_netdev, to_overlay and to_host count and let pass."""
    for program, device in (
        ("to_netdev", "eth0"),
        ("to_overlay", "cilium_vxlan"),
        ("to_host", "cilium_host"),
    ):
        before = node.metric(0, abi.Direction.UNKNOWN)
        assert node.run(program, tcp(ROUTER4, WORLD4), device).verdict == NEXT
        assert node.metric(0, abi.Direction.UNKNOWN) == before + 1


def test_time_exceeded_goes_back_through_the_tunnel(node: Node) -> None:
    """Where a packet from another node uses up its hops, the answer takes the tunnel back."""
    packet = udp(REMOTE4, B.ip4, ttl=1)
    out = node.run("from_overlay_hop", packet, "cilium_vxlan", vni=REMOTE_ID, outer=PEER4)
    assert (out.verdict, out.drop) == (REDIRECT, DropReason.TTL_EXCEEDED)
    frame = parsed(out.data)
    assert (frame[IP].src, frame[IP].dst) == (ROUTER4, REMOTE4)


@FAMILIES
def test_two_nodes(pod: str, remote: str, peer: str, host: str) -> None:
    """A packet's whole way: out of a pod on one node, through the tunnel, into a pod on another."""
    one, two = Node(), Node()
    try:
        six = ":" in pod
        source, target = (A.ip6, REMOTE6) if six else (A.ip4, REMOTE4)
        two.endpoint(
            target,
            abi.EndpointInfo(
                ifindex=two.ifindex[B.device],
                lxc_id=B.lxc_id,
                mac=bytes.fromhex(B.mac.replace(":", "")),
                node_mac=bytes.fromhex(B.node_mac.replace(":", "")),
                sec_id=REMOTE_ID,
            ),
        )
        two.maps["cilium_node_map"].put(
            abi.NodeKey(family=abi.Family.IPV4, ip=wire(NODE4)).pack(), abi.NodeInfo(id=1).pack()
        )
        two.policy(3, INGRESS | EGRESS, from_identity(A.identity))
        two.assign(B, 3)
        sent = one.run("from_container_hop", tcp(source, target, pod=A), A.device)
        got = two.run("from_overlay_hop", sent.data, "cilium_vxlan", vni=sent.cb(0), outer=NODE4)
        assert got.verdict == REDIRECT
        frame = parsed(got.data)
        assert frame.dst == B.mac
        assert (frame[IPv6].hlim if six else frame[IP].ttl) == 62
        assert [e.src_label for e in got.events] == [A.identity] * len(got.events)
        ping = echo(source, target, pod=A)
        sent = one.run("from_container_hop", ping, A.device)
        assert sent.verdict == REDIRECT
        assert sent.cb(0) == A.identity
    finally:
        one.close()
        two.close()
