"""Two versions of one policy, each of several rules: one allows the first of PORTS, one the other.

A half of either, or of both, allows both ports or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.property.manifests import Document

PORTS = (7001, 7002)
"""The ports that the first and the second version allow."""


def port(number: int, last: int = 0) -> Document:
    return {"port": str(number), "protocol": "ANY", **({"endPort": last} if last else {})}


def cilium(version: int) -> Document:
    """Allows in a range, denies in the middle of it, and lets another spec allow the rest."""
    good, bad = PORTS[version], PORTS[1 - version]
    who = {"fromEndpoints": [{"matchLabels": {"app": "client"}}]}
    servers = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    filler = [{"ports": [port(n) for n in range(20000 + 999 * version, 20040 + 999 * version)]}]
    return {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "switched", "namespace": "default"},
        "specs": [
            {**servers, "ingress": [{**who, "toPorts": [{"ports": [port(7000, 7009)]}]},
                                    {**who, "toPorts": filler}]},
            {**servers, "ingressDeny": [{**who, "toPorts": [{"ports": [port(bad)]}]}]},
            {**servers, "ingress": [{"fromEntities": ["cluster"],
                                     "toPorts": [{"ports": [port(good)]}]}]},
        ],
    }  # fmt: skip


def tiered(version: int) -> Document:
    """An admin policy: one port is accepted, one passed on to the ordinary policies."""
    good, bad = PORTS[version], PORTS[1 - version]
    peers = {"from": [{"pods": {"podSelector": {"matchLabels": {"app": "client"}}}}]}

    def rule(number: int, action: str) -> Document:
        where = [{"udp": {"destinationPort": {"number": number}}}]
        return {"action": action, **peers, "protocols": where}

    subject = {"pods": {"podSelector": {"matchLabels": {"app": "server"}}}}
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "switched"},
        "spec": {"tier": "Admin", "priority": 3, "subject": subject, "ingress": [
            rule(bad, "Pass"), rule(good, "Accept"), rule(bad, "Accept"),
        ]},
    }  # fmt: skip


def outgoing(version: int) -> Document:
    """About the sender: what it may send to, and what not, in ranges that overlap."""
    bad = [{"ports": [port(PORTS[1 - version])]}]
    wide = [{"toEntities": ["cluster"], "toPorts": [{"ports": [port(PORTS[0], PORTS[1])]}]}]
    spec = {
        "endpointSelector": {"matchLabels": {"app": "client"}},
        "egress": wide,
        "egressDeny": [{"toEndpoints": [{"matchLabels": {"app": "server"}}], "toPorts": bad}],
    }
    return {**cilium(0), "specs": [spec]}  # fmt: skip


def closed() -> Document:
    servers = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    return {**cilium(0), "metadata": {"name": "closed", "namespace": "default"},
            "specs": [{**servers, "ingress": [{}]}]}  # fmt: skip


def prefixes(version: int) -> Document:
    """By CIDR: prefixes with and without exceptions become other ones, around the same address."""
    wide = [{"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}, {"cidr": "2001:db8::/32"}]
    narrow = [{"cidr": "192.0.2.1/32"}, {"cidr": "2001:db8:1::/48"}]
    to = [{"ports": [port(PORTS[version])]}]
    rules = [{"fromCIDRSet": [narrow, wide][version], "toPorts": to}]
    servers = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    return {**cilium(0), "specs": [{**servers, "ingress": rules}]}


OUTSIDE = ("192.0.2.1", "2001:db8:1::7")


def by_group() -> Document:
    """What is in the group may reach the first port only, what is not the second only."""
    group = [{"cidrGroupRef": "switched"}]
    first, second = ([{"ports": [port(number)]}] for number in PORTS)
    servers = {"endpointSelector": {"matchLabels": {"app": "server"}}}
    rules = {
        "ingress": [{"fromCIDRSet": group, "toPorts": first},
                    {"fromEntities": ["world"], "toPorts": second}],
        "ingressDeny": [{"fromCIDRSet": group, "toPorts": second}],
    }  # fmt: skip
    return {**cilium(0), "metadata": {"name": "by-group", "namespace": "default"},
            "specs": [{**servers, **rules}]}  # fmt: skip


def group(version: int) -> Document:
    """The group with the addresses outside, and without them."""
    inside = ["198.18.0.0/24", "192.0.2.1/32", "2001:db8:1::/64"]
    prefixes = [inside, ["198.18.0.0/16", "198.18.1.0/24"]][version]
    return {"apiVersion": "cilium.io/v2", "kind": "CiliumCIDRGroup",
            "metadata": {"name": "switched"}, "spec": {"externalCIDRs": prefixes}}  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """Two versions of an object, and what there is beside it.

    Packets come from addresses `outside`, or else from the pod `client`. `at` is the node that
    judges, if it is not the receiver's.
    """

    version: Callable[[int], Document]
    others: tuple[Document, ...] = ()
    outside: tuple[str, ...] = ()
    at: str = ""
