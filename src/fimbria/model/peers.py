"""Whom a rule names: by labels, by address, by group, by service, by name in the DNS.

    Selector    identities by their labels (model.selector)
    Cidr        addresses outside the cluster, by prefix
    CidrGroups  the prefixes of CiliumCIDRGroups, by the groups' labels
    Services    the pods or addresses behind Services
    Fqdn        the addresses that a DNS proxy has learned for a name

Groups and services are looked up in the `Context` at the time of judging, because they change
without the policy.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, NamedTuple

from fimbria.model.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.model.labels import Labels


class Prefix(NamedTuple):
    """An address prefix: packed address (4 or 16 bytes, network order, host bits zero) and bits."""

    ip: bytes
    bits: int

    def covers(self, other: Prefix) -> bool:
        """Return whether every address of `other` is in this prefix."""
        if len(self.ip) != len(other.ip) or self.bits > other.bits:
            return False
        shift = len(self.ip) * 8 - self.bits
        return int.from_bytes(self.ip, "big") >> shift == int.from_bytes(other.ip, "big") >> shift

    def __str__(self) -> str:
        return f"{ip_address(self.ip)}/{self.bits}"


def prefix(text: str) -> Prefix:
    """Return the prefix of "10.0.0.0/8", or of a single address. Raises ValueError.

    Host bits are cut off, as Kubernetes and Cilium do.
    """
    net = ip_network(text, strict=False)
    return Prefix(net.network_address.packed, net.prefixlen)


def host_prefix(ip: bytes) -> Prefix:
    """Return the prefix of one packed address."""
    return Prefix(ip, len(ip) * 8)


@dataclass(frozen=True, slots=True)
class Cidr:
    """Addresses in `net` that are in none of `excepts`."""

    net: Prefix
    excepts: tuple[Prefix, ...] = ()

    def covers(self, other: Prefix) -> bool:
        """Return whether `other` is in it and in no exception."""
        return self.net.covers(other) and not any(out.covers(other) for out in self.excepts)


@dataclass(frozen=True, slots=True)
class CidrGroups:
    """The groups whose labels `selector` selects (by name: label GROUP_NAME), less `excepts`."""

    selector: Selector
    excepts: tuple[Prefix, ...] = ()


GROUP_NAME = "cidrgroup:io.cilium.policy.cidrgroupname"
"""Key (with `/NAME` behind it) of the label that every CIDR group has of itself."""


@dataclass(frozen=True, slots=True)
class Services:
    """Services of a namespace ("" any) by name, or by their labels if `name` is ""."""

    name: str
    namespace: str
    selector: Selector | None = None


@dataclass(frozen=True, slots=True)
class Fqdn:
    """Names in the DNS: one name, or a pattern."""

    name: str
    pattern: str = ""


Whom = Selector | Cidr | CidrGroups | Services | Fqdn


@dataclass(frozen=True, slots=True)
class CidrGroup:
    """A CiliumCIDRGroup. `labels` have source "cidrgroup" and include its own name's."""

    name: str
    labels: Labels
    prefixes: tuple[Prefix, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """A Service. `labels` have source "k8s".

    `selector` selects the identities of its pods, namespace included; None if it has no selector,
    and then `backends` are its packed addresses. `health_port` is its healthCheckNodePort, which
    load balancers ask each node at; 0 none.
    """

    namespace: str
    name: str
    labels: Labels
    selector: Selector | None
    backends: tuple[bytes, ...] = ()
    health_port: int = 0


ServiceKey = tuple[str, str]
"""Namespace and name."""


@dataclass(frozen=True, slots=True)
class Context:
    """What peers refer to besides identities and addresses."""

    groups: Mapping[str, CidrGroup] = field(default_factory=dict[str, CidrGroup])
    services: Mapping[ServiceKey, Service] = field(default_factory=dict[ServiceKey, Service])


NOTHING = Context()
