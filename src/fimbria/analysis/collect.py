"""From manifests to a `World`: which objects there are, and which pods and identities they mean.

Objects come in any order, and a pod's identity depends on its namespace's labels, so `Collector`
takes everything first and works out pods when it is asked for the world.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, cast

from fimbria.analysis import objects
from fimbria.analysis.assemble import ANY_SERVICE, PROTOCOLS, Taken, assemble
from fimbria.analysis.objects import WORKLOADS, decode, group_of
from fimbria.compile.state import Node
from fimbria.model.groups import read_group
from fimbria.model.identity import FIRST, LAST
from fimbria.model.kinds import GROUPS
from fimbria.model.labels import LabelError, LabelFilter, canonical
from fimbria.model.peers import prefix
from fimbria.model.policy import PolicyError
from fimbria.model.policy_parse import parse_policy
from fimbria.model.services import read_service, service_of
from fimbria.sources import resources
from fimbria.sources.files import ManifestError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.analysis.world import World
    from fimbria.model.policy import NamedPort
    from fimbria.sources.files import Manifest


class Collector:
    """Takes manifests in any order. The arguments are as in `world.load`."""

    def __init__(
        self, *, cluster: str = "default", labels: str = "", node_labels: bool = False
    ) -> None:
        self.taken = Taken(cluster, LabelFilter(labels), node_labels)
        self._named = objects.Named()
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
            **{(group, kind): self._policy for kind, group in GROUPS.items()},
            **dict.fromkeys(WORKLOADS, self._workload),
        }

    def take(self, one: Manifest | ManifestError) -> None:
        """Take a document; what is wrong with it becomes one of the world's errors."""
        if isinstance(one, ManifestError):
            self.taken.errors.append(one)
            return
        try:
            self._take(one)
        except ManifestError as error:
            self.taken.errors.append(error)
        except PolicyError as error:
            self.taken.errors.append(one.error(error.path, error.reason))
        except LabelError as error:
            self.taken.errors.append(one.error("metadata", str(error)))

    def _take(self, one: Manifest) -> None:
        group = group_of(one)
        taker = self._takers.get((group, one.kind))
        if taker is None:
            if group in objects.POLICY_GROUPS and one.kind not in objects.OTHER_KINDS:
                raise one.error("kind", objects.no_such_kind(group, one.kind))
            return
        objects.check_version(one)
        self._named.note(one)
        taker(one)

    # -- one kind each

    def _policy(self, one: Manifest) -> None:
        policy = parse_policy(
            one.document, cluster=self.taken.cluster, node_labels=self.taken.node_labels
        )
        self.taken.policies[policy.key] = policy
        self.taken.manifests[policy.key] = one
        if policy.refusal is not None:
            path, reason = policy.refusal
            what = f"{reason} (the policy is refused and closes what it selects)"
            self.taken.warnings.append(one.error(path, what))

    def _namespace(self, one: Manifest) -> None:
        self.taken.namespaces[one.name] = decode(one, resources.Namespace).metadata.labels or {}

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
        for port in resources.named_ports(pod.spec.containers, pod.spec.init_containers):
            name, number = port.name, port.container_port
            if port.protocol not in PROTOCOLS or not 0 < number < 0x10000:
                what = f"port {name!r} is {number}/{port.protocol}"
                raise one.error(f"{path}.containers", what)
            named.add((name, PROTOCOLS[port.protocol], number))
        if "" in (pod.metadata.labels or {}):
            raise one.error(path.removesuffix("spec") + "metadata.labels", "a label has no key")
        place = one.namespace or "default", one.name
        have = self.taken.templates.get(place)
        if have is not None and have[0] != "Pod" and kind != "Pod":
            raise one.error("metadata.name", f"{have[0]} {one.name} has pods of this name already")
        if have is None or kind == "Pod":
            self.taken.templates[place] = kind, pod, tuple(sorted(named))

    def _node(self, one: Manifest) -> None:
        found = decode(one, resources.Node)
        addresses = [a.address for a in found.status.addresses or () if a.type.endswith("IP")]
        labels = canonical(f"node:{k}={v}" for k, v in (found.metadata.labels or {}).items())
        ips = [self._ip(one, "status.addresses", text) for text in addresses]
        cidrs = self._cidrs(one, "spec.podCIDRs", found.spec.pod_cidrs or ())
        self.taken.nodes.setdefault(one.name, []).append(
            Node(one.name, _family(ips, 4), _family(ips, 16), cidrs, labels=labels)
        )

    def _cilium_node(self, one: Manifest) -> None:
        found = decode(one, resources.CiliumNode).spec
        ips = [self._ip(one, "spec.addresses", a.ip) for a in found.addresses or ()]
        cidrs = self._cidrs(one, "spec.ipam.podCIDRs", found.ipam.pod_cidrs or ())
        row = Node(one.name, _family(ips, 4), _family(ips, 16), cidrs)
        self.taken.nodes.setdefault(one.name, []).append(row)

    def _identity(self, one: Manifest) -> None:
        found = decode(one, resources.CiliumIdentity)
        if not one.name.isdecimal() or not FIRST <= int(one.name) <= LAST:
            raise one.error("metadata.name", f"{one.name} is no number from {FIRST} to {LAST}")
        labels = (f"{key}={value}" for key, value in found.security_labels.items())
        self.taken.identities[int(one.name)] = canonical(labels)

    def _endpoint(self, one: Manifest) -> None:
        found = decode(one, resources.CiliumEndpoint)
        place = one.namespace or "default", one.name
        labels = canonical(objects.endpoint_labels(one, found))
        self.taken.endpoints[place] = found, labels

    def _group(self, one: Manifest) -> None:
        self.taken.groups[one.name] = read_group(one.document)

    def _service(self, one: Manifest) -> None:
        decode(one, objects.Service)
        self.taken.services[one.namespace or "default", one.name] = one

    def _slice(self, one: Manifest) -> None:
        key = service_of(one.document)
        if key is not None:
            read_service(ANY_SERVICE, [one.document])
            self.taken.slices.setdefault(key, []).append(one.document)

    @staticmethod
    def _cidrs(one: Manifest, path: str, texts: Sequence[str]) -> tuple[str, ...]:
        for text in texts:
            try:
                prefix(text)
            except ValueError as error:
                raise one.error(path, f"{text!r} is no prefix") from error
        return tuple(texts)

    @staticmethod
    def _ip(one: Manifest, path: str, text: str) -> bytes:
        try:
            return ip_address(text).packed
        except ValueError as error:
            raise one.error(path, f"{text!r} is no address") from error

    def world(self) -> World:
        """Return the world of all that was taken."""
        return assemble(self.taken)


def _owners(one: Manifest) -> list[str]:
    """Return the kinds that own an object."""
    found = one.document["metadata"].get("ownerReferences")
    rows = cast("list[Any]", found) if isinstance(found, list) else []
    owners = [cast("dict[str, Any]", row) for row in rows if isinstance(row, dict)]
    return [str(owner.get("kind")) for owner in owners]


def _family(ips: list[bytes], length: int) -> tuple[bytes, ...]:
    return tuple(ip for ip in ips if len(ip) == length)
