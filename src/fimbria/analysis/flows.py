"""Questions about a world: flows, whose two ends are named as users name them.

    {"source": "default/web", "destination": "10.1.2.3", "protocol": "TCP", "port": 80}

What a name stands for in a world is found by analysis.places.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOCOLS = {protocol.name: int(protocol) for protocol in Protocol}


class Flow(msgspec.Struct, frozen=True, gc=False):
    """The first packet of a connection.

    `source` and `destination` are a pod or workload ("namespace/name"), an address, "node:NAME",
    "entity:NAME" or "identity:NUMBER"; `destination` may be "svc:NAMESPACE/NAME" too. `protocol` is
    TCP, UDP, SCTP, ICMP or ICMPV6; ICMP between IPv6 addresses means ICMPV6. `port` is the
    destination port, for ICMP the type. With `reply` it is the answer from the source to the
    destination, which opened the connection to the source's `port`.
    """

    source: str
    destination: str
    protocol: str
    port: int
    reply: bool = False


class FlowError(ValueError):
    """A flow that cannot be judged; the message says why."""


def as_flow(given: Mapping[str, Any]) -> Flow:
    """Return a flow from a mapping. Raises FlowError naming what is missing or wrong."""
    try:
        return msgspec.convert(given, Flow)
    except msgspec.ValidationError as error:
        raise FlowError(str(error)) from error


def flow_or_error(given: Flow | Mapping[str, Any]) -> Flow | FlowError:
    """Return a flow, or what is wrong with it, which is not raised."""
    if isinstance(given, Flow):
        return given
    try:
        return as_flow(given)
    except FlowError as error:
        return error
