"""Map bytes as text: in the words of `cilium bpf … list`."""

from __future__ import annotations

import os
from ipaddress import ip_address

from fimbria.cli import cttext, maptext
from fimbria.datapath import abi

MAC = bytes.fromhex("6a8cee3a73d5")


def mapped(text: str) -> bytes:
    one = ip_address(text)
    return one.packed if one.version == 6 else maptext.V4_MAPPED + one.packed


def test_endpoint() -> None:
    """The walk-through's entry: interface index, both MACs, endpoint id."""
    key = abi.EndpointKey(ip=bytes([10, 0, 1, 110]) + bytes(12), family=1).pack()
    info = abi.EndpointInfo(ifindex=11, lxc_id=2006, mac=MAC, node_mac=MAC[::-1], sec_id=300)
    host = abi.EndpointKey(ip=bytes([10, 0, 1, 1]) + bytes(12), family=1).pack()
    items = [(key, info.pack()), (host, abi.EndpointInfo(flags=1).pack())]
    own, pod = maptext.endpoints(items)
    assert (own["ip"], maptext.endpoint_line(own)) == ("10.0.1.1", "(localhost)")
    assert pod["ip"] == "10.0.1.110"
    assert maptext.endpoint_line(pod).split() == [
        "id=2006",
        "sec_id=300",
        "flags=0x0000",
        "ifindex=11",
        "mac=6A:8C:EE:3A:73:D5",
        "nodemac=D5:73:3A:EE:8C:6A",
    ]


def test_ipcache() -> None:
    """Prefixes of both families, in order, with the tunnel endpoint as an address."""
    v4 = abi.IpcacheKey(prefixlen=64, family=1, ip=bytes([10, 0, 1, 110]) + bytes(12)).pack()
    v6 = abi.IpcacheKey(prefixlen=32, family=2).pack()
    info = abi.IpcacheInfo(sec_identity=53731, tunnel_endpoint=0xAC120005).pack()
    first, second = maptext.ipcache([(v6, info), (v4, info)])
    assert (first["prefix"], second["prefix"]) == ("10.0.1.110/32", "::/0")
    assert (
        maptext.ipcache_line(first)
        == "identity=53731 encryptkey=0 tunnelendpoint=172.18.0.5, flags=<none>"
    )


def test_policy_ports() -> None:
    """A key's shape says which ports it means."""
    assert maptext.port_text(0, 0, abi.PolicyShape.ANY) == "ANY"
    assert maptext.port_text(0, 6, abi.PolicyShape.PROTO) == "ANY/TCP"
    assert maptext.port_text(80, 6, abi.PolicyShape.PORT) == "80/TCP"
    assert maptext.port_text(8192, 17, abi.PolicyShape.PROTO + 3) == "8192-16383/UDP"


def test_policy_entries() -> None:
    """Direction, verdict and rule of an entry; ingress stands first."""
    egress = abi.PolicyKey(identity=0, shape=abi.PolicyShape.EGRESS).pack()
    ingress = abi.PolicyKey(identity=300, dport=80, protocol=6, shape=17).pack()
    denied = abi.PolicyEntry(rule_id=17, flags=1).pack()
    first, second = maptext.policy_entries(
        [(egress, denied), (ingress, abi.PolicyEntry(rule_id=16).pack())]
    )
    assert [first[name] for name in ("policy", "direction", "identity", "port", "rule")] == [
        *("Allow", "Ingress", 300, "80/TCP", 16),
    ]
    assert [second[name] for name in ("policy", "direction", "port")] == ["Deny", "Egress", "ANY"]


def test_metrics() -> None:
    """Counters of all CPUs are summed; what never happened is not listed."""
    value = abi.MetricsValue(count=2, bytes=120).pack()
    items = [
        (133 | abi.Direction.INGRESS << 8, [value, value]),
        (0 | abi.Direction.EGRESS << 8, [value, abi.MetricsValue().pack()]),
        (134, [abi.MetricsValue().pack()]),
    ]
    assert maptext.metrics(items) == [
        {"reason": "Policy denied", "direction": "INGRESS", "packets": 4, "bytes": 240},
        {"reason": "Success", "direction": "EGRESS", "packets": 2, "bytes": 120},
    ]


def test_every_reason_of_the_abi_has_words() -> None:
    """A drop reason that the datapath can give is never printed as a bare number."""
    for one in abi.DropReason:
        assert not maptext.reason(one).startswith("reason ")
    assert maptext.reason(255) == "reason 255"


def connection(orig: int, **fields: int) -> dict[str, object]:
    key = abi.CtKey(a=mapped("10.0.0.1"), b=mapped("10.0.0.2"), port_a=5, port_b=80, protocol=6)
    sides = (abi.CtDir(packets=2, bytes=100, tcp_flags=2, identity=300), abi.CtDir(packets=1))
    entry = abi.CtEntry(orig=orig, dir=sides, **fields)
    return cttext.connections([(key.pack(), entry.pack())], [], now=1000, hz=100)[0]


def test_connection_line() -> None:
    """One line per connection, from the one who opened it, in the words of `bpf ct list`."""
    one = connection(0, expires=9000, flags=0x10, src_lxc=7)
    assert cttext.connection_line(one) == (
        "TCP OUT 10.0.0.1:5 -> 10.0.0.2:80 expires=80 Packets=3 Bytes=100 RxFlagsSeen=0x00 "
        "LastRxReport=0 TxFlagsSeen=0x02 LastTxReport=0 Flags=0x0010 [ SeenNonSyn ] RevNAT=0 "
        "SourceSecurityID=300 IfIndex=0 BackendID=0"
    )


def test_connection_ends() -> None:
    """The opener stands first whichever end sorts first; incoming is IN."""
    one = connection(1, expires=1000, dst_lxc=7)
    assert (one["source"], one["destination"]) == ("10.0.0.2:80", "10.0.0.1:5")
    assert one["direction"] == "IN"


def test_expiry_survives_the_wrap() -> None:
    """Lifetimes are compared as signed differences of 32 bits; the clock has 64."""
    key = abi.CtKey(protocol=17).pack()
    entry = abi.CtEntry(expires=100).pack()
    now = (1 << 32) - 100
    assert cttext.connections([(key, entry)], [], now, 100)[0]["expires"] == 2
    assert cttext.connections([(key, entry)], [], (1 << 32) + 200, 100)[0]["expires"] == -1


def test_random_bytes_never_fail() -> None:
    """Whatever stands in a map is printed, not raised about."""
    for _ in range(50):
        random = os.urandom(abi.CtKey.SIZE), os.urandom(abi.CtEntry.SIZE)
        cttext.connections([random], [random], 0, 100)
        maptext.policy_entries([(os.urandom(abi.PolicyKey.SIZE), os.urandom(16))])
