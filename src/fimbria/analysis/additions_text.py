"""How additions are written: selectors that name one identity, peers, ports, whole policies.

    Place ─► selector, CIDR or entity ─► a rule in the words of a NetworkPolicy or of Cilium's kinds

A selector has as few labels as tell the identity from all others of its namespace. Everything
returned is plain JSON.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from fimbria.datapath.abi import Direction
from fimbria.model.kinds import CILIUM_CLUSTERWIDE_POLICY, CILIUM_NETWORK_POLICY
from fimbria.model.labels import NAMESPACE, SERVICE_ACCOUNT
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fimbria.analysis.places import Place
    from fimbria.analysis.world import World
    from fimbria.model.policy import PolicyKey

Document = dict[str, Any]
Labels = dict[str, str]

_OWN = "io.cilium.k8s.", NAMESPACE
"""Beginnings of keys that no pod has of itself."""

_ENTITIES = (
    "kube-apiserver", "host", "remote-node", "health", "init", "ingress", "unmanaged",
)  # fmt: skip
_USUAL = ("app", "app.kubernetes.io/name", "k8s-app", "kubernetes.io/hostname", "name")
"""Labels that stay where one of several is enough."""

_WAYS = {Direction.INGRESS: ("ingress", "from"), Direction.EGRESS: ("egress", "to")}
_ICMP = {Protocol.ICMP: "IPv4", Protocol.ICMPV6: "IPv6"}


class Unnameable(Exception):
    """No rule of that kind can name this; the message says what."""


def section(direction: Direction, *, deny: bool = False) -> str:
    """Return the field that has a direction's rules."""
    return _WAYS[direction][0] + ("Deny" if deny else "")


def pinned(world: World, place: Place) -> Document:
    """Return a label selector that, in its namespace, selects a pod's identity and no other.

    Of a node it selects those with the same labels. Raises Unnameable for what is neither.
    """
    if place.is_node:
        nodes = {name: _pairs(node.labels) for name, node in world.nodes.items()}
        mine = nodes.pop(place.node, {})
        return _telling(mine, mine, nodes)
    if place.pod is None:
        raise Unnameable(f"{place.name} is neither pod nor node")
    namespace, identity = place.pod.namespace, place.pod.identity
    mine = _labels(world, identity)
    others = {
        str(pod.identity): _labels(world, pod.identity)
        for pod in world.pods.values()
        if pod.namespace == namespace and pod.identity != identity
    }
    wanted = {key: value for key, value in mine.items() if key != SERVICE_ACCOUNT}
    if any(_without(other) == wanted for other in others.values()) or not wanted:
        wanted = mine
    return _telling(mine, wanted, others)


def _telling(mine: Labels, wanted: Labels, others: Mapping[str, Labels]) -> Document:
    """Return a selector of as few of the labels `wanted`, of `mine`, as tell it from the others."""
    for key in sorted(wanted, key=lambda key: (key in _USUAL, key)):
        fewer = {k: v for k, v in wanted.items() if k != key}
        if fewer and _found(fewer, others) == _found(wanted, others):
            wanted = fewer
    absent = sorted(
        {next(iter(sorted(set(others[n]) - set(mine))), "") for n in _found(wanted, others)} - {""}
    )
    found: Document = {"matchLabels": {_written(key): value for key, value in wanted.items()}}
    if not wanted:
        found = {}
    if absent:
        found["matchExpressions"] = [
            {"key": _written(key), "operator": "DoesNotExist"} for key in absent
        ]
    return found


def _found(wanted: Labels, others: Mapping[str, Labels]) -> set[str]:
    """Return which of the others have all these labels."""
    return {name for name, labels in others.items() if wanted.items() <= labels.items()}


def _labels(world: World, identity: int) -> Labels:
    """Return what selectors can ask of an identity inside its namespace."""
    pairs = _pairs(world.identities.get(identity, ()))
    return {
        key: value
        for key, value in pairs.items()
        if key == SERVICE_ACCOUNT or not key.startswith(_OWN)
    }


def _pairs(labels: Iterable[str]) -> Labels:
    """Return values by key, without sources."""
    parts = (one.partition(":")[2].partition("=") for one in labels)
    return {key: value for key, _, value in parts}


def _without(labels: Labels) -> Labels:
    return {key: value for key, value in labels.items() if key != SERVICE_ACCOUNT}


def _written(key: str) -> str:
    return f"k8s:{key}" if key.startswith(_OWN) else key


def cilium_rule(
    world: World, peer: Place, direction: Direction, namespace: str, protocol: int, port: int
) -> Document:
    """Return a rule for one peer and port, of a CiliumNetworkPolicy in `namespace` ("": of none).

    Raises Unnameable.
    """
    return _cilium_peer(world, peer, _WAYS[direction][1], namespace) | _cilium_port(protocol, port)


