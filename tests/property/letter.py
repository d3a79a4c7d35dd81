"""What policies mean by the letter, read off the manifests themselves.

The judges share the reader of policies; this one has none of its code, so that a mistake there
shows. It knows pods by their own labels and their namespace's, not identities. NetworkPolicy by the
Kubernetes API reference, Cilium's policies by its policy language; what both leave to options
(prefixes match no pods and nodes) is as by default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any

Document = dict[str, Any]
WORLD, REMOTE_NODE = "world", "remote-node"
_ANY = ("TCP", "UDP", "SCTP")
_ICMP = {"IPv4": "ICMP", "IPv6": "ICMPV6"}
_TYPES = {"EchoRequest": {"IPv4": 8, "IPv6": 128}, "EchoReply": {"IPv4": 0, "IPv6": 129}}
_NAMESPACE, _WHERE = "io.kubernetes.pod.namespace", "io.cilium.k8s.namespace.labels"


@dataclass(frozen=True)
class Somebody:
    """An end: a pod, or with `kind` WORLD (which has an address) or REMOTE_NODE, no pod."""

    kind: str = ""
    address: str = ""
    namespace: str = ""
    labels: Document = field(default_factory=dict[str, Any])
    where: Document = field(default_factory=dict[str, Any])
    """Its namespace's labels."""
    ports: tuple[tuple[str, str, int], ...] = ()
    """Name, protocol, number."""

    def all_labels(self) -> set[tuple[str, str, str]]:
        """Return labels as Cilium has them: source, key, value."""
        if self.kind:
            return {("reserved", self.kind, "")}
        found = {("k8s", key, text) for key, text in self.labels.items()}
        found |= {("k8s", f"{_WHERE}.{key}", text) for key, text in self.where.items()}
        return found | {("k8s", _NAMESPACE, self.namespace),
                        ("k8s", "io.cilium.k8s.policy.cluster", "default")}  # fmt: skip


@dataclass(frozen=True)
class Flow:
    """A packet: from whom to whom, protocol by name, destination port or ICMP type."""

    source: Somebody
    target: Somebody
    protocol: str
    port: int


def _operator(expression: Document, values: list[str]) -> bool:
    """`values`: those that the key has, usually none or one."""
    wanted = expression.get("values") or []
    return {
        "In": any(one in wanted for one in values),
        "NotIn": not any(one in wanted for one in values),
        "Exists": bool(values),
        "DoesNotExist": not values,
    }[expression["operator"]]


def _selects(selector: Document, labels: Document) -> bool:
    equal = all(labels.get(k) == v for k, v in (selector.get("matchLabels") or {}).items())
    return equal and all(
        _operator(one, [labels[one["key"]]] if one["key"] in labels else [])
        for one in selector.get("matchExpressions") or []
    )


def _in_block(block: Document, whom: Somebody) -> bool:
    if whom.kind != WORLD:
        return False
    ip, net = ip_address(whom.address), ip_network(block["cidr"])
    return ip in net and not any(ip in ip_network(one) for one in block.get("except") or [])


# -- NetworkPolicy


def network_allows(policies: list[Document], flow: Flow) -> bool:
    """Whether NetworkPolicies let a flow pass, at both ends."""
    return all(_network_end(policies, flow, way) is not False for way in ("Ingress", "Egress"))


def _network_end(policies: list[Document], flow: Flow, way: str) -> bool | None:
    """None if no policy isolates that end."""
    own, peer = (flow.target, flow.source) if way == "Ingress" else (flow.source, flow.target)
    if own.kind:
        return None
    isolated = False
    for policy in policies:
        namespace, spec = policy["metadata"]["namespace"], policy["spec"]
        types = spec.get("policyTypes") or ["Ingress", *(["Egress"] if spec.get("egress") else [])]
        chosen = namespace == own.namespace and _selects(spec["podSelector"], own.labels)
        if not chosen or way not in types:
            continue
        isolated = True
        for rule in spec.get(way.lower()) or []:
            peers = rule.get("from" if way == "Ingress" else "to") or []
            ports = rule.get("ports") or []
            if (not peers or any(_network_peer(one, namespace, peer) for one in peers)) and (
                not ports or any(_network_port(one, flow) for one in ports)
            ):
                return True
    return False if isolated else None


