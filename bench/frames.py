"""Frames for packet tests, both families by the addresses given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether

if TYPE_CHECKING:
    from bench.testnode import Pod

OUTSIDE_MAC = "02:00:00:00:ee:02"


def ether(pod: Pod | None) -> Any:
    """From a pod to its gateway, or from somewhere else."""
    if pod is None:
        return Ether(src=OUTSIDE_MAC, dst="02:00:00:00:ee:01")
    return Ether(src=pod.mac, dst=pod.node_mac)


def ip(source: str, target: str, **fields: Any) -> Any:
    """An IP header of the addresses' family; `ttl` is IPv6's hop limit too."""
    if ":" not in source:
        return IP(src=source, dst=target, **fields)
    if "ttl" in fields:
        fields["hlim"] = fields.pop("ttl")
    return IPv6(src=source, dst=target, **fields)


def tcp(
    source: str, target: str, flags: str = "S", *, sport: int = 4000, dport: int = 80,
    pod: Pod | None = None, ttl: int = 64,
) -> bytes:  # fmt: skip
    """A TCP segment without data."""
    return bytes(
        ether(pod) / ip(source, target, ttl=ttl) / TCP(sport=sport, dport=dport, flags=flags)
    )


def udp(
    source: str, target: str, *, sport: int = 4000, dport: int = 53, pod: Pod | None = None,
    ttl: int = 64,
) -> bytes:  # fmt: skip
    """A UDP datagram with four bytes in it."""
    return bytes(ether(pod) / ip(source, target, ttl=ttl) / UDP(sport=sport, dport=dport) / b"data")


def echo(
    source: str, target: str, *, reply: bool = False, id: int = 7, pod: Pod | None = None
) -> bytes:
    """An ICMP or ICMPv6 echo request or reply."""
    if ":" in source:
        kind = ICMPv6EchoReply if reply else ICMPv6EchoRequest
        return bytes(ether(pod) / ip(source, target) / kind(id=id))
    return bytes(ether(pod) / ip(source, target) / ICMP(type=0 if reply else 8, id=id))


def parsed(data: bytes) -> Any:
    """A frame taken apart again."""
    return Ether(data)


def ttl_of(data: bytes) -> int:
    """TTL or hop limit of a frame."""
    frame = Ether(data)
    return frame[IPv6].hlim if IPv6 in frame else frame[IP].ttl
