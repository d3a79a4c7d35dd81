"""ARP and neighbour discovery on a pod's device: the host side of the veth pair answers."""

from __future__ import annotations

import pytest
from scapy.layers.inet6 import (
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether

from bench.frames import parsed
from bench.testnode import INGRESS, NEXT, REDIRECT, ROUTER6, WORLD4, A, B, Node
from fimbria.datapath.abi import DropReason

pytestmark = pytest.mark.root

LINK_LOCAL = "fe80::ff:fe00:a01"


def arp(target: str, sender: str = A.ip4, **fields: object) -> bytes:
    return bytes(
        Ether(src=A.mac, dst="ff:ff:ff:ff:ff:ff")
        / ARP(hwsrc=A.mac, psrc=sender, pdst=target, **fields)
    )


def solicit(target: str, source: str = A.ip6, *, option: bool = True, hops: int = 255) -> bytes:
    message = ICMPv6ND_NS(tgt=target)
    if option:
        message = message / ICMPv6NDOptSrcLLAddr(lladdr=A.mac)
    return bytes(
        Ether(src=A.mac, dst="33:33:ff:00:00:01")
        / IPv6(src=source, dst="ff02::1:ff00:1", hlim=hops)
        / message
    )


def test_arp_is_answered_for_everyone_else(node: Node) -> None:
    """Any target but the pod's own address: the answer is the host side's MAC."""
    for target in ("10.0.1.1", B.ip4, WORLD4):
        out = node.run("from_container", arp(target), A.device)
        assert out.verdict == REDIRECT
        answer = parsed(out.data)
        assert (answer.dst, answer.src) == (A.mac, A.node_mac)
        reply = answer[ARP]
        assert (reply.op, reply.hwsrc, reply.psrc) == (2, A.node_mac, target)
        assert (reply.hwdst, reply.pdst) == (A.mac, A.ip4)


def test_arp_that_is_not_answered(node: Node) -> None:
    """Announcements of the own address, others' addresses as sender, replies, nonsense."""
    cases = [
        (arp(A.ip4), DropReason.UNSUPPORTED_L2),
        (arp("10.0.1.1", sender=B.ip4), DropReason.INVALID_SIP),
        (arp("10.0.1.1", op=2), DropReason.UNSUPPORTED_L2),
        (arp("10.0.1.1", hwtype=6), DropReason.INVALID),
        (arp("10.0.1.1")[:30], DropReason.INVALID),
    ]
    for packet, reason in cases:
        assert node.run("from_container", packet, A.device).drop == reason


@pytest.mark.parametrize("source", [A.ip6, LINK_LOCAL])
@pytest.mark.parametrize("option", [True, False])
def test_solicitation_is_answered(node: Node, source: str, option: bool) -> None:
    """The gateway, and any address but the own one: answered with a correct advertisement."""
    for target in (ROUTER6, "fe80::1", B.ip6):
        out = node.run("from_container", solicit(target, source, option=option), A.device)
        assert out.verdict == REDIRECT
        frame = parsed(out.data)
        assert (frame.dst, frame.src) == (A.mac, A.node_mac)
        assert (frame[IPv6].src, frame[IPv6].dst, frame[IPv6].hlim) == (target, source, 255)
        advert = frame[ICMPv6ND_NA]
        assert (advert.tgt, advert.R, advert.S, advert.O) == (target, 1, 1, 1)
        assert frame[ICMPv6NDOptDstLLAddr].lladdr == A.node_mac
        checksum = advert.cksum
        del advert.cksum
        assert Ether(bytes(frame))[ICMPv6ND_NA].cksum == checksum


def test_solicitation_that_is_not_answered(node: Node) -> None:
    """Duplicate address detection never finds anybody; forged and foreign ones end here too."""
    for packet in (
        solicit(A.ip6, "::"),
        solicit(B.ip6, "::"),
        solicit(A.ip6),
        solicit(LINK_LOCAL, LINK_LOCAL),
        solicit(ROUTER6, hops=64),
    ):
        assert node.run("from_container", packet, A.device).drop == DropReason.FORBIDDEN_ICMP6
    forged = solicit(ROUTER6, B.ip6)
    assert node.run("from_container", forged, A.device).drop == DropReason.INVALID_SIP


def test_router_solicitations_and_listener_reports(node: Node) -> None:
    """What a pod's kernel sends when its link comes up is no error, and goes nowhere, counted."""
    base = Ether(src=A.mac, dst="33:33:00:00:00:02")
    router = bytes(base / IPv6(src=LINK_LOCAL, dst="ff02::2", hlim=255) / ICMPv6ND_RS())
    report = bytes(base / IPv6(src="::", dst="ff02::16", hlim=1) / ICMPv6MLReport2())
    for count, packet in enumerate((router, report), 1):
        out = node.run("from_container", packet, A.device)
        assert out.drop == DropReason.FORBIDDEN_ICMP6
        assert node.metric(DropReason.FORBIDDEN_ICMP6, 2) == count


def test_link_local_is_for_the_link_only(node: Node) -> None:
    """Link-local sources send nothing that is forwarded."""
    packet = bytes(Ether(src=A.mac) / IPv6(src=LINK_LOCAL, dst=B.ip6, nh=17)) + bytes(8)
    assert node.run("from_container", packet, A.device).drop == DropReason.INVALID_SIP


def test_answers_to_the_kernel_with_endpoint_routes() -> None:
    """Where the kernel routes to the device it also looks for its neighbour, and hears the pod."""
    node = Node({"cfg_endpoint_routes": 1})
    try:
        reply = arp("10.0.1.1", op=2)
        assert node.run("from_container", reply, A.device).verdict == NEXT
        advert = bytes(
            Ether(src=A.mac)
            / IPv6(src=A.ip6, dst="fe80::1", hlim=255)
            / ICMPv6ND_NA(tgt=A.ip6, S=1)
            / ICMPv6NDOptDstLLAddr(lladdr=A.mac)
        )
        assert node.run("from_container", advert, A.device).verdict == NEXT
    finally:
        node.close()


def test_kernel_finds_the_pod_with_endpoint_routes() -> None:
    """The kernel's own solicitations reach the pod, whatever its policy; forwarded ones do not."""
    node = Node({"cfg_endpoint_routes": 1})
    try:
        node.policy(3, INGRESS)
        node.assign(A, 3)
        for target in (A.ip6, "ff02::1:ff00:10"):
            base = Ether(src=A.node_mac) / IPv6(src="fe80::1", dst=target, hlim=255)
            packet = bytes(base / ICMPv6ND_NS(tgt=A.ip6))
            assert node.run("to_container", packet, A.device).verdict == NEXT
        far = bytes(
            Ether(src=A.node_mac)
            / IPv6(src="fe80::1", dst=A.ip6, hlim=254)
            / ICMPv6ND_NS(tgt=A.ip6)
        )
        assert node.run("to_container", far, A.device).drop == DropReason.POLICY
    finally:
        node.close()
