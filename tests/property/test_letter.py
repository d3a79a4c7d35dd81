"""The model says of policies what the manifests say, absent and empty fields included."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimbria.datapath.abi import Direction
from fimbria.model.identity import RESERVED
from fimbria.model.labels import LabelSet, pod_labels
from fimbria.model.peers import host_prefix
from fimbria.model.policy import Policy, Protocol
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import End, Question, verdict
from tests.property.letter import (
    REMOTE_NODE,
    WORLD,
    Document,
    Flow,
    Somebody,
    cilium_allows,
    network_allows,
    tiers_allow,
)
from tests.property.manifests import cluster_ports
from tests.property.strategies import (
    LABELS,
    NAMES,
    NAMESPACES,
    cilium_port,
    icmp_field,
    label_selectors,
    namespaces,
    peers,
)

CASES = int(os.environ.get("FIMBRIA_CASES", "5000"))
ADDRESSES = ("192.0.2.1", "192.0.2.130", "198.51.100.9")
BLOCKS: list[Document] = [
    {"cidr": "0.0.0.0/0"}, {"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]},
    {"cidr": "192.0.2.0/24", "except": []}, {"cidr": "198.51.100.9/32"},
    {"cidr": "0.0.0.0/0", "except": ["192.0.2.0/24", "198.51.100.0/24"]},
]  # fmt: skip
ENTITIES = ("all", "world", "remote-node", "cluster", "none")
selectors = label_selectors(LABELS)
wheres = label_selectors({"env": ("prod", "test"), "team": ("b",)})
numbers = st.sampled_from([53, 79, 80, 81, 8080])


def maybe(value: st.SearchStrategy[Any], name: str) -> st.SearchStrategy[Document]:
    """A field that is absent, null, or there."""
    return st.one_of(st.just({}), st.just({name: None}), value.map(lambda one: {name: one}))


def few(item: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(item, max_size=2)


@st.composite
def together(draw: st.DrawFn, *parts: st.SearchStrategy[Document]) -> Document:
    """A mapping of several such fields."""
    return {key: value for part in parts for key, value in draw(part).items()}


def pod(namespace: str, *ports: tuple[str, str, int], **labels: str) -> Somebody:
    return Somebody(
        namespace=namespace, labels=labels, where=NAMESPACES[namespace], ports=ports
    )  # fmt: skip


PODS = [
    pod("red", ("http", "TCP", 80), ("http", "UDP", 81), app="web", tier="x"),
    pod("red", ("http", "TCP", 8080), ("http", "TCP", 80), ("dns", "SCTP", 79), app="db"),
    pod("red"),
    pod("blue", ("dns", "UDP", 53), ("http", "TCP", 79), app="web"),
    pod("blue", app="log", tier="y"),
]
OTHERS = [*(Somebody(WORLD, ip) for ip in ADDRESSES), Somebody(REMOTE_NODE)]
PACKETS = [("TCP", 80), ("TCP", 8080), ("UDP", 53), ("UDP", 81), ("SCTP", 79), ("ICMP", 8),
           ("ICMP", 0), ("ICMPV6", 128)]  # fmt: skip
FLOWS = [
    Flow(source, target, *packet)
    for source in (*PODS, *OTHERS)
    for target in (*PODS, *OTHERS)
    if source is not target and not (source.kind and target.kind)
    for packet in PACKETS
]

network_peer = st.one_of(
    selectors.map(lambda one: {"podSelector": one}),
    wheres.map(lambda one: {"namespaceSelector": one}),
    st.builds(lambda a, b: {"podSelector": a, "namespaceSelector": b}, selectors, wheres),
    st.sampled_from(BLOCKS).map(lambda one: {"ipBlock": one}),
)
network_port = together(
    maybe(st.sampled_from(["TCP", "UDP", "SCTP"]), "protocol"),
    st.one_of(
        maybe(st.one_of(numbers, st.sampled_from(NAMES)), "port"),
        st.builds(
            lambda a, b: {"port": a, "endPort": a + b}, numbers, st.sampled_from([0, 1, 8000])
        ),
    ),
)


def network_rule(end: str) -> st.SearchStrategy[Document]:
    return together(maybe(few(network_peer), end), maybe(few(network_port), "ports"))


def of_namespace(spec: st.SearchStrategy[Document]) -> st.SearchStrategy[Document]:
    return st.builds(
        lambda namespace, one: {
            "kind": "NetworkPolicy", "metadata": {"namespace": namespace}, "spec": one,
        },
        namespaces,
        spec,
    )  # fmt: skip


network_policy = of_namespace(
    together(
        selectors.map(lambda one: {"podSelector": one}),
        maybe(st.lists(st.sampled_from(["Ingress", "Egress"]), unique=True), "policyTypes"),
        maybe(few(network_rule("from")), "ingress"),
        maybe(few(network_rule("to")), "egress"),
    )
)
half_meant = of_namespace(
    together(
        st.just({"podSelector": {}}),
        st.sampled_from([{"policyTypes": ["Ingress"]}, {"policyTypes": ["Egress"]}]),
        st.lists(network_rule("from"), min_size=1, max_size=2).map(lambda some: {"ingress": some}),
        st.lists(network_rule("to"), min_size=1, max_size=2).map(lambda some: {"egress": some}),
    )
)
"""Rules in both directions, of which `policyTypes` leaves those of one out."""

BY_NAMESPACE: list[Document] = [
    {"matchExpressions": [{"key": f"{source}{key}", **demand}]}
    for source in ("", "k8s:", "any:")
    for key, value in (
        ("io.kubernetes.pod.namespace", "red"),
        ("io.cilium.k8s.namespace.labels.env", "test"),
        ("io.cilium.k8s.namespace.labels.team", "b"),
    )
    for demand in (
        {"operator": "In", "values": [value]}, {"operator": "NotIn", "values": [value]},
        {"operator": "Exists"}, {"operator": "DoesNotExist"},
    )
]  # fmt: skip
endpoints = st.booleans().flatmap(lambda one: st.sampled_from(BY_NAMESPACE) if one else peers)


def cilium_rule(end: str) -> st.SearchStrategy[Document]:
    whom = st.one_of(
        st.lists(endpoints, min_size=1, max_size=2).map(lambda some: {f"{end}Endpoints": some}),
        st.sampled_from([{}, {f"{end}Endpoints": []}, {f"{end}Endpoints": None}]),
        few(st.sampled_from(ENTITIES)).map(lambda some: {f"{end}Entities": some}),
        few(st.sampled_from(BLOCKS)).map(lambda some: {f"{end}CIDRSet": some, f"{end}CIDR": []}),
        few(st.sampled_from(["192.0.2.0/24", "0.0.0.0/0"])).map(lambda some: {f"{end}CIDR": some}),
    )
    ports = st.lists(cilium_port(), min_size=1, max_size=2).map(lambda some: [{"ports": some}])
    types = st.lists(icmp_field, min_size=1, max_size=2).map(lambda some: [{"fields": some}])
    return together(
        whom,
        st.one_of(maybe(ports, "toPorts"), maybe(types, "icmps"), st.just({"toPorts": []})),
    )


some_rules = {end: st.lists(cilium_rule(end), max_size=2) for end in ("from", "to")}
cilium_spec = together(
    selectors.map(lambda one: {"endpointSelector": one}),
    maybe(some_rules["from"], "ingress"),
    maybe(some_rules["from"], "ingressDeny"),
    maybe(some_rules["to"], "egress"),
    maybe(some_rules["to"], "egressDeny"),
    maybe(together(maybe(st.booleans(), "ingress"), maybe(st.booleans(), "egress")),
          "enableDefaultDeny"),
).filter(
    lambda spec: any(spec.get(name) for name in ("ingress", "ingressDeny", "egress", "egressDeny"))
)  # fmt: skip
cilium_policy = st.one_of(
    st.builds(
        lambda namespace, spec: {
            "kind": "CiliumNetworkPolicy", "metadata": {"namespace": namespace}, "spec": spec,
        },
        namespaces,
        cilium_spec,
    ),
    cilium_spec.map(
        lambda spec: {"kind": "CiliumClusterwideNetworkPolicy", "metadata": {}, "spec": spec}
    ),
)  # fmt: skip


some_pods = st.one_of(
    wheres.map(lambda one: {"namespaces": one}),
    selectors.map(lambda one: {"pods": {"podSelector": one}}),
    st.builds(lambda a, b: {"pods": {"podSelector": a, "namespaceSelector": b}}, selectors, wheres),
)
networks = st.sampled_from([
    {"networks": ["0.0.0.0/0"]}, {"networks": ["192.0.2.0/25", "198.51.100.0/24"]},
])  # fmt: skip


by_name = st.sampled_from(NAMES).map(lambda name: [{"destinationNamedPort": name}])


def cluster_rule(end: str) -> st.SearchStrategy[Document]:
    def rule(whom: list[Document], ports: list[Document], action: str) -> Document:
        kept = [one for one in ports if "destinationNamedPort" not in one or networks_free(whom)]
        return {"action": action, end: whom, **({"protocols": kept} if kept else {})}

    def networks_free(whom: list[Document]) -> bool:
        return not any("networks" in one for one in whom)

    whoms = some_pods if end == "from" else st.one_of(some_pods, networks)
    return st.builds(
        rule,
        st.lists(whoms, min_size=1, max_size=2),
        st.one_of(few(cluster_ports), by_name),
        st.sampled_from(["Accept", "Deny", "Pass"]),
    )


cluster_policy = together(
    st.just({"kind": "ClusterNetworkPolicy", "metadata": {}}),
    together(
        st.sampled_from(["Admin", "Baseline"]).map(lambda tier: {"tier": tier}),
        st.integers(0, 2).map(lambda number: {"priority": number}),
        some_pods.map(lambda whom: {"subject": whom}),
        maybe(few(cluster_rule("from")), "ingress"),
        maybe(few(cluster_rule("to")), "egress"),
    ).map(lambda spec: {"spec": spec}),
)


def policies(
    *kinds: st.SearchStrategy[Document], least: int = 1
) -> st.SearchStrategy[list[Document]]:
    """A few objects, with names."""
    return st.lists(st.one_of(*kinds), min_size=least, max_size=4).map(
        lambda some: [
            {**one, "metadata": {**one["metadata"], "name": f"p{index}"}}
            for index, one in enumerate(some)
        ]
    )


def read(documents: list[Document]) -> list[Policy]:
    """The documents as the model reads them, none refused."""
    found = [parse_policy(one) for one in documents]
    assert not [one.refusal for one in found if one.refusal is not None]
    return found


def end(one: Somebody) -> End:
    if one.kind == WORLD:
        ip = bytes(map(int, one.address.split(".")))
        return End(2, LabelSet(RESERVED[2]), net=host_prefix(ip))
    if one.kind:
        return End(6, LabelSet(RESERVED[6]))
    labels = pod_labels(one.labels, one.namespace, one.where, "default", "default")
    ports = frozenset((name, int(Protocol[text]), number) for name, text, number in one.ports)
    return End(300, LabelSet(labels), ports)


def model_allows(policies: list[Policy], flow: Flow) -> bool:
    source, target = end(flow.source), end(flow.target)
    protocol = int(Protocol[flow.protocol])
    at_ends = [
        Question(target, source, Direction.INGRESS, protocol, flow.port),
        Question(source, target, Direction.EGRESS, protocol, flow.port),
    ]
    return all(
        verdict(policies, asked).allowed
        for asked, whose in zip(at_ends, (flow.target, flow.source), strict=True)
        if not whose.kind
    )


SOME = settings(max_examples=min(max(50, CASES // 50), 5000), deadline=None,
                suppress_health_check=[HealthCheck.too_slow])  # fmt: skip


@SOME
@given(policies(network_policy, half_meant, least=2))
def test_network_policy(documents: list[Document]) -> None:
    """By the Kubernetes API reference."""
    found = read(documents)
    for flow in FLOWS:
        assert model_allows(found, flow) is network_allows(documents, flow), flow


@SOME
@given(policies(cluster_policy, cluster_policy, network_policy, least=4))
def test_tiers(documents: list[Document]) -> None:
    """By the network policy API of SIG Network: Admin, NetworkPolicy, Baseline."""
    found = read(documents)
    for flow in FLOWS:
        assert model_allows(found, flow) is tiers_allow(documents, flow), flow


@SOME
@given(policies(cilium_policy))
def test_cilium_policies(documents: list[Document]) -> None:
    """By Cilium's policy language: namespaces and the like as nobody wrote them."""
    found = read(documents)
    for flow in FLOWS:
        assert model_allows(found, flow) is cilium_allows(documents, flow), flow