def _network_peer(item: Document, namespace: str, whom: Somebody) -> bool:
    if item.get("ipBlock") is not None:
        return _in_block(item["ipBlock"], whom)
    if whom.kind or not _selects(item.get("podSelector") or {}, whom.labels):
        return False
    where = item.get("namespaceSelector")
    return whom.namespace == namespace if where is None else _selects(where, whom.where)


def _network_port(item: Document, flow: Flow) -> bool:
    if (item.get("protocol") or "TCP") != flow.protocol:
        return False
    port = item.get("port")
    if port is None:
        return True
    if isinstance(port, str):
        return (port, flow.protocol, flow.port) in flow.target.ports
    return port <= flow.port <= (item.get("endPort") or port)


# -- ClusterNetworkPolicy around NetworkPolicy


def tiers_allow(policies: list[Document], flow: Flow) -> bool:
    """Whether ClusterNetworkPolicies and NetworkPolicies let a flow pass, at both ends."""
    cluster = [one for one in policies if one["kind"] == "ClusterNetworkPolicy"]
    network = [one for one in policies if one["kind"] == "NetworkPolicy"]
    for way in ("Ingress", "Egress"):
        said = [_tier(cluster, "Admin", flow, way), _network_end(network, flow, way),
                _tier(cluster, "Baseline", flow, way)]  # fmt: skip
        if next((one for one in said if one is not None), True) is False:
            return False
    return True


def _tier(policies: list[Document], tier: str, flow: Flow, way: str) -> bool | None:
    """None if the tier leaves it to the next: the first rule that matches passes, or none does."""
    own, peer = (flow.target, flow.source) if way == "Ingress" else (flow.source, flow.target)
    asked = [one for one in policies if one["spec"]["tier"] == tier]
    for policy in sorted(asked, key=lambda one: (one["spec"]["priority"], one["metadata"]["name"])):
        if not _cluster_peer(policy["spec"]["subject"], own):
            continue
        for rule in policy["spec"].get(way.lower()) or []:
            ports = rule.get("protocols")
            peers = rule["from" if way == "Ingress" else "to"]
            if any(_cluster_peer(one, peer) for one in peers) and (
                ports is None or any(_cluster_port(one, flow) for one in ports)
            ):
                return {"Accept": True, "Deny": False, "Pass": None}[rule["action"]]
    return None


def _cluster_peer(item: Document, whom: Somebody) -> bool:
    if "networks" in item:
        return any(_in_block({"cidr": one}, whom) for one in item["networks"])
    if whom.kind:
        return False
    if "namespaces" in item:
        return _selects(item["namespaces"], whom.where)
    pods = item["pods"]
    return _selects(pods["podSelector"], whom.labels) and _selects(
        pods.get("namespaceSelector") or {}, whom.where
    )


def _cluster_port(item: Document, flow: Flow) -> bool:
    if "destinationNamedPort" in item:
        return (item["destinationNamedPort"], flow.protocol, flow.port) in flow.target.ports
    ((protocol, ports),) = item.items()
    port = ports["destinationPort"]
    first, last = (
        (port["range"]["start"], port["range"]["end"])
        if "range" in port
        else (port["number"], port["number"])
    )
    return protocol.upper() == flow.protocol and first <= flow.port <= last


# -- CiliumNetworkPolicy and CiliumClusterwideNetworkPolicy about pods


def cilium_allows(policies: list[Document], flow: Flow) -> bool:
    """Whether Cilium's policies let a flow pass, at both ends."""
    return all(_cilium_end(policies, flow, way) for way in ("ingress", "egress"))


