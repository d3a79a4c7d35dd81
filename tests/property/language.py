"""Random policies over what is beside labels and ports: tiers, prefixes, groups, services, audit,
layer 7, nodes; few enough of each that they meet.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from fimbria.model.groups import read_group
from fimbria.model.policy import AUDIT_ANNOTATION
from fimbria.model.services import read_service

CIDRS = ("0.0.0.0/0", "10.0.0.0/8", "10.0.2.0/24", "192.0.2.0/24", "192.0.2.128/25", "::/0")
"""Nested, and one that covers pods."""
APPS = ("web", "db", "log")
NAMES = ("p0", "p1", "p2", "p3")
GROUPS = ("g1", "g2")

cidrs = st.sampled_from(CIDRS)
pods = st.sampled_from(APPS).map(lambda app: {"matchLabels": {"app": app}})
cidr_sets = st.one_of(
    st.just({"cidr": "192.0.2.0/24", "except": ["192.0.2.128/25"]}),
    st.just({"cidr": "10.0.0.0/8", "except": ["10.0.2.0/24", "10.0.3.0/24"]}),
    st.sampled_from(GROUPS).map(lambda name: {"cidrGroupRef": name}),
    st.just({"cidrGroupSelector": {"matchLabels": {"of": "us"}}}),
)
services = st.sampled_from(("s1", "s2")).map(
    lambda name: {"k8sService": {"serviceName": name, "namespace": "red"}}
)


def _peers(end: str) -> st.SearchStrategy[dict[str, Any]]:
    forms: list[st.SearchStrategy[dict[str, Any]]] = [
        pods.map(lambda one: {f"{end}Endpoints": [one]}),
        st.lists(cidrs, min_size=1, max_size=2).map(lambda some: {f"{end}CIDR": some}),
        cidr_sets.map(lambda one: {f"{end}CIDRSet": [one]}),
        st.sampled_from(["world", "all"]).map(lambda name: {f"{end}Entities": [name]}),
        st.just({}),
    ]
    if end == "to":
        forms += [services.map(lambda one: {"toServices": [one]}),
                  st.just({"toFQDNs": [{"matchName": "example.com"}]})]  # fmt: skip
    return st.one_of(forms)


ports = st.sampled_from(
    [
        {},
        {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}]}]},
        {"toPorts": [{"ports": [{"port": "http"}]}]},
        {"toPorts": [{"ports": [{"port": "53", "endPort": 81, "protocol": "TCP"}]}]},
    ]
)
layer7 = st.just(
    {"toPorts": [{"ports": [{"port": "80", "protocol": "TCP"}], "rules": {"http": [{}]}}]}
)


@st.composite
def cilium(draw: st.DrawFn) -> dict[str, Any]:
    """A CiliumNetworkPolicy, or a CiliumClusterwideNetworkPolicy about nodes."""
    host = draw(st.integers(0, 4)) == 0
    spec: dict[str, Any] = {}
    for name, end in draw(st.sampled_from([(("ingress", "from"),), (("egress", "to"),)])):
        rule = draw(_peers(end))
        allowed = ports if host or name == "egress" else st.one_of(ports, layer7)
        spec[name] = [{**rule, **draw(allowed)}]
        if draw(st.booleans()) and "toFQDNs" not in rule:
            spec[f"{name}Deny"] = [{**draw(pods.map(lambda p, e=end: {f"{e}Endpoints": [p]}))}]
    meta: dict[str, Any] = {"name": draw(st.sampled_from(NAMES))}
    if draw(st.integers(0, 3)) == 0:
        meta["annotations"] = {AUDIT_ANNOTATION: "true"}
    if host:
        spec["nodeSelector"] = draw(st.sampled_from([{}, {"matchLabels": {"role": "edge"}}]))
        return {"kind": "CiliumClusterwideNetworkPolicy", "metadata": meta, "spec": spec}
    meta["namespace"] = "red"
    spec["endpointSelector"] = draw(st.one_of(st.just({}), pods))
    if draw(st.booleans()):
        spec["enableDefaultDeny"] = {"ingress": False, "egress": False}
    return {"kind": "CiliumNetworkPolicy", "metadata": meta, "spec": spec}


@st.composite
def tiered(draw: st.DrawFn) -> dict[str, Any]:
    """A ClusterNetworkPolicy of either tier."""

    def rule(end: str) -> st.SearchStrategy[dict[str, Any]]:
        peer = st.one_of(
            pods.map(lambda one: {"pods": {"podSelector": one}}),
            st.just({"namespaces": {}}),
            *([cidrs.map(lambda cidr: {"networks": [cidr]})] if end == "to" else []),
        )
        return st.builds(
            lambda action, found, port: {"action": action, end: [found], **port},
            st.sampled_from(["Accept", "Deny", "Pass"]),
            peer,
            st.sampled_from([{}, {"ports": [{"portNumber": {"port": 80}}]}]),
        )

    spec: dict[str, Any] = {
        "tier": draw(st.sampled_from(["Admin", "Baseline"])),
        "priority": draw(st.integers(0, 1)),
        "subject": draw(st.sampled_from([{"namespaces": {}}]) | pods.map(
            lambda one: {"pods": {"podSelector": one}})),
    }  # fmt: skip
    name, end = draw(st.sampled_from([("ingress", "from"), ("egress", "to")]))
    spec[name] = draw(st.lists(rule(end), min_size=1, max_size=3))
    meta = {"name": draw(st.sampled_from(NAMES))}
    return {"kind": "ClusterNetworkPolicy", "metadata": meta, "spec": spec}


documents = st.one_of(cilium(), cilium(), tiered())

groups = st.builds(
    lambda name, some, ours: read_group(
        {
            "metadata": {"name": name, "labels": {"of": "us"} if ours else {}},
            "spec": {"externalCIDRs": some},
        }
    ),
    st.sampled_from(GROUPS),
    st.lists(cidrs, min_size=1, max_size=2),
    st.booleans(),
)


def _service(name: str, selector: dict[str, str], addresses: list[str]) -> Any:
    slices = [{"metadata": {"labels": {"kubernetes.io/service-name": name}, "namespace": "red"},
               "addressType": "IPv4", "endpoints": [{"addresses": addresses}]}]  # fmt: skip
    meta = {"name": name, "namespace": "red"}
    return read_service({"metadata": meta, "spec": {"selector": selector}}, slices)


services_rows = st.builds(
    _service,
    st.sampled_from(("s1", "s2")),
    st.one_of(st.just({}), st.sampled_from(APPS).map(lambda app: {"app": app})),
    st.sampled_from([["192.0.2.7"], ["192.0.2.7", "192.0.2.200"]]),
)