def _cilium_peer(world: World, peer: Place, way: str, namespace: str) -> Document:
    if peer.pod is not None:
        selector = pinned(world, peer)
        if peer.pod.namespace != namespace:
            where = {f"k8s:{NAMESPACE}": peer.pod.namespace}
            selector = {**selector, "matchLabels": where | selector.get("matchLabels", {})}
        return {f"{way}Endpoints": [selector]}
    labels = peer.end.labels.labels
    if peer.is_node and world.node_labels and peer.node in world.nodes:
        return {f"{way}Nodes": [pinned(world, peer)]}
    for name in _ENTITIES:
        if f"reserved:{name}" in labels:
            return {f"{way}Entities": [name]}
    if peer.end.net is not None and peer.end.net.bits:
        return {f"{way}CIDR": [str(peer.end.net)]}
    if any(label.startswith("reserved:world") for label in labels):
        return {f"{way}Entities": ["world"]}
    raise Unnameable(f"no entity and no prefix is {peer.name}")


def _cilium_port(protocol: int, port: int) -> Document:
    if protocol in _ICMP:
        field = {"family": _ICMP[Protocol(protocol)], "type": port}
        return {"icmps": [{"fields": [field]}]}
    item = {"port": str(port), "protocol": Protocol(protocol).name}
    return {"toPorts": [{"ports": [item]}]}


def network_rule(
    world: World, peer: Place, direction: Direction, namespace: str, protocol: int, port: int
) -> Document:
    """Return a rule of a NetworkPolicy of a namespace. Raises Unnameable."""
    if protocol in _ICMP:
        raise Unnameable("a NetworkPolicy knows no ICMP")
    way = _WAYS[direction][1]
    ports = [{"protocol": Protocol(protocol).name, "port": port}]
    if peer.pod is not None:
        selector = pinned(world, peer)
        if any(key.startswith("k8s:") for key in selector.get("matchLabels", {})):
            raise Unnameable("a NetworkPolicy knows no service accounts")
        found: Document = {"podSelector": selector}
        if peer.pod.namespace != namespace:
            where = {"kubernetes.io/metadata.name": peer.pod.namespace}
            found = {"namespaceSelector": {"matchLabels": where}} | found
        return {way: [found], "ports": ports}
    if peer.end.net is None or not peer.end.net.bits:
        raise Unnameable(f"no ipBlock is {peer.name}")
    return {way: [{"ipBlock": {"cidr": str(peer.end.net)}}], "ports": ports}


def cilium_policy(
    world: World, own: Place, rule: Document, direction: Direction, name: str, *, deny: bool
) -> Document:
    """Return a CiliumNetworkPolicy with one rule, which denies nothing by default.

    About a node it is a CiliumClusterwideNetworkPolicy. Raises Unnameable.
    """
    selector = pinned(world, own)
    whom = "nodeSelector" if own.is_node else "endpointSelector"
    place = {} if own.pod is None else {"namespace": own.pod.namespace}
    return {
        "apiVersion": "cilium.io/v2",
        "kind": CILIUM_CLUSTERWIDE_POLICY if own.is_node else CILIUM_NETWORK_POLICY,
        "metadata": {"name": name, **place},
        "spec": {
            whom: selector,
            "enableDefaultDeny": {_WAYS[direction][0]: False},
            section(direction, deny=deny): [rule],
        },
    }


def admin_policy(
    world: World,
    own: Place,
    peer: Place,
    direction: Direction,
    name: str,
    priority: int,
    ports: tuple[int, int],
) -> Document:
    """Return a ClusterNetworkPolicy of the Admin tier that denies one peer (protocol, port).

    Raises Unnameable.
    """
    protocol, port = ports
    if protocol in _ICMP:
        raise Unnameable("a ClusterNetworkPolicy knows no ICMP")
    way, end = _WAYS[direction]
    if peer.pod is not None:
        other = {"pods": _cluster_pods(world, peer)}
    elif peer.end.net is not None and peer.end.net.bits and direction is Direction.EGRESS:
        other = {"networks": [str(peer.end.net)]}
    elif peer.is_node and world.node_labels and direction is Direction.EGRESS:
        other = {"nodes": pinned(world, peer)}
    else:
        raise Unnameable(f"a ClusterNetworkPolicy cannot name {peer.name}")
    number = {"destinationPort": {"number": port}}
    rule = {
        "action": "Deny",
        end: [other],
        "protocols": [{Protocol(protocol).name.lower(): number}],
    }
    return {
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "tier": "Admin",
            "priority": priority,
            "subject": {"pods": _cluster_pods(world, own)},
            way: [rule],
        },
    }


def _cluster_pods(world: World, place: Place) -> Document:
    selector = pinned(world, place)
    assert place.pod is not None
    if any(key.startswith("k8s:") for key in selector.get("matchLabels", {})):
        raise Unnameable("a ClusterNetworkPolicy knows no service accounts")
    where = {"matchLabels": {"kubernetes.io/metadata.name": place.pod.namespace}}
    return {"namespaceSelector": where, "podSelector": selector}


def free_name(world: World, kind: str, namespace: str, *parts: str) -> str:
    """Return a name made of `parts` that no policy of that kind has."""
    text = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")[:60].strip("-")
    have = {key.name for key in world.policies if _same(key, kind, namespace)}
    name, number = text, 2
    while name in have:
        name, number = f"{text}-{number}", number + 1
    return name


def _same(key: PolicyKey, kind: str, namespace: str) -> bool:
    return (key.kind, key.namespace) == (kind, namespace)
