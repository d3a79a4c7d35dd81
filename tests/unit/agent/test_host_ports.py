"""Ports that a node cannot do without, and what policies about nodes may do to them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fimbria.agent.hostports import HostPorts
from fimbria.compile.state import ClusterState, Node, NodeConfig
from fimbria.model.peers import Service
from fimbria.model.policy import FORCE_ANNOTATION
from fimbria.model.policy_parse import parse_policy
from fimbria.sources.options import Config

OWN, OTHER, SERVER = bytes((172, 18, 0, 2)), bytes((172, 18, 0, 3)), bytes((172, 18, 0, 9))


def policy(name: str = "host", *, force: bool = False, **spec: Any) -> Any:
    """A policy about nodes with the label role=worker."""
    metadata: dict[str, Any] = {"name": name}
    if force:
        metadata["annotations"] = {FORCE_ANNOTATION: "true"}
    subject = {"nodeSelector": {"matchLabels": {"role": "worker"}}}
    document = {"metadata": metadata, "spec": subject | spec}
    found = parse_policy(document, "CiliumClusterwideNetworkPolicy")
    assert found.refusal is None
    return found


def allow(way: str, entity: str, *ports: str) -> dict[str, Any]:
    """A rule about an entity and ports, "10250/TCP"."""
    numbers = [dict(zip(("port", "protocol"), p.split("/"), strict=True)) for p in ports]
    side = "fromEntities" if way == "ingress" else "toEntities"
    return {side: [entity]} | ({"toPorts": [{"ports": numbers}]} if ports else {})


NODES = allow("ingress", "remote-node", "4240/TCP", "8472/UDP")
API = allow("ingress", "kube-apiserver", "10250/TCP")
OUT = [allow("egress", "remote-node", "8472/UDP"), allow("egress", "kube-apiserver", "6443/TCP")]


@pytest.fixture
def state() -> ClusterState:
    """Two nodes, a tunnel, an API server on a third machine."""
    config = NodeConfig(host_firewall=True, kube_apiserver=frozenset({SERVER}))
    made = ClusterState("node1", config)
    made.nodes.put("node1", Node("node1", ipv4s=(OWN,), labels=("node:role=worker",)))
    made.nodes.put("node2", Node("node2", ipv4s=(OTHER,), labels=("node:role=worker",)))
    return made


@pytest.fixture
def ports(state: ClusterState) -> HostPorts:
    return HostPorts(Config(), state, (frozenset({SERVER}), 6443))


def test_what_allows_all_of_them_is_taken_up(ports: HostPorts) -> None:
    """Every port of the list open to whom it is for: no reason against it."""
    assert ports.guard(policy(ingress=[NODES, API], egress=OUT)) == ""
    world = allow("ingress", "world", "10250/TCP")
    assert ports.guard(policy(ingress=[NODES, world])) == "", "the API server is part of the world"


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"ingress": [NODES]}, "the kubelet's port (ingress TCP 10250) from kube-apiserver"),
        ({"ingress": [API]}, "the health check's port (ingress TCP 4240) from remote-node"),
        (
            {"ingress": [API, allow("ingress", "remote-node", "4240/TCP")]},
            "the tunnel's port (ingress UDP 8472) from remote-node 172.18.0.3",
        ),
        ({"egress": [OUT[0]]}, "the API server's port (egress TCP 6443) to kube-apiserver"),
        ({"egress": [OUT[1]]}, "the tunnel's port (egress UDP 8472) to remote-node"),
        (
            {
                "ingress": [NODES, API],
                "ingressDeny": [allow("ingress", "kube-apiserver", "10250/TCP")],
            },
            "CiliumClusterwideNetworkPolicy host spec.ingressDeny[0]",
        ),
        (
            {"ingress": [NODES, API], "ingressDeny": [{"fromCIDR": ["172.18.0.8/29"]}]},
            "the kubelet's port (ingress TCP 10250) from kube-apiserver 172.18.0.9",
        ),
        (
            {
                "ingress": [NODES, API],
                "ingressDeny": [allow("ingress", "host", "9879/TCP")],
            },
            "the agent's health port (ingress TCP 9879) from host",
        ),
    ],
)
def test_what_cuts_one_is_named(ports: HostPorts, spec: dict[str, Any], named: str) -> None:
    """Port, peer and what denies stand in the reason, and how to do it all the same."""
    reason = ports.guard(policy(**spec))
    assert named in reason
    assert FORCE_ANNOTATION in reason


def test_forced(ports: HostPorts, state: ClusterState) -> None:
    """Who insists gets it, and later policies are not blamed for what it cuts."""
    forced = policy("a", force=True, ingress=[{}])
    assert ports.guard(forced) == ""
    state.policies.put(forced.key, forced)
    other = policy("b", ingress=[allow("ingress", "remote-node", "22/TCP")])
    assert ports.guard(other) == ""
    assert not list(ports.culprits())


def test_policies_allow_for_each_other(ports: HostPorts, state: ClusterState) -> None:
    """What one opens the next need not; when the first goes, the next is a culprit."""
    first = policy("a", ingress=[NODES, API])
    second = policy("b", ingress=[allow("ingress", "world", "22/TCP")])
    assert ports.guard(second)
    state.policies.put(first.key, first)
    assert ports.guard(second) == ""
    state.policies.put(second.key, second)
    assert not list(ports.culprits())
    state.policies.delete(first.key)
    assert [key.name for key, _ in ports.culprits()] == ["b"]


def test_a_node_that_a_policy_comes_to_select(ports: HostPorts, state: ClusterState) -> None:
    """Nobody minds a policy about other nodes, until the node's labels change."""
    own = state.nodes.get("node1")
    assert own is not None
    state.nodes.put("node1", replace(own, labels=("node:role=other",)))
    closing = policy(ingress=[{}])
    assert ports.guard(closing) == ""
    state.policies.put(closing.key, closing)
    assert not list(ports.culprits())
    state.nodes.put("node1", own)
    assert [key for key, _ in ports.culprits()] == [closing.key]


def test_load_balancers_checks(ports: HostPorts, state: ClusterState) -> None:
    """A healthCheckNodePort must be open to somebody outside: the world, or a prefix named."""
    state.services.put(("default", "web"), Service("default", "web", (), None, (), 31000))
    shut = policy(ingress=[NODES, API])
    assert "Service default/web (ingress TCP 31000)" in ports.guard(shut)
    rule = {
        "fromCIDR": ["198.51.100.0/24"],
        "toPorts": [{"ports": [{"port": "31000", "protocol": "TCP"}]}],
    }
    assert ports.guard(policy(ingress=[NODES, API, rule])) == ""


def test_the_node_with_the_api_server(state: ClusterState) -> None:
    """On the machine of the API server its port is to be reached, and nowhere to be gone to."""
    ports = HostPorts(Config(), state, (frozenset({OWN}), 6443))
    state.config = replace(state.config, kube_apiserver=frozenset({OWN}))
    assert "API server's port (ingress TCP 6443)" in ports.guard(policy(ingress=[NODES]))
    open_to_nodes = allow("ingress", "remote-node", "6443/TCP")
    assert ports.guard(policy(ingress=[NODES, open_to_nodes], egress=[OUT[0]])) == ""


def test_without_host_firewall_nothing_is_judged(state: ClusterState) -> None:
    """Policies about nodes do nothing then, and nothing speaks against them."""
    state.config = replace(state.config, host_firewall=False)
    ports = HostPorts(Config(), state, (frozenset({SERVER}), 6443))
    assert ports.guard(policy(ingress=[{}])) == ""
