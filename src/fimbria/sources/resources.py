"""The kinds that Fimbria reads, each with the few fields it needs.

An agent may hold 50,000 CiliumEndpoints; a full decode of each would cost a gigabyte, so each kind
is a slim Struct and msgspec skips the rest. Policies stay plain documents, because every field of
theirs must be looked at, the unknown ones too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from msgspec import Struct, field

T = TypeVar("T")
Document = dict[str, Any]


@dataclass(frozen=True)
class Resource(Generic[T]):
    """A kind of the API: where it lives and what its objects are decoded to."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    type: type[T]

    @property
    def api_version(self) -> str:
        """Return what stands in an object's apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Return the request path of the collection, or of one object if `name` is given."""
        path = f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"
        if self.namespaced and namespace is not None:
            path += f"/namespaces/{namespace}"
        path += f"/{self.plural}"
        return f"{path}/{name}" if name is not None else path


class Base(Struct, frozen=True, rename="camel", omit_defaults=True):
    """What all parts of objects share: camelCase on the wire, defaults left out."""


class Meta(Base, frozen=True):
    """The part of ObjectMeta that anything here looks at."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None
    creation_timestamp: str | None = None


class SlimMeta(Base, frozen=True):
    """ObjectMeta without labels and annotations, for kinds that come by the ten thousand."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""


class ContainerPort(Base, frozen=True):
    """A port that a container names."""

    container_port: int = 0
    name: str = ""
    protocol: str = "TCP"


class Container(Base, frozen=True):
    """A container of a pod. `restart_policy` is an init container's own: Always makes a sidecar."""

    name: str = ""
    ports: list[ContainerPort] | None = None
    restart_policy: str = ""


def named_ports(
    containers: list[Container] | None, init_containers: list[Container] | None
) -> list[ContainerPort]:
    """Return the ports with a name of what runs as long as the pod: its containers and sidecars."""
    sidecars = (one for one in init_containers or () if one.restart_policy == "Always")
    return [
        port
        for container in (*(containers or ()), *sidecars)
        for port in container.ports or ()
        if port.name
    ]


class PodSpec(Base, frozen=True):
    """What the network needs of a pod's spec."""

    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodStatus(Base, frozen=True):
    """The phase: a pod that Succeeded or Failed has no network any more."""

    phase: str = ""


class Pod(Base, frozen=True):
    """v1 Pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Namespace(Base, frozen=True):
    """v1 Namespace."""

    metadata: Meta


class NodeAddress(Base, frozen=True):
    """An address of a v1 Node."""

    type: str = ""
    address: str = ""


class NodeSpec(Base, frozen=True):
    """The pod CIDRs that Kubernetes itself allocated, for `ipam: kubernetes`."""

    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")


class NodeStatus(Base, frozen=True):
    """A node's addresses."""

    addresses: list[NodeAddress] | None = None


class Node(Base, frozen=True):
    """v1 Node."""

    metadata: Meta
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class CiliumNodeAddress(Base, frozen=True):
    """An address of a CiliumNode; type InternalIP, ExternalIP or CiliumInternalIP (the router)."""

    type: str = ""
    ip: str = ""


class CiliumNodeIpam(Base, frozen=True):
    """The pod CIDRs that the operator gave to a node."""

    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")


class CiliumNodeSpec(Base, frozen=True):
    """cilium.io/v2 CiliumNode.spec."""

    addresses: list[CiliumNodeAddress] | None = None
    ipam: CiliumNodeIpam = CiliumNodeIpam()


class CiliumNode(Base, frozen=True):
    """cilium.io/v2 CiliumNode."""

    metadata: Meta
    spec: CiliumNodeSpec = CiliumNodeSpec()


class AddressPair(Base, frozen=True):
    """An endpoint's addresses, one of each family at most."""

    ipv4: str = ""
    ipv6: str = ""


class EndpointNetworking(Base, frozen=True):
    """Where an endpoint is: its addresses, and its node's address."""

    addressing: list[AddressPair] | None = None
    node: str = ""


