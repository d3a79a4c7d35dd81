"""The Kubernetes objects that a world is made of, each with the few fields that matter to policy.

`decode` turns a manifest into one of these values, or says which field is wrong. A workload counts
as the pods that it would make: one stand-in with its template's labels.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, TypeVar

import msgspec

from fimbria.model.kinds import CIDR_GROUP, CLUSTER_NETWORK_POLICY, GROUPS, KINDS, VERSIONS
from fimbria.sources.resources import Base, CiliumEndpoint, Container, EndpointIdentity, Meta

if TYPE_CHECKING:
    from fimbria.sources.files import Manifest

T = TypeVar("T")

WORKLOADS = frozenset(
    {
        ("apps", "Deployment"),
        ("apps", "StatefulSet"),
        ("apps", "DaemonSet"),
        ("apps", "ReplicaSet"),
        ("", "ReplicationController"),
        ("batch", "Job"),
        ("batch", "CronJob"),
    }
)
"""Group and kind of what makes pods."""

OTHER_KINDS = frozenset(
    {
        "CiliumBGPAdvertisement", "CiliumBGPClusterConfig", "CiliumBGPNodeConfig",
        "CiliumBGPNodeConfigOverride", "CiliumBGPPeerConfig", "CiliumBGPPeeringPolicy",
        "CiliumClusterwideEnvoyConfig", "CiliumEgressGatewayPolicy", "CiliumEndpointSlice",
        "CiliumEnvoyConfig", "CiliumExternalWorkload", "CiliumGatewayClassConfig",
        "CiliumL2AnnouncementPolicy", "CiliumLoadBalancerIPPool", "CiliumLocalRedirectPolicy",
        "CiliumNodeConfig", "CiliumPodIPPool", "Ingress", "IngressClass", "IPAddress",
        "ServiceCIDR",
    }
)  # fmt: skip
"""Kinds of groups with policies that say nothing about who may reach whom."""

POLICY_GROUPS = ("cilium.io", "networking.k8s.io", "policy.networking.k8s.io")
"""API groups in which an unknown kind is likely to be a policy with a slip of the pen."""


_REPLACED = ("AdminNetworkPolicy", "BaselineAdminNetworkPolicy")


class Address(Base, frozen=True):
    """One of a pod's addresses."""

    ip: str = ""


class PodSpec(Base, frozen=True):
    """What policy needs of a pod's spec."""

    node_name: str = ""
    service_account_name: str = ""
    host_network: bool = False
    containers: list[Container] | None = None
    init_containers: list[Container] | None = None


class PodStatus(Base, frozen=True):
    """A pod's addresses, and whether it has ended."""

    phase: str = ""
    pod_ip: str = msgspec.field(default="", name="podIP")
    pod_ips: list[Address] | None = msgspec.field(default=None, name="podIPs")


class Pod(Base, frozen=True):
    """v1 Pod."""

    metadata: Meta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()


class Template(Base, frozen=True):
    """The template of a workload's pods; its metadata needs no name."""

    metadata: Meta = Meta()
    spec: PodSpec = PodSpec()


class TemplateSpec(Base, frozen=True):
    """The part of a workload that holds the template."""

    template: Template = Template()


class JobTemplate(Base, frozen=True):
    """The part of a CronJob that holds a Job's spec."""

    spec: TemplateSpec = TemplateSpec()


class WorkloadSpec(TemplateSpec, frozen=True):
    """A workload's spec, of any kind."""

    job_template: JobTemplate | None = None


class Workload(Base, frozen=True):
    """Whatever makes pods from a template."""

    metadata: Meta
    spec: WorkloadSpec = WorkloadSpec()

    @property
    def template(self) -> Template:
        """Return the template of its pods."""
        nested = self.spec.job_template
        return self.spec.template if nested is None else nested.spec.template


class ServicePort(Base, frozen=True):
    """A port of a Service; `target_port` is a number or a name, None for the same number."""

    port: int
    name: str = ""
    protocol: str = "TCP"
    target_port: int | str | None = None


class ServiceSpec(Base, frozen=True):
    """What stands behind a Service."""

    selector: dict[str, str] | None = None
    ports: list[ServicePort] | None = None
    cluster_ip: str = msgspec.field(default="", name="clusterIP")
    cluster_ips: list[str] | None = msgspec.field(default=None, name="clusterIPs")


