"""Rows for the cluster's nodes: cilium_node_map and routes.

A route names its device by role, because only the agent knows the devices.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fimbria.compile.endpoints import address_key
from fimbria.compile.state import pod_cidrs
from fimbria.datapath.abi import NodeInfo, NodeKey
from fimbria.model.peers import host_prefix

if TYPE_CHECKING:
    from fimbria.compile.state import LocalEndpoint, Node, NodeConfig


class Via(StrEnum):
    """Which way a route leads."""

    HOST = "host"
    """cilium_host, with the node's router address as gateway and the pods' route MTU."""
    ENDPOINT = "endpoint"
    """The endpoint's own device, `ifindex`."""
    NODE = "node"
    """Straight to another node, `gateway`."""
    UNREACHABLE = "unreachable"
    """Nowhere: the kernel answers that the address does not exist."""


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A route of the node's; `destination` is a prefix as text."""

    destination: str
    via: Via
    gateway: str = ""
    ifindex: int = 0


def node_key(ip: bytes) -> bytes:
    """Return the key of an address in cilium_node_map."""
    padded, family = address_key(ip)
    return NodeKey(family=family, ip=padded).pack()


def node_value(node: Node) -> bytes:
    """Return the value of all of a node's addresses: a number that its name gives it."""
    digest = hashlib.blake2b(node.name.encode(), digest_size=4).digest()
    return NodeInfo(id=1 + int.from_bytes(digest, "big") % 0xFFFF).pack()


def node_routes(node: Node, config: NodeConfig, *, own: bool) -> set[Route]:
    """Return the routes that a node's pod CIDRs need."""
    found: set[Route] = set()
    for cidr in pod_cidrs(node, config):
        if own:
            found.add(Route(str(cidr), Via.UNREACHABLE))
        elif config.tunnel:
            found.add(Route(str(cidr), Via.HOST))
        elif config.direct_routes:
            hops = node.ipv4s if len(cidr.ip) == 4 else node.ipv6s
            if hops:
                found.add(Route(str(cidr), Via.NODE, str(ip_address(hops[0]))))
    return found


def endpoint_routes(endpoint: LocalEndpoint, config: NodeConfig) -> set[Route]:
    """Return the host's routes to a pod of this node."""
    found: set[Route] = set()
    for ip in endpoint.addresses:
        destination = str(host_prefix(ip))
        if config.endpoint_routes and endpoint.ifindex:
            found.add(Route(destination, Via.ENDPOINT, ifindex=endpoint.ifindex))
        else:
            found.add(Route(destination, Via.HOST))
    return found
