"""Reading ports of rules. Limit: 40 ports in a list (Cilium's CRDs)."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fimbria.model.fields import Fields
from fimbria.model.icmp import icmp_rule
from fimbria.model.policy import PolicyError, PortSpec, Protocol
from fimbria.model.proxy import check_port, proxy_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fimbria.model.reading import Place, Reading

MAX_PORTS = 40
ANY_PORTS = (Protocol.TCP, Protocol.UDP, Protocol.SCTP)
"""What protocol ANY means beside a port, also beside 0: no rule with ports is about ICMP."""

_NAME = re.compile(r"(?=[a-z0-9-]{1,63}$)(?=.*[a-z])(?!-)(?!.*--).*[a-z0-9]$")


def cilium_ports(rule: Fields, place: Place, reading: Reading) -> tuple[PortSpec, ...]:
    """Take `toPorts` or `icmps` of a Cilium rule; empty if neither is there. Raises PolicyError."""
    port_rules, icmp_rules = rule.items("toPorts"), rule.items("icmps")
    if port_rules and icmp_rules:
        raise PolicyError(rule.at("icmps"), "Combining ToPorts and ICMPs is not supported yet")
    return _flat(_port_rule(v, p, place, reading) for p, v in port_rules or ()) + _flat(
        icmp_rule(v, p) for p, v in icmp_rules or ()
    )


def kubernetes_port(value: Any, path: str) -> PortSpec:
    """Read one port of a NetworkPolicy; without a number it is all of the protocol (TCP)."""
    fields = Fields(value, path)
    text = fields.text("protocol", "TCP")
    if text not in ("TCP", "UDP", "SCTP"):
        raise PolicyError(fields.at("protocol"), f"{text!r} is none of TCP, UDP, SCTP")
    port = fields.any("port")
    end = fields.integer("endPort")
    fields.done()
    protocols = (Protocol[text],)
    if isinstance(port, str) and port:
        if port.isdecimal():
            raise PolicyError(fields.at("port"), f"{port!r} is a name here: a number has no quotes")
        if end is not None:
            raise PolicyError(fields.at("endPort"), "takes a port number beside it, not a name")
        return PortSpec(path, protocols, None, port_name(port, fields.at("port")))
    if port is None:
        if end is not None:
            raise PolicyError(fields.at("endPort"), "takes a port beside it")
        return PortSpec(path, protocols)
    first = port_number(port, fields.at("port"), lowest=1)
    return PortSpec(path, protocols, _range(first, end, fields))


def _port_rule(value: Any, path: str, place: Place, reading: Reading) -> Iterable[PortSpec]:
    fields = Fields(value, path)
    ports = fields.each("ports", _cilium_port) or ()
    proxy = proxy_of(fields, place)
    fields.done()
    if not 1 <= len(ports) <= MAX_PORTS:
        raise PolicyError(fields.at("ports"), f"{len(ports)} ports where 1 to {MAX_PORTS} belong")
    if proxy is None:
        return ports
    for port in ports:
        check_port(port, proxy)
    reading.needs_proxy(proxy.path)
    return [replace(port, parser=proxy.parser) for port in ports]


def _cilium_port(value: Any, path: str) -> PortSpec:
    fields = Fields(value, path)
    text = fields.text("protocol") or "ANY"
    port = fields.any("port")
    end = fields.integer("endPort") or None
    fields.done()
    # Some letters beyond ASCII have an upper case within it.
    upper = text.upper() if text.isascii() else text
    if upper not in ("ANY", "TCP", "UDP", "SCTP"):
        hint = "; use icmps" if upper.startswith("ICMP") else ""
        raise PolicyError(fields.at("protocol"), f"{text!r} is none of TCP, UDP, SCTP, ANY{hint}")
    protocols = ANY_PORTS if upper == "ANY" else (Protocol[upper],)
    if port is None or port == "":
        raise PolicyError(fields.at("port"), "is missing; 0 stands for all ports")
    if isinstance(port, str) and not port.isdecimal():
        if end:
            raise PolicyError(fields.at("endPort"), "takes a port number beside it, not a name")
        name = port.lower() if port.isascii() else port
        return PortSpec(path, protocols, None, port_name(name, fields.at("port")))
    first = port_number(port, fields.at("port"), lowest=0)
    if first == 0:
        if end:
            raise PolicyError(fields.at("endPort"), "takes a port other than 0 beside it")
        return PortSpec(path, protocols)
    return PortSpec(path, protocols, _range(first, end, fields))


def port_number(value: Any, path: str, *, lowest: int) -> int:
    """Read a port number, as a number or as text. Raises PolicyError."""
    number = value
    if isinstance(value, str) and value.isdecimal() and value.isascii() and len(value) < 9:
        number = int(value)
    if isinstance(number, bool) or not isinstance(number, int) or not lowest <= number <= 65535:
        raise PolicyError(path, f"expected a name or a number from {lowest} to 65535")
    return number


def _range(first: int, end: int | None, fields: Fields) -> tuple[int, int]:
    if end is None:
        return first, first
    if not first <= end <= 65535:
        raise PolicyError(fields.at("endPort"), f"{end} is not from {first} to 65535")
    return first, end


def port_name(value: str, path: str) -> str:
    """Check a port's name. Raises PolicyError."""
    if not _NAME.match(value):
        raise PolicyError(path, f"{value!r} is neither a port number nor a port name (RFC 6335)")
    return value


def _flat(parts: Iterable[Iterable[PortSpec]]) -> tuple[PortSpec, ...]:
    return tuple(port for part in parts for port in part)
