"""The pinned maps' bytes as text: pure, so that it needs neither root nor an agent.

Every function takes items as they stand in the map (key bytes, value bytes; per-CPU values as a
list with one element per CPU) and gives documents; the tables of `bpf … list` are made of those.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from fimbria.datapath import abi
from fimbria.datapath.reasons import REASONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

Item = tuple[bytes, bytes]

V4_MAPPED = bytes(10) + b"\xff\xff"
_ACTIONS = {int(abi.PolicyEntryFlags.DENY): "Deny", int(abi.PolicyEntryFlags.PASS): "Pass"}
PROTOCOLS = {1: "ICMP", 6: "TCP", 17: "UDP", 58: "ICMPv6", 132: "SCTP"}


def address(data: bytes) -> str:
    """Return a `struct addr` (16 bytes, IPv4 v4-mapped) as text."""
    return str(ip_address(data[12:] if data.startswith(V4_MAPPED) else data))


def endpoint_address(ip: bytes, family: int) -> str:
    """Return an address in endpoint_key's form (IPv4 in the first four bytes) as text."""
    return str(ip_address(ip[:4] if family == abi.Family.IPV4 else ip))


def with_port(host: str, port: int) -> str:
    """Return host:port, IPv6 in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def protocol(number: int) -> str:
    """Return a protocol's name, its number where it has none here."""
    return PROTOCOLS.get(number, str(number))


def mac(data: bytes) -> str:
    """Return six bytes as aa:bb:…"""
    return data.hex(":").upper()


def endpoints(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Decode cilium_lxc, in the order of the addresses."""
    found: list[dict[str, Any]] = []
    for key, value in items:
        where, info = abi.EndpointKey.unpack(key), abi.EndpointInfo.unpack(value)
        found.append(
            {
                "ip": endpoint_address(where.ip, where.family),
                "id": info.lxc_id,
                "sec_id": info.sec_id,
                "flags": info.flags,
                "host": bool(info.flags & abi.EndpointFlags.HOST),
                "ifindex": info.ifindex,
                "mac": mac(info.mac),
                "nodemac": mac(info.node_mac),
            }
        )
    return sorted(found, key=lambda one: _order(one["ip"]))


def endpoint_line(one: Mapping[str, Any]) -> str:
    """Return what stands beside an address in `bpf endpoint list`."""
    if one["host"]:
        return "(localhost)"
    return (
        f"id={one['id']:<5} sec_id={one['sec_id']:<5} flags=0x{one['flags']:04x} "
        f"ifindex={one['ifindex']:<3} mac={one['mac']} nodemac={one['nodemac']}"
    )


def ipcache(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Decode cilium_ipcache, in the order of the prefixes."""
    found: list[dict[str, Any]] = []
    for key, value in items:
        where, info = abi.IpcacheKey.unpack(key), abi.IpcacheInfo.unpack(value)
        bits = where.prefixlen - 32
        base = endpoint_address(where.ip, where.family)
        found.append(
            {
                "prefix": str(ip_network((base, bits), strict=False)),
                "identity": info.sec_identity,
                "encryptkey": info.key,
                "tunnelendpoint": str(ip_address(info.tunnel_endpoint)),
                "flags": "skip-tunnel" if info.flags & abi.IpcacheFlags.SKIP_TUNNEL else "<none>",
            }
        )
    return sorted(found, key=lambda one: _order(one["prefix"]))


def ipcache_line(one: Mapping[str, Any]) -> str:
    """Return what stands beside a prefix in `bpf ipcache list`."""
    return (
        f"identity={one['identity']} encryptkey={one['encryptkey']} "
        f"tunnelendpoint={one['tunnelendpoint']}, flags={one['flags']}"
    )


def policy_entries(items: Iterable[Item]) -> list[dict[str, Any]]:
    """Decode one inner policy map: ingress first, then by identity and port."""
    found: list[dict[str, Any]] = []
    for key, value in items:
        where, entry = abi.PolicyKey.unpack(key), abi.PolicyEntry.unpack(value)
        shape = where.shape & ~abi.PolicyShape.EGRESS
        found.append(
            {
                "policy": _ACTIONS.get(entry.flags, "Allow"),
                "direction": "Egress" if where.shape & abi.PolicyShape.EGRESS else "Ingress",
                "identity": where.identity,
                "port": port_text(where.dport, where.protocol, shape),
                "proxy_port": entry.proxy_port,
                "auth_type": entry.auth_type,
                "rule": entry.rule_id,
                "precedence": entry.precedence,
                "prefix": 0 if shape == abi.PolicyShape.ANY else 7 + shape,
                "key": key.hex(" "),
                "value": value.hex(" "),
            }
        )
    return sorted(
        found,
        key=lambda one: (one["direction"] == "Egress", one["identity"], one["port"], one["rule"]),
    )


def port_text(port: int, number: int, shape: int) -> str:
    """Return PORT/PROTO as a policy key of `shape` means it: ANY, ANY/TCP, 80/TCP, 80-87/TCP."""
    if shape == abi.PolicyShape.ANY:
        return "ANY"
    if shape == abi.PolicyShape.PROTO:
        return f"ANY/{protocol(number)}"
    last = port | (0xFFFF >> (shape - 1))
    span = str(port) if last == port else f"{port}-{last}"
    return f"{span}/{protocol(number)}"


def metrics(items: Iterable[tuple[int, Sequence[bytes]]]) -> list[dict[str, Any]]:
    """Decode cilium_metrics: (index, one value per CPU), summed; without what never happened."""
    found: list[dict[str, Any]] = []
    for index, values in items:
        total = counters(values)
        if not total["packets"]:
            continue
        found.append(
            {
                "reason": reason(index & 0xFF),
                "direction": direction(index >> abi.MetricsLayout.DIR_SHIFT),
                **total,
            }
        )
    return sorted(found, key=lambda one: (one["reason"], one["direction"]))


def counters(values: Sequence[bytes]) -> dict[str, int]:
    """Sum one `struct metrics_value` per CPU."""
    decoded = [abi.MetricsValue.unpack(value) for value in values]
    return {
        "packets": sum(one.count for one in decoded),
        "bytes": sum(one.bytes for one in decoded),
    }


def rule_name(document: Mapping[str, Any]) -> str:
    """Return a rule's document as `namespace/name path`, a built-in rule's as its text."""
    owner = "/".join(str(document[key]) for key in ("namespace", "name") if document.get(key))
    if not owner:
        return str(document.get("text") or "")
    return " ".join(part for part in (owner, str(document.get("path") or "")) if part)


def direction(number: int) -> str:
    """Return INGRESS, EGRESS, SERVICE or UNKNOWN."""
    try:
        return abi.Direction(number).name
    except ValueError:
        return str(number)


def reason(number: int) -> str:
    """Return what a drop reason's number means, in the words that operators know."""
    return REASONS.get(number, f"reason {number}")


def _order(text: str) -> tuple[int, int, int]:
    network = ip_network(text)
    return network.version, int(network.network_address), network.prefixlen