class EndpointIdentity(Base, frozen=True):
    """An endpoint's identity by number; its labels stand in the CiliumIdentity."""

    id: int = 0


class NamedPort(Base, frozen=True):
    """A port with a name, as policies refer to it."""

    name: str = ""
    port: int = 0
    protocol: str = "TCP"


class EndpointStatus(Base, frozen=True):
    """cilium.io/v2 CiliumEndpoint.status."""

    id: int = 0
    identity: EndpointIdentity | None = None
    networking: EndpointNetworking | None = None
    named_ports: list[NamedPort] | None = field(default=None, name="named-ports")
    state: str = ""


class CiliumEndpoint(Base, frozen=True):
    """cilium.io/v2 CiliumEndpoint."""

    metadata: SlimMeta
    status: EndpointStatus = EndpointStatus()


class CiliumIdentity(Base, frozen=True):
    """cilium.io/v2 CiliumIdentity: the name is the number, the labels are the key."""

    metadata: Meta
    security_labels: dict[str, str] = field(default_factory=dict[str, str], name="security-labels")


class NodeConfigSpec(Base, frozen=True):
    """Which nodes, and which configuration keys they get."""

    node_selector: Document | None = None
    defaults: dict[str, str] | None = None


class CiliumNodeConfig(Base, frozen=True):
    """cilium.io/v2 CiliumNodeConfig."""

    metadata: Meta
    spec: NodeConfigSpec = NodeConfigSpec()


class LeaseSpec(Base, frozen=True):
    """Who holds a lease, and until when."""

    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: int | None = None


class Lease(Base, frozen=True):
    """coordination.k8s.io/v1 Lease."""

    metadata: Meta
    spec: LeaseSpec = LeaseSpec()


PODS = Resource("", "v1", "pods", "Pod", True, Pod)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", False, Namespace)
NODES = Resource("", "v1", "nodes", "Node", False, Node)
EVENTS = Resource[Document]("", "v1", "events", "Event", True, dict)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", True, Lease)
NETWORK_POLICIES = Resource[Document](
    "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True, dict
)
CILIUM_NETWORK_POLICIES = Resource[Document](
    "cilium.io", "v2", "ciliumnetworkpolicies", "CiliumNetworkPolicy", True, dict
)
CILIUM_CLUSTERWIDE_POLICIES = Resource[Document](
    "cilium.io",
    "v2",
    "ciliumclusterwidenetworkpolicies",
    "CiliumClusterwideNetworkPolicy",
    False,
    dict,
)
CLUSTER_NETWORK_POLICIES = Resource[Document](
    "policy.networking.k8s.io",
    "v1alpha2",
    "clusternetworkpolicies",
    "ClusterNetworkPolicy",
    False,
    dict,
)
CILIUM_CIDR_GROUPS = Resource[Document](
    "cilium.io", "v2", "ciliumcidrgroups", "CiliumCIDRGroup", False, dict
)
OLD_CIDR_GROUPS = Resource[Document](
    "cilium.io", "v2alpha1", "ciliumcidrgroups", "CiliumCIDRGroup", False, dict
)
SERVICES = Resource[Document]("", "v1", "services", "Service", True, dict)
ENDPOINT_SLICES = Resource[Document](
    "discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True, dict
)
CILIUM_NODES = Resource("cilium.io", "v2", "ciliumnodes", "CiliumNode", False, CiliumNode)
CILIUM_ENDPOINTS = Resource(
    "cilium.io", "v2", "ciliumendpoints", "CiliumEndpoint", True, CiliumEndpoint
)
CILIUM_IDENTITIES = Resource(
    "cilium.io", "v2", "ciliumidentities", "CiliumIdentity", False, CiliumIdentity
)
CILIUM_NODE_CONFIGS = Resource(
    "cilium.io", "v2", "ciliumnodeconfigs", "CiliumNodeConfig", True, CiliumNodeConfig
)
