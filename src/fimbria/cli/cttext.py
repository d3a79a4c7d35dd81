"""Conntrack entries as text, one line per connection, in the words of `bpf ct list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fimbria.cli.maptext import address, protocol, with_port
from fimbria.datapath import abi

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    Items = Iterable[tuple[bytes, bytes]]

FLAG_NAMES = {
    abi.CtFlags.RX_CLOSING: "RxClosing",
    abi.CtFlags.TX_CLOSING: "TxClosing",
    abi.CtFlags.LOOPBACK: "LBLoopback",
    abi.CtFlags.SEEN_NON_SYN: "SeenNonSyn",
    abi.CtFlags.NODE_PORT: "NodePort",
    abi.CtFlags.PROXY_REDIRECT: "ProxyRedirect",
    abi.CtFlags.DSR: "DSR",
    abi.CtFlags.FROM_TUNNEL: "FromTunnel",
}


HALF_OPEN = "HalfOpen"


def connections(answered: Items, half_open: Items, now: int, hz: int) -> list[dict[str, Any]]:
    """Decode cilium_ct and cilium_ct_new; `now` in jiffies, `hz` jiffies per second.

    Ordered by address and port. A connection on its way from one table to the other is shown once.

    The ends are put back in the order of the connection: `source` opened it. "tx" is the opener's
    direction, "rx" the answers. "expires" is in seconds from now, negative for what is over.
    """
    tables = (half_open, True), (answered, False)
    rows = {key: (value, state) for items, state in tables for key, value in items}
    found = [_connection(key, value, half, now, hz) for key, (value, half) in rows.items()]
    return sorted(found, key=lambda one: (one["protocol"], one["source"], one["destination"]))


def connection_line(one: Mapping[str, Any]) -> str:
    """Return the line that `bpf ct list` prints for a connection."""
    tx, rx = one["tx"], one["rx"]
    names = " ".join([*one["flag_names"], *([HALF_OPEN] if one["half_open"] else [])])
    return (
        f"{one['protocol']} {one['direction']} {one['source']} -> {one['destination']} "
        f"expires={one['expires']} Packets={tx['packets'] + rx['packets']} "
        f"Bytes={tx['bytes'] + rx['bytes']} "
        f"RxFlagsSeen=0x{rx['flags']:02x} LastRxReport={rx['last_report']} "
        f"TxFlagsSeen=0x{tx['flags']:02x} LastTxReport={tx['last_report']} "
        f"Flags=0x{one['flags']:04x} [ {names + ' ' if names else ''}] RevNAT={one['rev_nat']} "
        f"SourceSecurityID={one['identity']} IfIndex={tx['ifindex']} "
        f"BackendID={one['backend_id']}"
    )


def _connection(key: bytes, value: bytes, half_open: bool, now: int, hz: int) -> dict[str, Any]:
    where, entry = abi.CtKey.unpack(key), abi.CtEntry.unpack(value)
    ends = [
        with_port(address(where.a), where.port_a),
        with_port(address(where.b), where.port_b),
    ]
    opener = entry.orig & 1
    tx, rx = entry.dir[opener], entry.dir[1 - opener]
    left = (entry.expires - now + (1 << 31)) % (1 << 32) - (1 << 31)
    return {
        "protocol": protocol(where.protocol),
        "direction": "OUT" if entry.src_lxc or not entry.dst_lxc else "IN",
        "source": ends[opener],
        "destination": ends[1 - opener],
        "expires": left // hz,
        "tx": _direction(tx),
        "rx": _direction(rx),
        "half_open": half_open,
        "flags": entry.flags,
        "flag_names": [name for flag, name in FLAG_NAMES.items() if entry.flags & flag],
        "rev_nat": entry.rev_nat,
        "identity": tx.identity,
        "backend_id": entry.backend_id,
        "source_endpoint": entry.src_lxc,
        "destination_endpoint": entry.dst_lxc,
        "rule_egress": entry.rule_egress,
        "rule_ingress": entry.rule_ingress,
    }


def _direction(side: abi.CtDir) -> dict[str, int]:
    return {
        "packets": side.packets,
        "bytes": side.bytes,
        "flags": side.tcp_flags,
        "last_report": side.last_report,
        "identity": side.identity,
        "ifindex": side.ifindex,
        "revision": side.revision,
    }
