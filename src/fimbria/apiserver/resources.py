"""One row per kind that the server knows: where it lives, what it is called, what it offers.

Routing, discovery, OpenAPI, tables, validation and storage all read this table; a new kind is a
new row. Short names, scopes and subresources are those of Kubernetes 1.32 and of the cilium.io
CRDs, so that clients written for those find what they expect.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

Column = tuple[str, str, str]
"""Printer column: heading, type (string, integer, date), path or the name of a cell function.

A path is dotted below the object (`spec.nodeName`), `[type=X]` picks a list item, `\\.` is a dot
inside a key. A name with a leading `@` is a function of `cells.py`. A type with a leading `+` is
shown with `-o wide` only.
"""

AGE: Column = ("Age", "date", "metadata.creationTimestamp")


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind served under one group and version.

    `status` is True if writes to the main path leave the status alone and `/status` is served.
    `select` are the field selectors beside metadata.name and metadata.namespace. `strategic` is
    False for kinds that take no strategic merge patch (custom resources). `older` are versions
    that are served too, with the same fields: objects are kept as of `version`.
    """

    group: str
    version: str
    kind: str
    plural: str
    short: tuple[str, ...] = ()
    namespaced: bool = True
    status: bool = False
    scale: bool = False
    generation: bool = False
    categories: tuple[str, ...] = ()
    columns: tuple[Column, ...] = (AGE,)
    select: tuple[str, ...] = ()
    strategic: bool = True
    older: tuple[str, ...] = ()
    key: str = field(init=False)
    api_version: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self, "key", f"{self.plural}.{self.group}" if self.group else self.plural
        )
        api_version = f"{self.group}/{self.version}" if self.group else self.version
        object.__setattr__(self, "api_version", api_version)

    @property
    def singular(self) -> str:
        """The name for one of them, in lower case."""
        return self.kind.lower()


def _apps(kind: str, plural: str, short: str, columns: tuple[Column, ...], scale: bool) -> Resource:
    return Resource(
        "apps", "v1", kind, plural, (short,), True, True, scale, True, ("all",), columns
    )  # fmt: skip


def _cilium(
    kind: str,
    plural: str,
    short: tuple[str, ...],
    *columns: Column,
    namespaced: bool = True,
    status: bool = True,
    older: tuple[str, ...] = (),
) -> Resource:
    return Resource(
        "cilium.io", "v2", kind, plural, short, namespaced, status, False, True, ("cilium",),
        columns or (AGE,), (), False, older,
    )  # fmt: skip


_WORKLOAD_WIDE: tuple[Column, ...] = (
    AGE,
    ("Containers", "+string", "@container_names"),
    ("Images", "+string", "@container_images"),
    ("Selector", "+string", "@selector"),
)
_EVENT_COLUMNS: tuple[Column, ...] = (
    ("Last Seen", "date", "@last_seen"),
    ("Type", "string", "type"),
    ("Reason", "string", "reason"),
    ("Object", "string", "@event_object"),
    ("Message", "string", "message"),
)
_VALID: Column = ("Valid", "string", "status.conditions[type=Valid].status")