def _cilium_end(policies: list[Document], flow: Flow, way: str) -> bool:
    own, peer = (flow.target, flow.source) if way == "ingress" else (flow.source, flow.target)
    if own.kind:
        return True
    closed = allowed = False
    for policy in policies:
        namespace, spec = policy["metadata"].get("namespace", ""), policy["spec"]
        if namespace not in ("", own.namespace) or not _matches(spec["endpointSelector"], own):
            continue
        allow, deny = spec.get(way) or [], spec.get(f"{way}Deny") or []
        if any(_cilium_rule(rule, way, namespace, peer, flow) for rule in deny):
            return False
        allowed |= any(_cilium_rule(rule, way, namespace, peer, flow) for rule in allow)
        wanted = (spec.get("enableDefaultDeny") or {}).get(way)
        closed |= bool(allow or deny) if wanted is None else wanted
    return allowed or not closed


def _matches(selector: Document, whom: Somebody) -> bool:
    """Keys are `[source:]key`, without source any."""
    have = whom.all_labels()

    def values(written: str) -> list[str]:
        source, colon, key = written.partition(":")
        if not colon:
            source, key = "any", written
        return [text for one, name, text in have if name == key and source in ("any", one)]

    equal = all(v in values(k) for k, v in (selector.get("matchLabels") or {}).items())
    return equal and all(
        _operator(one, values(one["key"])) for one in selector.get("matchExpressions") or []
    )


def _cilium_peer(selector: Document, namespace: str, whom: Somebody) -> bool:
    keys = [*(selector.get("matchLabels") or {})]
    keys += [one["key"] for one in selector.get("matchExpressions") or []]
    if not any(key.startswith("reserved:") for key in keys):
        bare = [key.removeprefix("k8s:").removeprefix("any:") for key in keys]
        if _NAMESPACE not in bare:
            by_label = any(key.startswith(f"{_WHERE}.") for key in bare)
            if not namespace and whom.kind:
                return False
            if namespace and not by_label and whom.namespace != namespace:
                return False
    return _matches(selector, whom)


def _cilium_rule(rule: Document, way: str, namespace: str, peer: Somebody, flow: Flow) -> bool:
    end = "from" if way == "ingress" else "to"
    lists = {
        "Endpoints": lambda one: _cilium_peer(one, namespace, peer),
        "CIDR": lambda one: _in_block({"cidr": one}, peer),
        "CIDRSet": lambda one: _in_block(one, peer),
        "Entities": lambda one: _entity(one, peer),
    }
    found = [any(is_(one) for one in rule[end + name])
             for name, is_ in lists.items() if rule.get(end + name) is not None]  # fmt: skip
    ports = [one for item in rule.get("toPorts") or [] for one in item["ports"]]
    types = [one for item in rule.get("icmps") or [] for one in item["fields"]]
    if not found:
        return bool(ports or types) and _cilium_ports(ports, types, flow)
    return any(found) and (not (ports or types) or _cilium_ports(ports, types, flow))


def _entity(name: str, whom: Somebody) -> bool:
    return name == "all" or name == whom.kind or (name == "cluster" and whom.kind != WORLD)


def _cilium_ports(ports: list[Document], types: list[Document], flow: Flow) -> bool:
    for one in ports:
        protocol = one.get("protocol") or "ANY"
        if flow.protocol not in (_ANY if protocol == "ANY" else (protocol,)):
            continue
        text = one["port"]
        if not text.isdecimal():
            if (text, flow.protocol, flow.port) in flow.target.ports:
                return True
        elif text == "0" or int(text) <= flow.port <= (one.get("endPort") or int(text)):
            return True
    for one in types:
        family = one.get("family") or "IPv4"
        number = _TYPES[one["type"]][family] if isinstance(one["type"], str) else one["type"]
        if (flow.protocol, flow.port) == (_ICMP[family], number):
            return True
    return False
