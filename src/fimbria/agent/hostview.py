"""The node itself as an endpoint: shown beside its pods while the host firewall is on."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from fimbria.agent.devices import HOST
from fimbria.agent.endpoints import State
from fimbria.datapath.abi import EndpointIds, Identity
from fimbria.model.identity import RESERVED

if TYPE_CHECKING:
    from fimbria.agent.agent import Agent

NUMBER = int(EndpointIds.HOST)
NAMES = (str(NUMBER), "reserved:host")


def document(agent: Agent) -> dict[str, Any] | None:
    """Return the host's endpoint in the form of the pods'; None without host firewall."""
    devices, own = agent.node.devices, agent.cluster.state.nodes.get(agent.config.node_name)
    if not agent.config.enable_host_firewall or devices is None or own is None:
        return None
    first = {f"ipv{v}": str(ip_address(ips[0])) if ips else ""
             for v, ips in ((4, own.ipv4s), (6, own.ipv6s))}  # fmt: skip
    enforcement = agent.policy.enforcement(NUMBER)
    ready = agent.applier.realised > 0
    return {
        "id": NUMBER,
        "state": str(State.READY if ready else State.WAITING_TO_REGENERATE),
        "container-id": "",
        "container-ifname": "",
        "namespace": "",
        "pod": "",
        "pod-uid": "",
        "identity": {
            "id": int(Identity.HOST),
            "labels": [*RESERVED[Identity.HOST], *own.labels],
        },
        "networking": {
            "addressing": [first],
            "interface-name": HOST,
            "interface-index": devices.host,
            "mac": devices.host_mac.hex(":"),
            "host-mac": devices.host_mac.hex(":"),
        },
        "named-ports": [],
        "policy-revision": agent.applier.realised,
        "log": [],
        "policy": {**enforcement.document(), "audit": enforcement.audit},
    }
