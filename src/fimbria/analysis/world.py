"""A cluster as manifests describe it: pods with identities, policies, and what rules refer to.

    files, folders, stdin ─► manifests ─► Collector ─► World ─► ClusterState ─► compiler

A `World` is a value: whoever asks "what if" makes another one (`World.replace_policies`). Every pod
is an endpoint whose both directions count, as if it ran on the node that compiles; pods of one
identity that name the same ports share one endpoint, so ten thousand pods cost little more than
their distinct kinds. Workloads (Deployment, StatefulSet, DaemonSet, ReplicaSet, Job, CronJob) stand
in for their pods with one pod, called like themselves.

A bad document never stops the rest: it is one line in `World.errors`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

from fimbria.compile.state import ClusterState, LocalEndpoint, NodeConfig, RemoteEndpoint
from fimbria.datapath.abi import EndpointIds
from fimbria.model.identity import RESERVED
from fimbria.model.policy import Policy, PolicyKey
from fimbria.model.semantics import Mode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from fimbria.analysis.objects import ServicePort
    from fimbria.compile.state import Node
    from fimbria.model.labels import Labels
    from fimbria.model.peers import CidrGroup, Service, ServiceKey
    from fimbria.model.policy import NamedPort
    from fimbria.sources.files import Manifest, ManifestError

SELF = "fimbria-analysis"
"""Name of the node that the compiler believes to run on; no real node has it."""

STAND_INS = bytes([240, 0, 0, 0])
"""The first of the addresses for pods and nodes that have none; no network uses 240.0.0.0/4."""


def made_up(ip: bytes) -> bool:
    """Return whether an address was made up for who has none."""
    return len(ip) == len(STAND_INS) and ip[0] >= STAND_INS[0]


class UnitKey(NamedTuple):
    """What pods with the same policy have in common: identity and the ports that they name."""

    identity: int
    named: tuple[NamedPort, ...]


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod, or the stand-in of a workload.

    `labels` are its identity's, `named` the ports that it names (sorted), `addresses` packed,
    `node` the name of its node or "", `plain` the labels of its own object. A pod without address
    has one from STAND_INS on.
    """

    namespace: str
    name: str
    kind: str
    identity: int
    labels: Labels
    named: tuple[NamedPort, ...]
    addresses: tuple[bytes, ...]
    node: str = ""
    plain: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def unit(self) -> UnitKey:
        """Return what it shares with the pods that have its policy."""
        return UnitKey(self.identity, self.named)

    @property
    def stands_in(self) -> bool:
        """Return whether its address was made up."""
        return made_up(self.addresses[0])

    @property
    def family(self) -> int:
        """Return 4 or 6; 0 if it has addresses of both, or none of its own."""
        sizes = {len(ip) for ip in self.addresses}
        if self.stands_in or len(sizes) > 1:
            return 0
        return 4 if sizes == {4} else 6

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


@dataclass(frozen=True)
class View:
    """What of a world is judged as a node sees it.

    These are the node itself, `units` of its pods, and what `policies` say that select any of them.
    """

    node: str
    units: frozenset[int] = frozenset()
    policies: frozenset[PolicyKey] = frozenset()


