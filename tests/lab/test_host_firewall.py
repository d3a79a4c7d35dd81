"""Policies about nodes, on nodes: who reaches them, what they send, and what they never lose."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.lab.hostlab import (
    CONFIG,
    SSH,
    WEB,
    create,
    curl,
    echoes,
    found,
    label,
    listening,
    policy,
    reaches,
    remove,
    until,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.lab.client import Lab

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

PODS = echoes(near="node1", far="node2")
NEEDED = [
    {
        "fromEntities": ["remote-node"],
        "toPorts": [
            {
                "ports": [
                    {"port": "4240", "protocol": "TCP"},
                    {"port": "10250", "protocol": "TCP"},
                    {"port": "8472", "protocol": "UDP"},
                ]
            }
        ],
    }
]


def to(port: int, **peers: Any) -> dict[str, Any]:
    """A rule about one TCP port."""
    return {**peers, "toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}]}


WAYS: dict[str, dict[str, Any]] = {
    "tunnel": {"ipv6": True},
    "native": {"ipv6": True, "routing": "native"},
    "native-legacy": {"ipv6": True, "routing": "native", "host_routing": "legacy"},
    "endpoint-routes": {"ipv6": True, "host_routing": "legacy"},
}


@pytest.fixture(params=WAYS)
def guarded(request: pytest.FixtureRequest, make_lab: Callable[..., Lab]) -> Lab:
    """Two nodes with the host firewall, the first with the label that policies select by."""
    routes = {"enable-endpoint-routes": "true"} if request.param == "endpoint-routes" else {}
    lab = make_lab(PODS, config=CONFIG | routes, **WAYS[request.param])
    label(lab, "node1", role="guarded")
    return lab


def places(lab: Lab) -> dict[str, str]:
    """Network namespaces: outside the cluster, the other node, a pod on each node."""
    return {
        "world": lab.status()["netns"],
        "node2": lab.node("node2")["netns"],
        "near": lab.pod("near")["netns"],
        "far": lab.pod("far")["netns"],
    }


def who(lab: Lab, port: int) -> dict[str, set[str]]:
    """Who reaches a port of node1, by family."""
    addresses = lab.node("node1")["addresses"]
    return {
        address: {name for name, netns in places(lab).items() if reaches(netns, address, port)}
        for address in addresses
    }


def test_ingress(guarded: Lab) -> None:
    """By entity, by labels of pods, by CIDR; replies and pods' own traffic are not touched."""
    everyone = {"world", "node2", "near", "far"}
    with listening(guarded, "node1", SSH, WEB):
        assert all(names == everyone for names in who(guarded, SSH).values())
        create(
            guarded,
            policy(
                "host",
                ingress=[
                    *NEEDED,
                    to(SSH, fromCIDR=["172.18.0.1/32", "fd00:ac12::1/128"]),
                    to(
                        WEB,
                        fromEndpoints=[
                            {"matchLabels": {"k8s:io.kubernetes.pod.namespace": "default"}}
                        ],
                    ),
                ],
            ),
        )
        assert all(names == {"world"} for names in who(guarded, SSH).values())
        assert all(names == {"near", "far"} for names in who(guarded, WEB).values())
        near = places(guarded)["near"]
        assert all(curl(near, target) for target in guarded.pod("far")["addresses"])
        remove(guarded, "host")
        assert all(names == everyone for names in who(guarded, SSH).values())


def test_egress(guarded: Lab) -> None:
    """What the node sends itself: to the world, to another node, to pods here and there."""
    node1 = guarded.node("node1")["netns"]
    near, far = (guarded.pod(pod)["addresses"] for pod in ("near", "far"))

    with listening(guarded, "node2", SSH, WEB):
        other = guarded.node("node2")["addresses"]
        assert all(curl(node1, address) for address in (*near, *far))
        create(
            guarded,
            policy(
                "host",
                egress=[
                    {
                        "toEntities": ["remote-node"],
                        "toPorts": [{"ports": [{"port": "8472", "protocol": "UDP"}]}],
                    },
                    to(SSH, toEntities=["remote-node"]),
                    to(80, toEndpoints=[{"matchLabels": {"app": "far"}}]),
                ],
            ),
        )
        assert all(reaches(node1, address, SSH) for address in other)
        assert not any(reaches(node1, address, WEB) for address in other)
        assert all(curl(node1, address) for address in far)
        assert not any(curl(node1, address) for address in near)


