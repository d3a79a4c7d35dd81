"""From the objects of a cluster to its `World`: pods with identities, and what stands behind names.

Taken ─► pods' labels ─► identities ─► numbers ─► World
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from fimbria.analysis import objects
from fimbria.analysis.objects import decode
from fimbria.analysis.world import STAND_INS, Pod, World
from fimbria.compile.state import Node
from fimbria.model.identity import FIRST, LAST, RESERVED, candidate
from fimbria.model.policy import PolicyError, Protocol
from fimbria.model.services import read_service

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.analysis.objects import ServicePort
    from fimbria.model.labels import LabelFilter, Labels
    from fimbria.model.peers import CidrGroup, Service, ServiceKey
    from fimbria.model.policy import NamedPort, Policy, PolicyKey
    from fimbria.sources import resources
    from fimbria.sources.files import Manifest, ManifestError

Place = tuple[str, str]
"""Namespace and name."""

Template = tuple[str, objects.Pod, "tuple[NamedPort, ...]"]
"""Kind of what was written, the pod that it is or makes, and the ports that this names."""

PROTOCOLS = {"TCP": int(Protocol.TCP), "UDP": int(Protocol.UDP), "SCTP": int(Protocol.SCTP)}
ANY_SERVICE: dict[str, Any] = {"metadata": {"name": "any"}, "spec": {}}
"""A Service without selector: what reads EndpointSlices wants one."""

ATTEMPTS = 1000
"""How often an identity's number is sought among those of a cluster; then it is one above them."""

_ENDED = ("Succeeded", "Failed")


@dataclass(slots=True)
class Taken:
    """What manifests said, by kind, before any of it was put together.

    `nodes` has a row for each object that is about a node; `slices` are EndpointSlices by Service.
    """

    cluster: str
    labels: LabelFilter
    node_labels: bool = False
    errors: list[ManifestError] = field(default_factory=list["ManifestError"])
    warnings: list[ManifestError] = field(default_factory=list["ManifestError"])
    policies: dict[PolicyKey, Policy] = field(default_factory=dict["PolicyKey", "Policy"])
    manifests: dict[PolicyKey, Manifest] = field(default_factory=dict["PolicyKey", "Manifest"])
    namespaces: dict[str, Mapping[str, str]] = field(default_factory=dict[str, "Mapping[str, str]"])
    templates: dict[Place, Template] = field(default_factory=dict[Place, Template])
    identities: dict[int, Labels] = field(default_factory=dict[int, "Labels"])
    endpoints: dict[Place, tuple[resources.CiliumEndpoint, Labels]] = field(
        default_factory=dict[Place, "tuple[resources.CiliumEndpoint, Labels]"]
    )
    nodes: dict[str, list[Node]] = field(default_factory=dict[str, list[Node]])
    groups: dict[str, CidrGroup] = field(default_factory=dict[str, "CidrGroup"])
    services: dict[Place, Manifest] = field(default_factory=dict[Place, "Manifest"])
    slices: dict[Place, list[dict[str, Any]]] = field(
        default_factory=dict[Place, list[dict[str, Any]]]
    )


class _Row(NamedTuple):
    """A pod before its identity has a number."""

    kind: str
    labels: Labels
    named: tuple[NamedPort, ...]
    addresses: tuple[bytes, ...]
    node: str = ""
    plain: Mapping[str, str] = {}


def assemble(taken: Taken) -> World:
    """Return the world of all that was taken."""
    for endpoint, labels in taken.endpoints.values():
        number = endpoint.status.identity.id if endpoint.status.identity is not None else 0
        if labels and FIRST <= number <= LAST:
            taken.identities.setdefault(number, labels)
    host_pods: dict[str, str] = {}
    rows = _rows(taken, host_pods)
    identities, numbers = _numbers(taken, {row.labels for row in rows.values()})
    services, ports, ips = _behind(taken)
    pods: dict[str, Pod] = {}
    first = int.from_bytes(STAND_INS, "big")
    stand_ins = (number.to_bytes(4, "big") for number in count(first + 1))
    for place, stand_in in zip(sorted(rows), stand_ins, strict=False):
        row = rows[place]
        pods["/".join(place)] = Pod(
            *place, row.kind, numbers[row.labels], row.labels, row.named,
            row.addresses or (stand_in,), row.node, row.plain,
        )  # fmt: skip
    nodes = {
        name: _merged(rows, stand_in)
        for (name, rows), stand_in in zip(taken.nodes.items(), stand_ins, strict=False)
    }
    return World(
        pods=pods,
        policies=taken.policies,
        identities={**RESERVED, **identities},
        host_pods=host_pods,
        nodes=nodes,
        groups=taken.groups,
        services=services,
        service_ports=ports,
        service_ips=ips,
        api_servers=_api_servers(taken),
        node_labels=taken.node_labels,
        manifests=taken.manifests,
        errors=tuple(taken.errors),
        warnings=tuple(taken.warnings),
    )