@dataclass(frozen=True)
class World:
    """Everything that manifests said. Mappings are not to be changed.

    `pods` and `host_pods` are by "namespace/name"; `host_pods` have their node's network and name
    (or ""). `identities` are numbers with labels, reserved ones included. `manifests` has where a
    policy was written, for files and line numbers. `service_ports` and `service_ips` are what a
    Service says besides its backends. `node_labels`: rules may name nodes by their labels, and were
    read so (enable-node-selector-labels). `errors` are documents (or fields) that were left out,
    `warnings` policies that are refused and so close their subjects.
    """

    pods: Mapping[str, Pod]
    policies: Mapping[PolicyKey, Policy]
    identities: Mapping[int, Labels] = field(default_factory=lambda: dict(RESERVED))
    host_pods: Mapping[str, str] = field(default_factory=dict[str, str])
    nodes: Mapping[str, Node] = field(default_factory=dict[str, "Node"])
    groups: Mapping[str, CidrGroup] = field(default_factory=dict[str, "CidrGroup"])
    services: Mapping[ServiceKey, Service] = field(default_factory=dict["ServiceKey", "Service"])
    service_ports: Mapping[ServiceKey, tuple[ServicePort, ...]] = field(
        default_factory=dict["ServiceKey", "tuple[ServicePort, ...]"]
    )
    service_ips: Mapping[bytes, ServiceKey] = field(default_factory=dict[bytes, "ServiceKey"])
    api_servers: frozenset[bytes] = frozenset()
    node_labels: bool = False
    manifests: Mapping[PolicyKey, Manifest] = field(default_factory=dict[PolicyKey, "Manifest"])
    errors: tuple[ManifestError, ...] = ()
    warnings: tuple[ManifestError, ...] = ()

    def replace_policies(self, policies: Iterable[Policy]) -> World:
        """Return the same world with these policies instead of its own, of unknown origin."""
        return replace(self, policies={policy.key: policy for policy in policies}, manifests={})

    @cached_property
    def units(self) -> dict[UnitKey, int]:
        """Endpoint ids, from 1, by what pods have in common: those of `state().local`."""
        keys = sorted({pod.unit for pod in self.pods.values()})
        numbers = (number for number in count(1) if number != EndpointIds.HOST)
        return dict(zip(keys, numbers, strict=False))

    @cached_property
    def named(self) -> dict[int, frozenset[NamedPort]]:
        """Ports that any pod of an identity names, by identity."""
        found: dict[int, set[NamedPort]] = {}
        for identity, ports in self.units:
            found.setdefault(identity, set()).update(ports)
        return {identity: frozenset(ports) for identity, ports in found.items()}

    @cached_property
    def by_address(self) -> dict[bytes, Pod]:
        """Pods by packed address; the first one of those that claim the same."""
        found: dict[bytes, Pod] = {}
        for pod in self.pods.values():
            for ip in pod.addresses:
                found.setdefault(ip, pod)
        return found

    @cached_property
    def node_of(self) -> dict[bytes, str]:
        """Names of nodes by packed address."""
        return {ip: name for name, node in self.nodes.items() for ip in node.addresses}

    def state(
        self,
        mode: Mode = Mode.DEFAULT,
        cidr_match: frozenset[str] = frozenset(),
        *,
        policy_map_max: int = 16384,
        view: View | None = None,
        host_firewall: bool = False,
    ) -> ClusterState:
        """Return the compiler's input: one local endpoint for each of `units`.

        Both families are on, so that 0.0.0.0/0 and ::/0 are different identities. With `view` it is
        a node's, which has the units and policies that are named there, and with `host_firewall` is
        an endpoint too.
        """
        config = NodeConfig(
            ipv6=True,
            enforcement=mode,
            cidr_match=cidr_match,
            kube_apiserver=self.api_servers,
            policy_map_max=policy_map_max,
            node_labels=self.node_labels,
            host_firewall=host_firewall and view is not None,
        )
        state = ClusterState(SELF if view is None else view.node, config)
        for number, labels in self.identities.items():
            if number not in RESERVED:
                state.identities.put(number, labels)
        for unit, number in self.units.items():
            if view is None or number in view.units:
                pod = LocalEndpoint(number, 0, b"", b"", None, None, unit.identity, unit.named)
                state.local.put(number, pod)
        for pod in self.pods.values():
            if view is not None and pod.named:  # rules may name its ports, wherever it runs
                ip = pod.addresses[0]
                state.remote.put(ip, RemoteEndpoint(ip, pod.identity, b"", pod.named))
        for name, row in self.nodes.items():
            state.nodes.put(name, row)
        for name, group in self.groups.items():
            state.groups.put(name, group)
        for key, service in self.services.items():
            state.services.put(key, service)
        for key, policy in self.policies.items():
            if view is None or key in view.policies:
                state.policies.put(key, policy)
        return state


def load(
    paths: Iterable[str | Path],
    *,
    cluster: str = "default",
    labels: str = "",
    node_labels: bool = False,
) -> World:
    """Return the world that files, folders and "-" (standard input) describe.

    `cluster` is the cluster's name, `labels` the `labels` setting (which labels make an identity),
    `node_labels` enable-node-selector-labels (rules may name nodes by their labels).
    Nothing is raised for what a file says or for one that is missing: see `World.errors`.
    """
    from fimbria.analysis.collect import Collector
    from fimbria.sources.files import scan

    collector = Collector(cluster=cluster, labels=labels, node_labels=node_labels)
    for one in scan(paths):
        collector.take(one)
    return collector.world()


def from_documents(
    documents: Iterable[object],
    *,
    cluster: str = "default",
    labels: str = "",
    origin: str = "",
    node_labels: bool = False,
) -> World:
    """Return the world of objects that are at hand already, as decoded JSON.

    `origin` stands where a file's name would. Otherwise as `load`.
    """
    from fimbria.analysis.collect import Collector
    from fimbria.sources.files import ManifestError, checked

    collector = Collector(cluster=cluster, labels=labels, node_labels=node_labels)
    for document in documents:
        try:
            collector.take(checked(document, origin))
        except ManifestError as error:
            collector.take(error)
    return collector.world()
