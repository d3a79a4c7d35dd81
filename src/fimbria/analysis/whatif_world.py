"""The world in which recorded traffic is judged again.

    a node's API ─► pods of the node, nodes, policies ─┐
    or manifests ─────────────────────────────────────┴─► World ─► with everyone who was seen

Who was seen and is not in the world joins it with the labels that were recorded; labels are all
that policies ask of a pod, besides the ports that it names.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from fimbria.analysis.flows import Flow
from fimbria.analysis.world import Pod, World
from fimbria.compile.state import Node
from fimbria.model.identity import API_SERVER, RESERVED
from fimbria.model.labels import NAMESPACE
from fimbria.model.peers import CidrGroups, Services
from fimbria.model.policy import AUDIT_ANNOTATION, PolicyKey, Protocol
from fimbria.model.policy_parse import parse_policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fimbria.analysis.whatif_flows import Party, Seen
    from fimbria.model.labels import Labels
    from fimbria.model.policy import NamedPort, Policy

Document = dict[str, Any]

_ENTITIES = ("kube-apiserver", "host", "remote-node", "health", "ingress", "init", "unmanaged")


def of_node(
    endpoints: Iterable[Document],
    policies: Iterable[Document],
    nodes: Iterable[Document] = (),
    cluster: str = "default",
    *,
    node_labels: bool = False,
) -> World:
    """Return the world of a node's documents.

    These are `/v1/endpoint`, `policies` of `/v1/policy`, and `/v1/cluster/nodes`. Raises KeyError,
    TypeError or ValueError for documents of another form.
    """
    known = [_node(one) for one in nodes]
    here = next((node.name for node, local in known if local), "")
    identities: dict[int, Labels] = {int(n): tuple(labels) for n, labels in RESERVED.items()}
    pods: dict[str, Pod] = {}
    for one in endpoints:
        if not one.get("pod"):
            continue
        identity = int(one["identity"]["id"])
        identities[identity] = tuple(one["identity"]["labels"])
        rows = one["networking"]["addressing"]
        addresses = tuple(ip_address(text).packed for row in rows for text in row.values() if text)
        pod = Pod(one["namespace"], one["pod"], "Pod", identity, identities[identity],
                  _named(one.get("named-ports") or ()), addresses, here)  # fmt: skip
        pods[str(pod)] = pod
    held = [_policy(one, cluster, node_labels) for one in policies if one.get("in-force") != "none"]
    return World(
        pods,
        {one.key: one for one in held},
        identities,
        nodes={node.name: node for node, _ in known},
        node_labels=node_labels,
    )


def _node(one: Document) -> tuple[Node, bool]:
    """Return a node, and whether it is the one that was asked."""
    packed = [ip_address(text).packed for text in one["addresses"]]
    cidrs = (part["cidr"] for part in (one.get("ipv4"), one.get("ipv6")) if part)
    node = Node(
        one["name"],
        tuple(ip for ip in packed if len(ip) == 4),
        tuple(ip for ip in packed if len(ip) == 16),
        tuple(cidr for cidr in cidrs if cidr),
        labels=tuple(one["labels"]),
    )
    return node, bool(one["local"])


def _named(ports: Iterable[Document]) -> tuple[NamedPort, ...]:
    return tuple(sorted(
        (str(one["name"]), int(Protocol[one["protocol"]] if isinstance(one["protocol"], str)
                               else one["protocol"]), int(one["port"]))
        for one in ports
    ))  # fmt: skip


def _policy(one: Document, cluster: str, node_labels: bool) -> Policy:
    field = "specs" if isinstance(one["spec"], list) else "spec"
    meta: Document = {"name": one["name"], "namespace": one["namespace"]}
    if "shadow" in one:
        meta["annotations"] = {AUDIT_ANNOTATION: "true"}
    return parse_policy(
        {"kind": one["kind"], "metadata": meta, field: one["spec"]},
        cluster=cluster, node_labels=node_labels,
    )  # fmt: skip


def changed(world: World, change: World, deleted: Iterable[PolicyKey] = ()) -> World:
    """Return a world with the policies of another added to its own, and some deleted."""
    gone = set(deleted)
    policies = {key: policy for key, policy in world.policies.items() if key not in gone}
    manifests = {key: one for key, one in world.manifests.items() if key not in gone}
    return replace(
        world,
        policies=policies | dict(change.policies),
        manifests=manifests | dict(change.manifests),
        groups={**world.groups, **change.groups},
    )


def unresolved(world: World) -> list[PolicyKey]:
    """Return the policies that name CIDR groups or Services, of which the world has none."""
    missing = tuple(
        kind for kind, have in ((CidrGroups, world.groups), (Services, world.services)) if not have
    )
    return [
        key
        for key, policy in world.policies.items()
        if any(isinstance(peer.whom, missing)
               for spec in policy.specs for rule in spec.rules for peer in rule.peers)
    ]  # fmt: skip


class Cast:
    """Everyone in recorded traffic, as pods of a world and as names of flows."""

    def __init__(self, world: World, seen: Sequence[Seen]) -> None:
        self._pods = dict(world.pods)
        self._identities = dict(world.identities)
        self._numbers = {tuple(labels): number for number, labels in world.identities.items()}
        self._ports = {pod.identity: pod.named for pod in world.pods.values()}
        self._nodes = {str(ip_address(ip)) for ip in world.node_of}
        self._api_servers = set(world.api_servers)
        self.flows = [
            Flow(self._name(one.source), self._name(one.destination), one.protocol, one.port)
            for one in seen
        ]
        self.world = replace(
            world,
            pods=self._pods,
            identities=self._identities,
            api_servers=frozenset(self._api_servers),
        )

    def _name(self, one: Party) -> str:
        """Return what an end is called in the world; a pod that is not there comes to it."""
        if not one.labels:
            return one.name or one.address
        where = [label.partition("=")[2] for label in one.labels
                 if label.startswith(f"k8s:{NAMESPACE}=")]  # fmt: skip
        if where:
            return self._pod(one, where[0])
        server = API_SERVER in one.labels
        world = any(label.startswith("reserved:world") for label in one.labels)
        if one.address in self._nodes or (server and world):
            if server:
                self._api_servers.add(ip_address(one.address).packed)
            return one.address
        for name in _ENTITIES:
            if f"reserved:{name}" in one.labels:
                return f"entity:{name}"
        return one.address

    def _pod(self, one: Party, namespace: str) -> str:
        """Return the name of the pod with a party's labels, its own if it is known."""
        labels = tuple(one.labels)
        number = self._numbers.get(labels)
        name = one.name or f"{namespace}/identity-{one.identity}"
        have = self._pods.get(name)
        if have is not None and have.identity == number:
            return name
        if have is not None:
            name = f"{name}~{one.identity}"  # the name was somebody else's when it was recorded
        if number is None:
            number = one.identity if one.identity not in self._identities else self._free()
            self._numbers[labels] = number
            self._identities[number] = labels
        if name not in self._pods:
            address = (ip_address(one.address).packed,)
            self._pods[name] = Pod(namespace, name.partition("/")[2], "Pod", number, labels,
                                   self._ports.get(number, ()), address)  # fmt: skip
        return name

    def _free(self) -> int:
        return max(256, *self._identities) + 1


def key_of(text: str) -> PolicyKey:
    """Return the key of KIND/[NAMESPACE/]NAME. Raises ValueError."""
    from fimbria.model.kinds import CLUSTERWIDE, KINDS

    short = {"cnp": "CiliumNetworkPolicy", "ccnp": "CiliumClusterwideNetworkPolicy",
             "netpol": "NetworkPolicy", "networkpolicy": "NetworkPolicy"}  # fmt: skip
    kind, _, rest = text.partition("/")
    names = {one.lower(): one for one in KINDS}
    kind = short.get(kind.lower()) or names.get(kind.lower(), "")
    namespace, _, name = rest.rpartition("/")
    if not kind or not name:
        raise ValueError(
            f"{text!r}: write it as KIND/NAMESPACE/NAME, KIND one of {', '.join(KINDS)}"
        )
    return PolicyKey(kind, "" if kind in CLUSTERWIDE else namespace or "default", name)