def _behind(
    taken: Taken,
) -> tuple[
    dict[ServiceKey, Service],
    dict[ServiceKey, tuple[ServicePort, ...]],
    dict[bytes, ServiceKey],
]:
    """Return the Services, their ports, and whose an address is."""
    services: dict[ServiceKey, Service] = {}
    ports: dict[ServiceKey, tuple[ServicePort, ...]] = {}
    ips: dict[bytes, ServiceKey] = {}
    for key, one in taken.services.items():
        try:
            services[key] = read_service(one.document, taken.slices.get(key, ()))
        except PolicyError as error:
            taken.errors.append(one.error(error.path, error.reason))
            continue
        spec = decode(one, objects.Service).spec
        ports[key] = tuple(spec.ports or ())
        for ip in _packed([spec.cluster_ip, *(spec.cluster_ips or ())]):
            ips.setdefault(ip, key)
    return services, ports, ips


def _api_servers(taken: Taken) -> frozenset[bytes]:
    """Return the addresses behind the Service that every cluster's API server has."""
    slices = taken.slices.get(("default", "kubernetes"), [])
    found = read_service(ANY_SERVICE, slices)
    return frozenset(found.backends)


def _rows(taken: Taken, host_pods: dict[str, str]) -> dict[Place, _Row]:
    """Return the pods with a network of their own; the others' nodes go to `host_pods`."""
    rows: dict[Place, _Row] = {}
    known: dict[tuple[object, ...], Labels] = {}
    for place, (kind, pod, named) in taken.templates.items():
        if pod.status.phase in _ENDED:
            continue
        if pod.spec.host_network:
            host_pods["/".join(place)] = pod.spec.node_name
            continue
        own = pod.metadata.labels or {}
        account = pod.spec.service_account_name
        key = (place[0], account, *sorted(own.items()))
        labels = known.get(key)
        if labels is None:
            labels = known[key] = _labels(taken, place[0], own, account)
        rows[place] = _Row(kind, labels, named, _addresses(pod), pod.spec.node_name, own)
    for place, (endpoint, labels) in taken.endpoints.items():
        row = _from_endpoint(taken, endpoint, labels)
        if row is not None:
            rows.setdefault(place, row)
    return rows


def _numbers(taken: Taken, wanted: set[Labels]) -> tuple[dict[int, Labels], dict[Labels, int]]:
    """Return identities by number and by labels: those that are given, and new ones."""
    identities = dict(taken.identities)
    numbers = {labels: number for number, labels in sorted(identities.items(), reverse=True)}
    for labels in sorted(wanted - numbers.keys()):
        tried = (candidate(labels, attempt) for attempt in range(ATTEMPTS))
        free = (number for number in tried if number not in identities)
        number = next(free, None) or max(*identities, LAST) + 1
        identities[number] = labels
        numbers[labels] = number
    return identities, numbers


def _labels(taken: Taken, namespace: str, own: Mapping[str, str], account: str) -> Labels:
    name = {"kubernetes.io/metadata.name": namespace}
    where = {**name, **taken.namespaces.get(namespace, {})}
    return taken.labels.pod_labels(own, namespace, where, account, taken.cluster)


def _from_endpoint(taken: Taken, endpoint: resources.CiliumEndpoint, labels: Labels) -> _Row | None:
    """Return the pod that a CiliumEndpoint without a Pod is; None without an identity."""
    status = endpoint.status
    number = status.identity.id if status.identity is not None else 0
    labels = taken.identities.get(number) or labels
    if not labels:
        return None
    named = {
        (port.name, PROTOCOLS[port.protocol], port.port)
        for port in status.named_ports or ()
        if port.protocol in PROTOCOLS
    }
    pairs = (status.networking.addressing or ()) if status.networking is not None else ()
    texts = [text for pair in pairs for text in (pair.ipv4, pair.ipv6) if text]
    return _Row("CiliumEndpoint", labels, tuple(sorted(named)), _packed(texts))


def _addresses(pod: objects.Pod) -> tuple[bytes, ...]:
    texts = [pod.status.pod_ip, *(one.ip for one in pod.status.pod_ips or ())]
    return _packed(texts)


def _packed(texts: list[str]) -> tuple[bytes, ...]:
    """Return addresses as bytes, each once; what is none is left out, as the agent does."""
    found: dict[bytes, None] = {}
    for text in texts:
        try:
            found[ip_address(text).packed] = None
        except ValueError:
            continue
    return tuple(found)


def _merged(rows: list[Node], stand_in: bytes) -> Node:
    """Return one node of what its Node and its CiliumNode say, with an address in any case."""
    known = any(ip for row in rows for ip in row.addresses)
    return Node(
        rows[0].name,
        tuple(dict.fromkeys(ip for row in rows for ip in row.ipv4s)) if known else (stand_in,),
        tuple(dict.fromkeys(ip for row in rows for ip in row.ipv6s)),
        tuple(dict.fromkeys(cidr for row in rows for cidr in row.pod_cidrs)),
        labels=tuple(sorted({label for row in rows for label in row.labels})),
    )