class Service(Base, frozen=True):
    """v1 Service."""

    metadata: Meta
    spec: ServiceSpec = ServiceSpec()


class SlicePort(Base, frozen=True):
    """A port of an EndpointSlice."""

    name: str | None = None
    protocol: str = "TCP"
    port: int | None = None


class SliceEndpoint(Base, frozen=True):
    """Addresses of one backend."""

    addresses: list[str] | None = None


class EndpointSlice(Base, frozen=True):
    """discovery.k8s.io/v1 EndpointSlice."""

    metadata: Meta
    endpoints: list[SliceEndpoint] | None = None
    ports: list[SlicePort] | None = None


class LabelledIdentity(EndpointIdentity, frozen=True):
    """An endpoint's identity with its labels (`source:key=value`)."""

    labels: list[str] | None = None


class EndpointStatus(msgspec.Struct, frozen=True):
    """The part of a CiliumEndpoint that the slim resource leaves out."""

    identity: LabelledIdentity | None = None


class EndpointLabels(msgspec.Struct, frozen=True):
    """A CiliumEndpoint, for its identity's labels."""

    status: EndpointStatus = EndpointStatus()


def endpoint_labels(manifest: Manifest, endpoint: CiliumEndpoint) -> list[str]:
    """Return the labels that a CiliumEndpoint gives for its identity, [] if none."""
    if endpoint.status.identity is None:
        return []
    identity = decode(manifest, EndpointLabels).status.identity
    return [] if identity is None else identity.labels or []


def group_of(manifest: Manifest) -> str:
    """Return a manifest's API group, "" for the core."""
    group, slash, _ = str(manifest.document["apiVersion"]).partition("/")
    return group if slash else ""


def check_version(manifest: Manifest) -> None:
    """Raise ManifestError for a policy, or CIDR group, in a version that its group does not have.

    No API server would take it, so it must not count as one that is in force.
    """
    group, kind = group_of(manifest), manifest.kind
    if GROUPS.get(kind) != group and (group, kind) != ("cilium.io", CIDR_GROUP):
        return
    given = str(manifest.document["apiVersion"])
    known = [f"{group}/{version}" for version in VERSIONS[kind]]
    if given not in known:
        raise manifest.error("apiVersion", f"{kind} is of {' or '.join(known)}, not {given}")


class Named:
    """Objects that were there already, by what they are called."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str, str, str], tuple[str, int]] = {}

    def note(self, one: Manifest) -> None:
        """Note an object. Raises ManifestError if there was one of its kind and name."""
        key = (group_of(one), one.kind, one.namespace or "default", one.name)
        if key in self._seen:
            file, line = self._seen[key]
            raise one.error(
                "metadata.name", f"{one.kind} {one.name} was there already: {file}:{line}"
            )
        self._seen[key] = one.file, one.line("metadata.name")


def no_such_kind(group: str, kind: str) -> str:
    """Return what to say of a kind that a group with policies does not have."""
    hint = ""
    if kind in _REPLACED:
        hint = f"; {CLUSTER_NETWORK_POLICY} has replaced it"
    elif near := difflib.get_close_matches(kind, KINDS, n=1):
        hint = f"; did you mean {near[0]}?"
    return f"there is no {kind} in {group}{hint}"


def decode(manifest: Manifest, kind: type[T], value: object = None, path: str = "") -> T:
    """Return a manifest as a value, or `value`, which is its field `path`.

    Raises ManifestError naming the field that is wrong.
    """
    try:
        return msgspec.convert(manifest.document if value is None else value, kind)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        field = f"{path}{place.rstrip('`')}".lstrip(".").replace("[...]", "")
        raise manifest.error(field, _plain(reason)) from error


_WORDS = {"str": "text", "int": "a number", "bool": "true or false", "object": "a mapping",
          "array": "a list", "null": "nothing", "float": "a number"}  # fmt: skip


def _plain(reason: str) -> str:
    """Return msgspec's reason in the words of a manifest's author."""

    def word(found: re.Match[str]) -> str:
        return " or ".join(_WORDS.get(name, name) for name in found[1].split(" | "))

    return re.sub(r"`([^`]*)`", word, reason[:1].lower() + reason[1:])