RESOURCES: tuple[Resource, ...] = (
    Resource("", "v1", "Namespace", "namespaces", ("ns",), False, True,
             columns=(("Status", "string", "status.phase"), AGE), select=("status.phase",)),
    Resource("", "v1", "Node", "nodes", ("no",), False, True,
             select=("spec.unschedulable",), columns=(
        ("Status", "string", "@node_status"), ("Roles", "string", "@node_roles"), AGE,
        ("Version", "string", "status.nodeInfo.kubeletVersion"),
        ("Internal-IP", "+string", "status.addresses[type=InternalIP].address"),
        ("External-IP", "+string", "status.addresses[type=ExternalIP].address"),
        ("OS-Image", "+string", "status.nodeInfo.osImage"),
        ("Kernel-Version", "+string", "status.nodeInfo.kernelVersion"),
        ("Container-Runtime", "+string", "status.nodeInfo.containerRuntimeVersion"))),
    Resource("", "v1", "Pod", "pods", ("po",), True, True, categories=("all",), select=(
        "spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
        "status.phase", "status.podIP", "status.nominatedNodeName"), columns=(
        ("Ready", "string", "@pod_ready"), ("Status", "string", "@pod_status"),
        ("Restarts", "string", "@pod_restarts"), AGE, ("IP", "+string", "status.podIP"),
        ("Node", "+string", "spec.nodeName"),
        ("Nominated Node", "+string", "status.nominatedNodeName"),
        ("Readiness Gates", "+string", "@none"))),
    Resource("", "v1", "Service", "services", ("svc",), True, True, categories=("all",),
             select=("spec.clusterIP", "spec.type"), columns=(
        ("Type", "string", "spec.type"), ("Cluster-IP", "string", "spec.clusterIP"),
        ("External-IP", "string", "@external_ip"), ("Port(s)", "string", "@service_ports"), AGE,
        ("Selector", "+string", "@selector"))),
    Resource("", "v1", "Endpoints", "endpoints", ("ep",),
             columns=(("Endpoints", "string", "@endpoints"), AGE)),
    Resource("", "v1", "ConfigMap", "configmaps", ("cm",),
             columns=(("Data", "integer", "@data_count"), AGE)),
    Resource("", "v1", "Secret", "secrets", select=("type",), columns=(
        ("Type", "string", "type"), ("Data", "integer", "@data_count"), AGE)),
    Resource("", "v1", "ServiceAccount", "serviceaccounts", ("sa",),
             columns=(("Secrets", "integer", "@secret_count"), AGE)),
    Resource("", "v1", "Event", "events", ("ev",), columns=_EVENT_COLUMNS, select=(
        "involvedObject.kind", "involvedObject.namespace", "involvedObject.name",
        "involvedObject.uid", "involvedObject.apiVersion", "involvedObject.resourceVersion",
        "involvedObject.fieldPath", "reason", "reportingComponent", "source", "type")),
    _apps("Deployment", "deployments", "deploy", (
        ("Ready", "string", "@ready_of_wanted"),
        ("Up-to-date", "integer", "status.updatedReplicas|0"),
        ("Available", "integer", "status.availableReplicas|0"), *_WORKLOAD_WIDE), True),
    _apps("ReplicaSet", "replicasets", "rs", (
        ("Desired", "integer", "spec.replicas|0"), ("Current", "integer", "status.replicas|0"),
        ("Ready", "integer", "status.readyReplicas|0"), *_WORKLOAD_WIDE), True),
    _apps("DaemonSet", "daemonsets", "ds", (
        ("Desired", "integer", "status.desiredNumberScheduled|0"),
        ("Current", "integer", "status.currentNumberScheduled|0"),
        ("Ready", "integer", "status.numberReady|0"),
        ("Up-to-date", "integer", "status.updatedNumberScheduled|0"),
        ("Available", "integer", "status.numberAvailable|0"),
        ("Node Selector", "string", "@node_selector"), *_WORKLOAD_WIDE), False),
    _apps("StatefulSet", "statefulsets", "sts", (
        ("Ready", "string", "@ready_of_wanted"), *_WORKLOAD_WIDE[:3]), True),
    Resource("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies", ("netpol",),
             generation=True, columns=(("Pod-Selector", "string", "@pod_selector"), AGE)),
    Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", generation=True, columns=(
        ("AddressType", "string", "addressType"), ("Ports", "string", "@slice_ports"),
        ("Endpoints", "string", "@slice_endpoints"), AGE)),
    Resource("coordination.k8s.io", "v1", "Lease", "leases",
             columns=(("Holder", "string", "spec.holderIdentity"), AGE)),
    Resource("apiextensions.k8s.io", "v1", "CustomResourceDefinition", "customresourcedefinitions",
             ("crd", "crds"), False, True, generation=True, categories=("api-extensions",),
             columns=(("Created At", "string", "metadata.creationTimestamp"),)),
    _cilium("CiliumNetworkPolicy", "ciliumnetworkpolicies", ("cnp", "ciliumnp"), AGE, _VALID),
    _cilium("CiliumClusterwideNetworkPolicy", "ciliumclusterwidenetworkpolicies", ("ccnp",),
            _VALID, AGE, namespaced=False),
    # The status of a CiliumEndpoint is written on the main path: its CRD has no subresource.
    _cilium("CiliumEndpoint", "ciliumendpoints", ("cep", "ciliumep"),
            ("Security Identity", "integer", "status.identity.id"),
            ("Ingress Enforcement", "+string", "status.policy.ingress.enforcing"),
            ("Egress Enforcement", "+string", "status.policy.egress.enforcing"),
            ("Endpoint State", "string", "status.state"),
            ("IPv4", "string", "status.networking.addressing[0].ipv4"),
            ("IPv6", "string", "status.networking.addressing[0].ipv6"), status=False),
    _cilium("CiliumIdentity", "ciliumidentities", ("ciliumid",),
            ("Namespace", "string", "metadata.labels.io\\.kubernetes\\.pod\\.namespace"), AGE,
            namespaced=False),
    _cilium("CiliumNode", "ciliumnodes", ("cn", "ciliumn"),
            ("CiliumInternalIP", "string", "spec.addresses[type=CiliumInternalIP].ip"),
            ("InternalIP", "string", "spec.addresses[type=InternalIP].ip"), AGE, namespaced=False),
    _cilium("CiliumNodeConfig", "ciliumnodeconfigs", (), status=False),
    _cilium("CiliumCIDRGroup", "ciliumcidrgroups", ("ccg",), namespaced=False,
            older=("v2alpha1",)),
    # Its short name would be cnp, which here has always been CiliumNetworkPolicy's.
    Resource("policy.networking.k8s.io", "v1alpha2", "ClusterNetworkPolicy",
             "clusternetworkpolicies", (), False, True, generation=True, strategic=False, columns=(
        ("Tier", "string", "spec.tier"), ("Priority", "integer", "spec.priority"), AGE, _VALID)),
)  # fmt: skip

SERVED: tuple[Resource, ...] = (
    *RESOURCES,
    *(replace(row, version=version) for row in RESOURCES for version in row.older),
)
"""All that discovery tells of: RESOURCES, and the older versions as rows of their own."""

BY_PATH: dict[tuple[str, str, str], Resource] = {
    (row.group, version, row.plural): row
    for row in RESOURCES
    for version in (row.version, *row.older)
}
BY_KEY: dict[str, Resource] = {row.key: row for row in RESOURCES}
BY_KIND: dict[tuple[str, str], Resource] = {(row.api_version, row.kind): row for row in RESOURCES}


def groups() -> dict[str, dict[str, list[Resource]]]:
    """Group → version → rows, in the table's order; the core group is ""."""
    result: dict[str, dict[str, list[Resource]]] = {}
    for row in SERVED:
        result.setdefault(row.group, {}).setdefault(row.version, []).append(row)
    return result