def test_what_a_node_needs(guarded: Lab) -> None:
    """A policy that cuts the kubelet's port stays out and says so, unless it insists."""
    with listening(guarded, "node1", SSH, 10250):
        address = guarded.node("node1")["addresses"][0]
        outside, other = (places(guarded)[name] for name in ("world", "node2"))
        create(guarded, policy("shut", ingress=[to(SSH, fromEntities=["world"])]))
        shown = found(guarded, "node1", "shut")
        assert shown is not None
        assert shown["status"] == "not applied"
        assert "the kubelet's port (ingress TCP 10250) from remote-node" in shown["reason"]
        assert found(guarded, "node2", "shut")["status"] == "enforced"  # pyright: ignore[reportOptionalSubscript]
        assert reaches(other, address, 10250)
        status, document = guarded.api(
            "GET", "/apis/cilium.io/v2/ciliumclusterwidenetworkpolicies/shut"
        )
        conditions: list[dict[str, Any]] = document["status"]["conditions"]
        assert status == 200
        assert any("10250" in one["message"] for one in conditions)
        remove(guarded, "shut")
        forced = policy("shut", ingress=[to(SSH, fromEntities=["world"])])
        forced["metadata"]["annotations"] = {"fimbria.io/force": "true"}
        create(guarded, forced)
        until(lambda: not reaches(other, address, 10250), "not enforced")
        assert reaches(outside, address, SSH)


def standing(lab: Lab, node: str, name: str) -> str:
    """What a node says of a policy."""
    shown = found(lab, node, name)
    assert shown is not None
    return shown["status"]


def test_a_node_that_comes_to_be_selected(guarded: Lab) -> None:
    """A label, or the end of another policy, can make a policy cut: then it is taken out."""
    label(guarded, "node1", role=None)
    with listening(guarded, "node1", 10250):
        address, other = guarded.node("node1")["addresses"][0], places(guarded)["node2"]
        create(guarded, policy("shut", ingress=[to(SSH, fromEntities=["world"])]))
        assert standing(guarded, "node1", "shut") == "enforced"
        label(guarded, "node1", role="guarded")
        until(lambda: standing(guarded, "node1", "shut") == "not applied", "it is in force")
        assert reaches(other, address, 10250)
        create(guarded, policy("open", ingress=NEEDED))
        until(lambda: standing(guarded, "node1", "shut") == "enforced", "it is kept out")
        assert reaches(other, address, 10250)
        remove(guarded, "open")
        until(lambda: standing(guarded, "node1", "shut") == "not applied", "it is in force")
        until(lambda: reaches(other, address, 10250), "it is still cut")


def test_who_is_told(guarded: Lab) -> None:
    """Status names the devices; the host is an endpoint; a drop is explained."""
    lines = json.loads(guarded.cli("status", "-o", "json", node="node1"))["lines"]
    line = next(one for one in lines if one["name"] == "Host firewall")
    assert (line["text"], line["requested"]) == ("Enabled [eth0]", "Enabled")
    endpoints = json.loads(guarded.cli("endpoint", "list", "-o", "json", node="node1"))
    host = next(one for one in endpoints if one["id"] == 4096)
    assert "reserved:host" in str(host)
    assert "node:role=guarded" in str(host)
    create(guarded, policy("host", ingress=[*NEEDED]))
    address = guarded.node("node1")["addresses"][0]
    with listening(guarded, "node1", SSH):
        assert not reaches(places(guarded)["world"], address, SSH)
    drops = guarded.cli("monitor", "--last", "1000", "-t", "drop", "-v", node="node1")
    assert f":{SSH} tcp" in drops
    assert "CiliumClusterwideNetworkPolicy host" in drops
