"""Reading the ports of a ClusterNetworkPolicy, in the present form and in the one before.

protocols: [{tcp: {destinationPort: {number | range}}}, {destinationNamedPort}]
ports: [{portNumber: {protocol, port}}, {portRange: {protocol, start, end}}, {namedPort}]
"""

from __future__ import annotations

from typing import Any

from fimbria.model.fields import Fields
from fimbria.model.policy import PolicyError, PortSpec, Protocol
from fimbria.model.ports import ANY_PORTS, port_name, port_number

_PROTOCOLS = {"tcp": Protocol.TCP, "udp": Protocol.UDP, "sctp": Protocol.SCTP}


def cluster_protocol(value: Any, path: str) -> PortSpec:
    """Read an item of `protocols`. Raises PolicyError."""
    fields = Fields(value, path)
    given = fields.only_one(*_PROTOCOLS, "destinationNamedPort")
    if given == "destinationNamedPort":
        return _named(fields, given)
    inner = Fields(fields.any(given), fields.at(given))
    fields.done()
    port = Fields(inner.any("destinationPort"), inner.at("destinationPort"))
    inner.done()
    if port.only_one("number", "range") == "number":
        number = _number(port, "number")
        ports = number, number
    else:
        ports = _range(Fields(port.any("range"), port.at("range")))
    port.done()
    return PortSpec(path, (_PROTOCOLS[given],), ports)


def cluster_port(value: Any, path: str) -> PortSpec:
    """Read an item of `ports`. Raises PolicyError."""
    fields = Fields(value, path)
    given = fields.only_one("portNumber", "portRange", "namedPort")
    if given == "namedPort":
        return _named(fields, given)
    inner = Fields(fields.any(given), fields.at(given))
    fields.done()
    text = inner.text("protocol", "TCP")
    if text.lower() not in _PROTOCOLS or not text.isupper():
        raise PolicyError(inner.at("protocol"), f"{text!r} is none of TCP, UDP, SCTP")
    protocols = (Protocol[text],)
    if given == "portRange":
        return PortSpec(path, protocols, _range(inner))
    port = _number(inner, "port")
    inner.done()
    return PortSpec(path, protocols, (port, port))


def _named(fields: Fields, given: str) -> PortSpec:
    name = port_name(fields.name(given), fields.at(given))
    fields.done()
    return PortSpec(fields.path, ANY_PORTS, None, name)


def _number(fields: Fields, name: str) -> int:
    return port_number(fields.integer(name), fields.at(name), lowest=1)


def _range(fields: Fields) -> tuple[int, int]:
    start, end = _number(fields, "start"), _number(fields, "end")
    fields.done()
    if start >= end:
        raise PolicyError(fields.at("end"), f"{end} is not above {start}")
    return start, end
