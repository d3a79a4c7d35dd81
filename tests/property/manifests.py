"""Random policies of every kind as manifests, over few names and prefixes, so that rules meet.

Built from the selectors and ports of `strategies`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

from fimbria.model.peers import prefix
from fimbria.model.policy import AUDIT_ANNOTATION
from tests.property.strategies import (
    ENTITIES,
    LABELS,
    NAMES,
    cilium_port,
    icmp_field,
    label_selectors,
    namespaces,
    network_spec,
    peers,
    selectors,
)

if TYPE_CHECKING:
    from fimbria.compile.state import NodeConfig

Document = dict[str, Any]
EVERYONE: Document = {}
ROLES = {"role": ("edge", "core")}
CIDRS = (
    "0.0.0.0/0", "0.0.0.0/1", "10.0.0.0/8", "10.0.2.0/24", "10.0.2.3/32", "172.18.0.0/16",
    "172.18.0.2/32", "192.0.2.0/24", "192.0.2.0/25", "192.0.2.128/25", "192.0.2.130/32",
    "203.0.113.0/24", "203.0.113.9/32",
    "::/0", "fd00::/8", "fd00:2::/64", "fd77::/64", "fd77::2/128", "2001:db8::/32",
    "2001:db8:1::/48", "2001:db8:1::7/128",
)  # fmt: skip
"""Nested, and some that cover pods and nodes."""
GROUPS = ("g0", "g1")
SERVICES = ("pods", "v4", "v6")

some_cidrs = st.lists(st.sampled_from(CIDRS), min_size=1, max_size=2)


@st.composite
def _groups(draw: st.DrawFn) -> list[Document]:
    found: list[Document] = []
    for name in sorted(draw(st.sets(st.sampled_from(GROUPS)))):
        meta = {"name": name, "labels": {"of": "us"} if draw(st.booleans()) else {}}
        found.append({"metadata": meta, "spec": {"externalCIDRs": draw(some_cidrs)}})
    return found


group_rows = _groups()
"""CiliumCIDRGroups."""
node_selectors = label_selectors(ROLES)


def block(draw: st.DrawFn) -> Document:
    """A prefix less some of what it covers."""
    net = draw(st.sampled_from(CIDRS))
    inside = [one for one in CIDRS if one != net and prefix(net).covers(prefix(one))]
    out = draw(st.lists(st.sampled_from(inside), max_size=2)) if inside else []
    return {"cidr": net, **({"except": out} if out else {})}


def cidr_set(draw: st.DrawFn) -> Document:
    """An item of fromCIDRSet."""
    kind = draw(st.sampled_from(["cidr", "cidr", "ref", "selector"]))
    if kind == "cidr":
        return block(draw)
    chosen: Document = {"cidrGroupRef": draw(st.sampled_from(GROUPS))}
    if kind == "selector":
        chosen = {"cidrGroupSelector": {"matchLabels": {"of": "us"}}}
    out = draw(st.lists(st.sampled_from(CIDRS), max_size=1))
    return {**chosen, **({"except": out} if out else {})}


def service(draw: st.DrawFn) -> Document:
    """An item of toServices."""
    if draw(st.integers(0, 3)) == 0:
        return {"k8sServiceSelector": {"selector": {"matchLabels": {"of": "us"}}}}
    name = draw(st.sampled_from(SERVICES))
    return {"k8sService": {"serviceName": name, "namespace": "red"}}


@dataclass(frozen=True)
class Where:
    """What a rule may say: in which direction, to deny, of a policy about nodes, naming nodes."""

    egress: bool
    deny: bool = False
    host: bool = False
    nodes: bool = False


def rule_peers(draw: st.DrawFn, where: Where) -> Document:
    """The peer field of a Cilium rule; none for anyone."""
    end = "to" if where.egress else "from"
    kinds = ["Endpoints", "Endpoints", "Entities", "CIDR", "CIDRSet", "CIDRSet", ""]
    kinds += ["Nodes"] if where.nodes else []
    kinds += ["Services"] if where.egress else []
    kinds += ["FQDNs"] if where.egress and not where.deny else []
    kind = draw(st.sampled_from(kinds))
    few = draw(st.sampled_from([1, 1, 1, 2, 2, 0]))
    items: list[Any]
    if kind == "Endpoints":
        items = draw(st.lists(peers, min_size=few, max_size=few))
    elif kind == "Entities":
        items = draw(st.lists(st.sampled_from(ENTITIES), min_size=few, max_size=few))
    elif kind == "CIDR":
        items = draw(some_cidrs)
    elif kind == "CIDRSet":
        items = [cidr_set(draw) for _ in range(few)]
    elif kind == "Nodes":
        items = [draw(node_selectors) for _ in range(few)]
    elif kind == "Services":
        items = [service(draw) for _ in range(max(few, 1))]
    elif kind == "FQDNs":
        items = [{"matchName": "example.com"}]
    else:
        return {}
    return {f"{end}{kind}": items}


def rule_ports(draw: st.DrawFn, where: Where) -> Document:
    """toPorts or icmps of a Cilium rule, now and then with a proxy behind it."""
    kind = draw(st.sampled_from(["ports", "ports", "none", "http", "http", "ports", "icmps"]))
    if kind == "http" and not where.deny and not where.host:
        number: Document = draw(st.sampled_from([
            {"port": "80"}, {"port": "80", "endPort": 81}, {"port": "64", "endPort": 9000},
            {"port": "http"},
        ]))  # fmt: skip
        parser: Document = draw(st.sampled_from([
            {"rules": {"http": [{"method": "GET"}]}},
            {"rules": {"kafka": [{"topic": "t"}]}},
            {"rules": {"l7proto": "r2d2", "l7": [{"cmd": "READ"}]}},
        ]))  # fmt: skip
        return {"toPorts": [{"ports": [{**number, "protocol": "TCP"}], **parser}]}
    if kind == "icmps":
        return {"icmps": [{"fields": draw(st.lists(icmp_field, min_size=1, max_size=2))}]}
    if kind == "none":
        return {}
    ports = st.lists(cilium_port(), min_size=1, max_size=2).map(lambda some: {"ports": some})
    return {"toPorts": draw(st.lists(ports, min_size=1, max_size=2))}


@st.composite
def cilium(draw: st.DrawFn, index: int, config: NodeConfig) -> Document:
    """A CiliumNetworkPolicy or CiliumClusterwideNetworkPolicy, about pods or nodes."""
    host = config.host_firewall and draw(st.integers(0, 3)) == 0
    wide = host or draw(st.booleans())
    spec: Document = {}
    if host:
        spec["nodeSelector"] = draw(node_selectors)
    else:
        spec["endpointSelector"] = draw(st.one_of(st.just(EVERYONE), selectors))
    sections = ("ingress", "ingressDeny", "egress", "egressDeny")
    for name in sorted(draw(st.sets(st.sampled_from(sections), min_size=2, max_size=4))):
        where = Where(name.startswith("egress"), name.endswith("Deny"), host, config.node_labels)
        rules: list[Document] = []
        for _ in range(draw(st.integers(1, 3))):
            who = rule_peers(draw, where)
            rules.append(who if "toFQDNs" in who else {**who, **rule_ports(draw, where)})
        spec[name] = rules
    if draw(st.integers(0, 3)) == 0:
        spec["enableDefaultDeny"] = {"ingress": draw(st.booleans()), "egress": draw(st.booleans())}
    kind = "CiliumClusterwideNetworkPolicy" if wide else "CiliumNetworkPolicy"
    meta: Document = {"name": f"p{index}"}
    if not wide:
        meta["namespace"] = draw(namespaces)
    return {"kind": kind, "metadata": meta, "spec": spec}


@st.composite
def network(draw: st.DrawFn, index: int) -> Document:
    """A NetworkPolicy, with ipBlocks among its peers."""
    spec = draw(network_spec())
    for name, end in (("ingress", "from"), ("egress", "to")):
        for rule in spec.get(name, ()):
            if end in rule and draw(st.booleans()):
                rule[end].append({"ipBlock": block(draw)})
    meta = {"name": f"p{index}", "namespace": draw(namespaces)}
    return {"kind": "NetworkPolicy", "metadata": meta, "spec": spec}


cluster_ports: st.SearchStrategy[Document] = st.one_of(
    st.sampled_from([80, 443, 8080]).map(lambda n: {"tcp": {"destinationPort": {"number": n}}}),
    st.sampled_from([53, 80]).map(lambda n: {"udp": {"destinationPort": {"number": n}}}),
    st.sampled_from([(79, 88), (1, 65535), (8000, 32768)]).map(
        lambda ends: {"tcp": {"destinationPort": {"range": {"start": ends[0], "end": ends[1]}}}}
    ),
    st.sampled_from(NAMES).map(lambda name: {"destinationNamedPort": name}),
)


@st.composite
def tiered(draw: st.DrawFn, index: int, config: NodeConfig) -> Document:
    """A ClusterNetworkPolicy of either tier."""
    everyone: Document = {"namespaces": {}}
    some_pods: st.SearchStrategy[Document] = st.one_of(
        st.just(everyone),
        label_selectors({"env": ("prod", "test")}).map(lambda where: {"namespaces": where}),
        label_selectors(LABELS).map(lambda one: {"pods": {"podSelector": one}}),
    )

    def rule(egress: bool) -> Document:
        kinds = ["pods", "pods", *(["networks"] if egress else [])]
        kinds += ["nodes"] if egress and config.node_labels else []
        kind = draw(st.sampled_from(kinds))
        peer = draw(some_pods)
        if kind == "networks":
            peer = {"networks": draw(some_cidrs)}
        elif kind == "nodes":
            peer = {"nodes": draw(node_selectors)}
        found: Document = {"action": draw(st.sampled_from(["Accept", "Deny", "Pass"]))}
        found["to" if egress else "from"] = [peer]
        if draw(st.booleans()):
            found["protocols"] = draw(st.lists(cluster_ports, min_size=1, max_size=2))
        return found

    spec: Document = {
        "tier": draw(st.sampled_from(["Admin", "Baseline"])),
        "priority": draw(st.integers(0, 2)),
        "subject": draw(some_pods),
    }
    for name, egress in (("ingress", False), ("egress", True)):
        if draw(st.booleans()):
            spec[name] = [rule(egress) for _ in range(draw(st.integers(1, 4)))]
    return {"kind": "ClusterNetworkPolicy", "metadata": {"name": f"p{index}"}, "spec": spec}


@st.composite
def policy(draw: st.DrawFn, index: int, config: NodeConfig) -> Document:
    """A policy object of any kind; some are in audit mode, some must be refused."""
    found: Document = draw(
        st.one_of(
            cilium(index, config), cilium(index, config), network(index), tiered(index, config)
        )
    )
    if draw(st.integers(0, 5)) == 0:
        found["metadata"]["annotations"] = {AUDIT_ANNOTATION: "true"}
    if draw(st.integers(0, 15)) == 7:
        found["spec"]["surprise"] = True
    return found
