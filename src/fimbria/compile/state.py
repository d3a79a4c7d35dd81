"""What a node knows, as tables of frozen rows: the whole input of the compiler.

    sources -> rows -> ClusterState -> compile.node -> map contents

Addresses are packed bytes (4 or 16, network order) and MACs six bytes, because that is what maps
hold. A cluster has tens of thousands of remote pods, so their row is small and not tracked by the
garbage collector.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.datapath.abi import Identity
from fimbria.model.ends import Places
from fimbria.model.peers import CidrGroup, Context, Prefix, Service, ServiceKey, prefix
from fimbria.model.policy import NamedPort, Policy, PolicyKey
from fimbria.model.semantics import Mode
from fimbria.tables import Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.model.labels import Labels

__all__ = [
    "ClusterState",
    "LocalEndpoint",
    "NamedPort",
    "Node",
    "NodeConfig",
    "RemoteEndpoint",
    "Trial",
]


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """A pod of this node. `ifindex` and `node_mac` are the host side's; identity 0: none yet.

    `audit`: its policy is judged and reported, and lets everything pass.
    """

    id: int
    ifindex: int
    mac: bytes
    node_mac: bytes
    ipv4: bytes | None
    ipv6: bytes | None
    identity: int
    named_ports: tuple[NamedPort, ...] = ()
    audit: bool = False

    @property
    def addresses(self) -> tuple[bytes, ...]:
        """Its addresses, IPv4 first."""
        return tuple(ip for ip in (self.ipv4, self.ipv6) if ip is not None)


class RemoteEndpoint(msgspec.Struct, frozen=True, gc=False):
    """One address of a pod somewhere in the cluster.

    `node_ip`: packed address of its node, b"" if unknown; a tunnel to it ends there if it is IPv4.
    """

    ip: bytes
    identity: int
    node_ip: bytes = b""
    named_ports: tuple[NamedPort, ...] = ()


@dataclass(frozen=True, slots=True)
class Node:
    """A node.

    `ipv4s`, `ipv6s`: its addresses on the underlay; `routers`: those on cilium_host; `tunnel_ip`:
    IPv4 address where tunnels to it end; `pod_cidrs`: "10.0.1.0/24", "fd00:1::/64". `labels`: the
    Kubernetes Node's, with source "node", sorted.
    """

    name: str
    ipv4s: tuple[bytes, ...] = ()
    ipv6s: tuple[bytes, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    tunnel_ip: bytes | None = None
    routers: tuple[bytes, ...] = ()
    labels: Labels = ()

    @property
    def addresses(self) -> Iterator[bytes]:
        """All its addresses."""
        yield from (*self.ipv4s, *self.ipv6s, *self.routers)


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """Settings that map contents depend on; fixed for a compiler's life.

    `endpoint_routes`: the kernel routes to each pod's device; `direct_routes`: without a tunnel,
    routes to other nodes' pods by way of their nodes. `cidr_match`: policy-cidr-match-mode, any of
    "nodes", "pods". `node_labels`: enable-node-selector-labels. `host_firewall`:
    enable-host-firewall; without it no policy is about the node. `audit`: policy-audit-mode, of all
    endpoints.
    """

    tunnel: bool = True
    ipv4: bool = True
    ipv6: bool = False
    enforcement: Mode = Mode.DEFAULT
    policy_map_max: int = 16384
    endpoint_routes: bool = False
    direct_routes: bool = True
    kube_apiserver: frozenset[bytes] = frozenset()
    cidr_match: frozenset[str] = frozenset()
    node_labels: bool = False
    host_firewall: bool = False
    audit: bool = False


def _table_of_locals() -> Table[int, LocalEndpoint]:
    return Table()


def _table_of_identities() -> Table[int, Labels]:
    return Table()


def _table_of_remotes() -> Table[bytes, RemoteEndpoint]:
    return Table()


def _table_of_nodes() -> Table[str, Node]:
    return Table()


def _table_of_groups() -> Table[str, CidrGroup]:
    return Table()


def _table_of_services() -> Table[ServiceKey, Service]:
    return Table()


def _table_of_trials() -> Table[PolicyKey, Trial]:
    return Table()


def _table_of_policies() -> Table[PolicyKey, Policy]:
    return Table()


@dataclass(frozen=True, slots=True)
class Trial:
    """A policy that holds instead of the one of its name until jiffies (low 32 bits) pass `until`.

    `policy` None: meanwhile there is none. The kernel goes back by itself (struct policy_ref).
    """

    policy: Policy | None
    until: int


@dataclass(slots=True)
class ClusterState:
    """Everything the node knows. Reserved identities need not be in `identities`.

    `local` is by endpoint id, `identities` by number (labels sorted), `remote` by address, `nodes`
    by name, `groups` (CiliumCIDRGroup) by name, `services` by namespace and name, `trials` by the
    policy's key; `self_name` names this node. Change rows by `put` and `delete`; the
    compiler that was given the state takes the dirty keys.
    """

    self_name: str
    config: NodeConfig = field(default_factory=NodeConfig)
    local: Table[int, LocalEndpoint] = field(default_factory=_table_of_locals)
    identities: Table[int, Labels] = field(default_factory=_table_of_identities)
    remote: Table[bytes, RemoteEndpoint] = field(default_factory=_table_of_remotes)
    nodes: Table[str, Node] = field(default_factory=_table_of_nodes)
    policies: Table[PolicyKey, Policy] = field(default_factory=_table_of_policies)
    groups: Table[str, CidrGroup] = field(default_factory=_table_of_groups)
    services: Table[ServiceKey, Service] = field(default_factory=_table_of_services)
    trials: Table[PolicyKey, Trial] = field(default_factory=_table_of_trials)

    def tables(self) -> tuple[Table[Any, Any], ...]:
        """Return all tables."""
        return (
            self.local, self.identities, self.remote, self.nodes, self.policies,
            self.groups, self.services, self.trials,
        )  # fmt: skip

    def context(self) -> Context:
        """Return what peers of rules refer to, as it is now."""
        return Context(dict(self.groups.items()), dict(self.services.items()))

    def places(self) -> Places:
        """Return whose every address is, as it is now; slow, for explanations."""
        config, own = self.config, self.nodes.get(self.self_name)
        nodes = [node for _, node in sorted(self.nodes.items())]
        pods = [row for _, row in sorted(self.local.items())]
        ports = [(pod.identity or int(Identity.INIT), pod.named_ports) for pod in pods]
        ports += [(row.identity, row.named_ports) for row in self.remote.values()]
        named: dict[int, frozenset[NamedPort]] = {}
        for number, some in ports:
            named[number] = named.get(number, frozenset()) | set(some)
        return Places(
            own=frozenset(own.addresses if own else ()),
            own_labels=own.labels if own else (),
            apiserver=config.kube_apiserver,
            local={ip: pod.identity or int(Identity.INIT) for pod in pods for ip in pod.addresses},
            nodes={ip: node.labels for node in nodes for ip in node.addresses},
            remote={ip: row.identity for ip, row in self.remote.items()},
            pod_cidrs=frozenset(cidr for node in nodes for cidr in pod_cidrs(node, config)),
            labels=dict(self.identities.items()),
            named=named,
            dual_stack=config.ipv4 and config.ipv6,
            node_labels=config.node_labels,
            cidr_match=config.cidr_match,
        )


def pod_cidrs(node: Node, config: NodeConfig) -> Iterator[Prefix]:
    """Yield a node's pod CIDRs of the families in use; what cannot be read is left out."""
    for text in node.pod_cidrs:
        try:
            found = prefix(text)
        except ValueError:
            continue
        if config.ipv4 if len(found.ip) == 4 else config.ipv6:
            yield found
