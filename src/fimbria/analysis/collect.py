"""From manifests to a `World`: which objects there are, and which pods and identities they mean.

Objects come in any order, and a pod's identity depends on its namespace's labels, so `Collector`
takes everything first and works out pods when it is asked for the world.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from fimbria.analysis import objects
from fimbria.analysis.objects import WORKLOADS, decode, group_of
from fimbria.analysis.world import STAND_INS, Pod, World
from fimbria.compile.state import Node
from fimbria.model.groups import read_group
from fimbria.model.identity import FIRST, LAST, RESERVED, candidate
from fimbria.model.labels import LabelFilter, canonical
from fimbria.model.policy import PolicyError, Protocol
from fimbria.model.policy_parse import KINDS, parse_policy
from fimbria.model.services import read_service, service_of
from fimbria.sources import resources
from fimbria.sources.files import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fimbria.analysis.objects import ServicePort
    from fimbria.model.labels import Labels
    from fimbria.model.peers import CidrGroup, Service, ServiceKey
    from fimbria.model.policy import NamedPort, Policy, PolicyKey
    from fimbria.sources.files import Manifest

Place = tuple[str, str]
"""Namespace and name."""

_PROTOCOLS = {"TCP": int(Protocol.TCP), "UDP": int(Protocol.UDP), "SCTP": int(Protocol.SCTP)}
_ANY_SERVICE: dict[str, Any] = {"metadata": {"name": "any"}, "spec": {}}
_ENDED = ("Succeeded", "Failed")
_POLICY_GROUPS = {
    "NetworkPolicy": "networking.k8s.io",
    "CiliumNetworkPolicy": "cilium.io",
    "CiliumClusterwideNetworkPolicy": "cilium.io",
    "ClusterNetworkPolicy": "policy.networking.k8s.io",
}


class _Row(NamedTuple):
    """A pod before its identity has a number."""

    kind: str
    labels: Labels
    named: tuple[NamedPort, ...]
    addresses: tuple[bytes, ...]
    node: str = ""
    plain: Mapping[str, str] = {}


class Collector:
    """Takes manifests in any order. `cluster` and `labels` are as in `world.load`."""

    def __init__(self, *, cluster: str = "default", labels: str = "") -> None:
        self._cluster = cluster
        self._filter = LabelFilter(labels)
        self._seen: dict[tuple[str, str, str, str], tuple[str, int]] = {}
        self._errors: list[ManifestError] = []
        self._warnings: list[ManifestError] = []
        self._policies: dict[PolicyKey, Policy] = {}
        self._manifests: dict[PolicyKey, Manifest] = {}
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._templates: dict[Place, tuple[str, objects.Pod, tuple[NamedPort, ...]]] = {}
        self._identities: dict[int, Labels] = {}
        self._endpoints: dict[Place, tuple[resources.CiliumEndpoint, Labels]] = {}
        self._nodes: dict[str, list[Node]] = {}
        self._groups: dict[str, CidrGroup] = {}
        self._services: dict[Place, Manifest] = {}
        self._slices: dict[Place, list[dict[str, Any]]] = {}
        self._takers: dict[tuple[str, str], Callable[[Manifest], None]] = {
            ("", "Namespace"): self._namespace,
            ("", "Pod"): self._pod,
            ("", "Node"): self._node,
            ("cilium.io", "CiliumNode"): self._cilium_node,
            ("cilium.io", "CiliumIdentity"): self._identity,
            ("cilium.io", "CiliumEndpoint"): self._endpoint,
            ("cilium.io", "CiliumCIDRGroup"): self._group,
            ("", "Service"): self._service,
            ("discovery.k8s.io", "EndpointSlice"): self._slice,
            **{(_POLICY_GROUPS[kind], kind): self._policy for kind in KINDS},
            **dict.fromkeys(WORKLOADS, self._workload),
        }

    def take(self, one: Manifest | ManifestError) -> None:
        """Take a document; what is wrong with it becomes one of the world's errors."""
        if isinstance(one, ManifestError):
            self._errors.append(one)
            return
        try:
            self._take(one)
        except ManifestError as error:
            self._errors.append(error)
        except PolicyError as error:
            self._errors.append(one.error(error.path, error.reason))

    def _take(self, one: Manifest) -> None:
        group = group_of(one)
        taker = self._takers.get((group, one.kind))
        if taker is None:
            if group in objects.POLICY_GROUPS and one.kind not in objects.OTHER_KINDS:
                raise one.error("kind", f"there is no {one.kind} in {group}")
            return
        namespace = one.namespace or "default"
        key = (group, one.kind, namespace, one.name)
        if key in self._seen:
            file, line = self._seen[key]
            raise one.error(
                "metadata.name", f"{one.kind} {one.name} was there already: {file}:{line}"
            )
        self._seen[key] = one.file, one.line("metadata.name")
        taker(one)

    # -- one kind each

    def _policy(self, one: Manifest) -> None:
        policy = parse_policy(one.document, cluster=self._cluster)
        self._policies[policy.key] = policy
        self._manifests[policy.key] = one
        if policy.refusal is not None:
            path, reason = policy.refusal
            what = f"{reason} (the policy is refused and closes what it selects)"
            self._warnings.append(one.error(path, what))

    def _namespace(self, one: Manifest) -> None:
        self._namespaces[one.name] = decode(one, resources.Namespace).metadata.labels or {}

    def _pod(self, one: Manifest) -> None:
        self._add(one, one.kind, decode(one, objects.Pod), "spec")

    def _workload(self, one: Manifest) -> None:
        found = decode(one, objects.Workload)
        if any(owner == "Deployment" for owner in _owners(one)):
            return  # a Deployment's ReplicaSet: its pods are the Deployment's
        template = found.template
        pod = objects.Pod(template.metadata, template.spec)
        self._add(one, one.kind, pod, "spec.template.spec")

    def _add(self, one: Manifest, kind: str, pod: objects.Pod, path: str) -> None:
        """Note a pod; a real one takes the name of a stand-in."""
        named: set[NamedPort] = set()
        for name, protocol, number in objects.named_ports(pod.spec):
            if protocol not in _PROTOCOLS or not 0 < number < 0x10000:
                raise one.error(f"{path}.containers", f"port {name!r} is {number}/{protocol}")
            named.add((name, _PROTOCOLS[protocol], number))
        place = one.namespace or "default", one.name
        have = self._templates.get(place)
        if have is not None and have[0] != "Pod" and kind != "Pod":
            raise one.error("metadata.name", f"{have[0]} {one.name} has pods of this name already")
        if have is None or kind == "Pod":
            self._templates[place] = kind, pod, tuple(sorted(named))

    def _node(self, one: Manifest) -> None:
        found = decode(one, resources.Node)
        addresses = [a.address for a in found.status.addresses or () if a.type.endswith("IP")]
        labels = canonical(f"node:{k}={v}" for k, v in (found.metadata.labels or {}).items())
        ips = [self._ip(one, "status.addresses", text) for text in addresses]
        self._nodes.setdefault(one.name, []).append(
            Node(one.name, _family(ips, 4), _family(ips, 16), tuple(found.spec.pod_cidrs or ()),
                 labels=labels)
        )  # fmt: skip

    def _cilium_node(self, one: Manifest) -> None:
        found = decode(one, resources.CiliumNode).spec
        ips = [self._ip(one, "spec.addresses", a.ip) for a in found.addresses or ()]
        cidrs = tuple(found.ipam.pod_cidrs or ())
        row = Node(one.name, _family(ips, 4), _family(ips, 16), cidrs)
        self._nodes.setdefault(one.name, []).append(row)

    def _identity(self, one: Manifest) -> None:
        found = decode(one, resources.CiliumIdentity)
        if not one.name.isdecimal() or not FIRST <= int(one.name) <= LAST:
            raise one.error("metadata.name", f"{one.name} is no number from {FIRST} to {LAST}")
        labels = (f"{key}={value}" for key, value in found.security_labels.items())
        self._identities[int(one.name)] = canonical(labels)

    def _endpoint(self, one: Manifest) -> None:
        found = decode(one, resources.CiliumEndpoint)
        place = one.namespace or "default", one.name
        labels = canonical(objects.endpoint_labels(one, found))
        self._endpoints[place] = found, labels

    def _group(self, one: Manifest) -> None:
        self._groups[one.name] = read_group(one.document)

    def _service(self, one: Manifest) -> None:
        decode(one, objects.Service)
        self._services[one.namespace or "default", one.name] = one

    def _slice(self, one: Manifest) -> None:
        key = service_of(one.document)
        if key is not None:
            read_service(_ANY_SERVICE, [one.document])
            self._slices.setdefault(key, []).append(one.document)

    @staticmethod
    def _ip(one: Manifest, path: str, text: str) -> bytes:
        try:
            return ip_address(text).packed
        except ValueError as error:
            raise one.error(path, f"{text!r} is no address") from error

    # -- the whole

    def world(self) -> World:
        """Return the world of all that was taken."""
        for endpoint, labels in self._endpoints.values():
            number = endpoint.status.identity.id if endpoint.status.identity is not None else 0
            if labels and FIRST <= number <= LAST:
                self._identities.setdefault(number, labels)
        host_pods: dict[str, str] = {}
        rows = self._rows(host_pods)
        identities, numbers = self._numbers({row.labels for row in rows.values()})
        services, ports, ips = self._behind()
        pods: dict[str, Pod] = {}
        first = int.from_bytes(STAND_INS, "big")
        for index, place in enumerate(sorted(rows), 1):
            row = rows[place]
            stand_in = (first + index).to_bytes(4, "big")
            pods["/".join(place)] = Pod(
                *place, row.kind, numbers[row.labels], row.labels, row.named,
                row.addresses or (stand_in,), row.node, row.plain,
            )  # fmt: skip
        return World(
            pods=pods,
            policies=self._policies,
            identities={**RESERVED, **identities},
            host_pods=host_pods,
            nodes={name: _merged(rows) for name, rows in self._nodes.items()},
            groups=self._groups,
            services=services,
            service_ports=ports,
            service_ips=ips,
            api_servers=self._api_servers(),
            manifests=self._manifests,
            errors=tuple(self._errors),
            warnings=tuple(self._warnings),
        )

    def _behind(
        self,
    ) -> tuple[
        dict[ServiceKey, Service],
        dict[ServiceKey, tuple[ServicePort, ...]],
        dict[bytes, ServiceKey],
    ]:
        """Return the Services, their ports, and whose an address is."""
        services: dict[ServiceKey, Service] = {}
        ports: dict[ServiceKey, tuple[ServicePort, ...]] = {}
        ips: dict[bytes, ServiceKey] = {}
        for key, one in self._services.items():
            try:
                services[key] = read_service(one.document, self._slices.get(key, ()))
            except PolicyError as error:
                self._errors.append(one.error(error.path, error.reason))
                continue
            spec = decode(one, objects.Service).spec
            ports[key] = tuple(spec.ports or ())
            for ip in _packed([spec.cluster_ip, *(spec.cluster_ips or ())]):
                ips.setdefault(ip, key)
        return services, ports, ips

    def _api_servers(self) -> frozenset[bytes]:
        """Return the addresses behind the Service that every cluster's API server has."""
        slices = self._slices.get(("default", "kubernetes"), [])
        found = read_service(_ANY_SERVICE, slices)
        return frozenset(found.backends)

    def _rows(self, host_pods: dict[str, str]) -> dict[Place, _Row]:
        """Return the pods with a network of their own; the others' nodes go to `host_pods`."""
        rows: dict[Place, _Row] = {}
        known: dict[tuple[object, ...], Labels] = {}
        for place, (kind, pod, named) in self._templates.items():
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
                labels = known[key] = self._labels(place[0], own, account)
            rows[place] = _Row(kind, labels, named, _addresses(pod), pod.spec.node_name, own)
        for place, (endpoint, labels) in self._endpoints.items():
            row = self._from_endpoint(endpoint, labels)
            if row is not None:
                rows.setdefault(place, row)
        return rows

    def _numbers(self, wanted: set[Labels]) -> tuple[dict[int, Labels], dict[Labels, int]]:
        """Return identities by number and by labels: those that are given, and new ones."""
        identities = dict(self._identities)
        numbers = {labels: number for number, labels in sorted(identities.items(), reverse=True)}
        for labels in sorted(wanted - numbers.keys()):
            attempt = 0
            while (number := candidate(labels, attempt)) in identities:
                attempt += 1
            identities[number] = labels
            numbers[labels] = number
        return identities, numbers

    def _labels(self, namespace: str, own: Mapping[str, str], account: str) -> Labels:
        name = {"kubernetes.io/metadata.name": namespace}
        where = {**name, **self._namespaces.get(namespace, {})}
        return self._filter.pod_labels(own, namespace, where, account, self._cluster)

    def _from_endpoint(self, endpoint: resources.CiliumEndpoint, labels: Labels) -> _Row | None:
        """Return the pod that a CiliumEndpoint without a Pod is; None without an identity."""
        status = endpoint.status
        number = status.identity.id if status.identity is not None else 0
        labels = self._identities.get(number) or labels
        if not labels:
            return None
        named = {
            (port.name, _PROTOCOLS[port.protocol], port.port)
            for port in status.named_ports or ()
            if port.protocol in _PROTOCOLS
        }
        pairs = (status.networking.addressing or ()) if status.networking is not None else ()
        texts = [text for pair in pairs for text in (pair.ipv4, pair.ipv6) if text]
        return _Row("CiliumEndpoint", labels, tuple(sorted(named)), _packed(texts))


def _owners(one: Manifest) -> list[str]:
    """Return the kinds that own an object."""
    found = one.document["metadata"].get("ownerReferences")
    rows = cast("list[Any]", found) if isinstance(found, list) else []
    owners = [cast("dict[str, Any]", row) for row in rows if isinstance(row, dict)]
    return [str(owner.get("kind")) for owner in owners]


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


def _family(ips: list[bytes], length: int) -> tuple[bytes, ...]:
    return tuple(ip for ip in ips if len(ip) == length)


def _merged(rows: list[Node]) -> Node:
    """Return one node of what its Node and its CiliumNode say."""
    return Node(
        rows[0].name,
        tuple(dict.fromkeys(ip for row in rows for ip in row.ipv4s)),
        tuple(dict.fromkeys(ip for row in rows for ip in row.ipv6s)),
        tuple(dict.fromkeys(cidr for row in rows for cidr in row.pod_cidrs)),
        labels=tuple(sorted({label for row in rows for label in row.labels})),
    )
