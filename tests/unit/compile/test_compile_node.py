"""The compiler on a small cluster: exact rows, precedence, limits, what a change costs."""

from __future__ import annotations

from typing import Any

import pytest

from fimbria.compile.delta import DEVICES, IPCACHE, LXC, NODES, POLICY_REF
from fimbria.compile.endpoints import LOCKED, lxc_key, ref_key
from fimbria.compile.ids import Ids, OutOfIds, PolicyIds, PolicyMap, RuleIds
from fimbria.compile.ipcache import key
from fimbria.compile.node import Compiler, compile_node
from fimbria.compile.nodes import Route, Via
from fimbria.compile.ports import prefixes
from fimbria.compile.state import ClusterState, LocalEndpoint, Node, NodeConfig, RemoteEndpoint
from fimbria.datapath.abi import (
    DeviceInfo,
    DeviceKey,
    EndpointFlags,
    EndpointInfo,
    IpcacheInfo,
    PolicyInfo,
    PolicyRef,
)
from fimbria.model.policy import PolicyKey
from fimbria.model.policy_parse import parse_policy

MAC, HOST_MAC = b"\x02\0\0\0\0\1", b"\x02\0\0\0\0\2"
POD, OTHER = bytes([10, 0, 1, 7]), bytes([10, 0, 2, 9])
UNDERLAY = [bytes([172, 18, 0, n]) for n in range(3)]
NS = "k8s:io.kubernetes.pod.namespace=default"


def state(**config: Any) -> ClusterState:
    found = ClusterState("one", NodeConfig(**config))
    found.identities.put(300, ("k8s:app=web", NS))
    found.identities.put(301, ("k8s:app=db", NS))
    for number, name in ((1, "one"), (2, "two")):
        ip = UNDERLAY[number]
        router = bytes([10, 0, number, 1])
        found.nodes.put(name, Node(name, (ip,), (), (f"10.0.{number}.0/24",), ip, (router,)))
    found.local.put(5, LocalEndpoint(5, 42, MAC, HOST_MAC, POD, bytes(15) + b"\7", 300))
    found.remote.put(OTHER, RemoteEndpoint(OTHER, 301, UNDERLAY[2]))
    return found


def allow(name: str, app: str, peers: list[dict[str, Any]], **more: Any):
    return parse_policy(
        {
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "endpointSelector": {"matchLabels": {"app": app}},
                "ingress": [{"fromEndpoints": peers, **more}],
            },
        }
    )


def put(target: ClusterState, policy: Any) -> None:
    target.policies.put(policy.key, policy)


def ipcache(rows: dict[bytes, bytes], ip: bytes, bits: int | None = None) -> tuple[int, int] | None:
    value = rows.get(key(ip, bits))
    if value is None:
        return None
    info = IpcacheInfo.unpack(value)
    return info.sec_identity, info.tunnel_endpoint


def number(ip: bytes) -> int:
    return int.from_bytes(ip, "big")


def test_local_pod_rows() -> None:
    """A pod is in cilium_lxc under each address, in cilium_devices by its device."""
    maps = compile_node(state(ipv6=True), Ids()).maps
    info = EndpointInfo.unpack(maps[LXC][lxc_key(POD)])
    assert (info.ifindex, info.lxc_id, info.mac, info.node_mac, info.sec_id) == (
        42, 5, MAC, HOST_MAC, 300,
    )  # fmt: skip
    assert maps[LXC][lxc_key(bytes(15) + b"\7")] == maps[LXC][lxc_key(POD)]
    device = DeviceInfo.unpack(maps[DEVICES][DeviceKey(ifindex=42).pack()])
    assert device.ip4 == bytes(10) + b"\xff\xff" + POD
    assert device.ip6 == bytes(15) + b"\7"
    assert (device.sec_id, device.lxc_id) == (300, 5)


def test_own_addresses_are_host() -> None:
    """The node's addresses and its router are the host, here and in the ipcache; no tunnel."""
    maps = compile_node(state(), Ids()).maps
    for ip in (UNDERLAY[1], bytes([10, 0, 1, 1])):
        info = EndpointInfo.unpack(maps[LXC][lxc_key(ip)])
        assert info.flags == EndpointFlags.HOST
        assert ipcache(maps[IPCACHE], ip) == (1, 0)
    assert len(maps[NODES]) == 2  # the other node's two addresses


@pytest.mark.parametrize("tunnel", [True, False])
def test_addresses_of_others(tunnel: bool) -> None:
    """Pods, router and pod CIDR of another node are behind the tunnel, its underlay address not."""
    rows = compile_node(state(tunnel=tunnel), Ids()).maps[IPCACHE]
    end = number(UNDERLAY[2]) if tunnel else 0
    assert ipcache(rows, OTHER) == (301, end)
    assert ipcache(rows, bytes([10, 0, 2, 1])) == (6, end)
    assert ipcache(rows, bytes([10, 0, 2, 0]), 24) == (2, end)
    assert ipcache(rows, UNDERLAY[2]) == (6, 0)
    assert ipcache(rows, bytes([10, 0, 1, 0]), 24) == (2, 0)


def test_world_in_dual_stack() -> None:
    """With both families, an unknown pod of another node is the world of its family."""
    rows = compile_node(state(ipv6=True), Ids()).maps[IPCACHE]
    assert ipcache(rows, bytes([10, 0, 2, 0]), 24) == (9, number(UNDERLAY[2]))


def test_precedence() -> None:
    """kube-apiserver before local pods, local pods before nodes, nodes before remote pods."""
    cluster = state(kube_apiserver=frozenset([UNDERLAY[1], UNDERLAY[2]]))
    rows = compile_node(cluster, Ids()).maps[IPCACHE]
    assert ipcache(rows, UNDERLAY[1]) == (1, 0)
    assert ipcache(rows, UNDERLAY[2]) == (7, 0)
    cluster = state()
    cluster.remote.put(POD, RemoteEndpoint(POD, 301, UNDERLAY[2]))
    compiler = Compiler(cluster, Ids())
    compiler.update()
    assert ipcache(dict(compiler.desired().maps[IPCACHE]), POD) == (300, 0)
    cluster.local.delete(5)
    compiler.update()
    assert ipcache(dict(compiler.desired().maps[IPCACHE]), POD) == (301, number(UNDERLAY[2]))


def test_routes() -> None:
    """The host reaches pods through cilium_host; what has no pod is unreachable."""
    routes = compile_node(state(), Ids()).routes
    assert Route("10.0.1.0/24", Via.UNREACHABLE) in routes
    assert Route("10.0.1.7/32", Via.HOST) in routes
    assert Route("10.0.2.0/24", Via.HOST) in routes
    native = compile_node(state(tunnel=False, endpoint_routes=True), Ids()).routes
    assert Route("10.0.2.0/24", Via.NODE, "172.18.0.2") in native
    assert Route("10.0.1.7/32", Via.ENDPOINT, ifindex=42) in native


def test_unknown_identity_is_locked() -> None:
    """Until the labels of an identity are known its endpoints are closed."""
    cluster = state()
    cluster.identities.delete(300)
    compiler = Compiler(cluster, Ids())
    compiler.update()
    refs = compiler.desired().maps[POLICY_REF]
    assert refs[ref_key(5)] == LOCKED.pack()
    cluster.identities.put(300, ("k8s:app=web", NS))
    assert compiler.update().maps[POLICY_REF] == {ref_key(5): PolicyRef(0).pack()}


def test_replicas_share_a_map() -> None:
    """Endpoints of one identity refer to one map, however many they are."""
    cluster = state()
    for other in range(6, 20):
        ip = bytes([10, 0, 1, other])
        cluster.local.put(other, LocalEndpoint(other, other, MAC, MAC, ip, None, 300 + other % 2))
    put(cluster, allow("a", "web", [{}]))
    desired = compile_node(cluster, Ids())
    assert len(desired.policies) == 1


def test_change_of_one_policy_touches_one_unit() -> None:
    """The delta of a changed policy is one map, and the references of whom it selects."""
    cluster = state()
    for other in range(50):
        identity = 400 + other
        cluster.identities.put(identity, (f"k8s:app=a{other}", NS))
        ip = bytes([10, 0, 1, 100 + other])
        cluster.local.put(100 + other, LocalEndpoint(100 + other, 0, MAC, MAC, ip, None, identity))
        put(cluster, allow(f"p{other}", f"a{other}", [{}]))
    compiler = Compiler(cluster, Ids())
    compiler.update()
    compiler.applied()
    put(cluster, allow("p7", "a7", []))
    delta = compiler.update()
    assert delta.maps.keys() == {POLICY_REF}
    assert delta.maps[POLICY_REF].keys() == {ref_key(107)}
    assert len(delta.created) == 1
    assert not compiler.update()


def test_too_large_keeps_the_old_policy() -> None:
    """A policy that does not fit is not applied: numbers are given, the old one stays in force."""
    cluster = state(policy_map_max=8)
    put(cluster, allow("a", "web", [{}]))
    compiler = Compiler(cluster, Ids())
    compiler.update()
    before = compiler.policies.policy_id(5)
    ports = [{"ports": [{"port": "1", "endPort": 65534, "protocol": "TCP"}]}]
    put(cluster, allow("a", "web", [{}], toPorts=ports))
    delta = compiler.update()
    assert not delta
    assert compiler.policies.policy_id(5) == before
    (problem,) = compiler.problems
    assert problem.endpoints == (5,)
    assert "needs 61 entries, bpf-policy-map-max allows 8" in problem.reason
    put(cluster, allow("a", "web", [{}]))
    compiler.update()
    assert compiler.problems == []


def test_shapes_are_announced() -> None:
    """struct policy_info names the shapes in use, by side and direction, and no others."""
    cluster = state()
    ports = [{"ports": [{"port": "80", "protocol": "TCP"}]}]
    put(cluster, allow("a", "web", [{}], toPorts=ports))
    (policy,) = compile_node(cluster, Ids()).policies.values()
    info = PolicyInfo.unpack(policy.info)
    assert info.flags == 1
    assert info.peer_shapes == (1 << 17 | 1, 0)  # the rule's ports, and the node itself
    assert info.any_shapes == (0, 0)


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (80, 80, [(80, 16)]),
        (80, 87, [(80, 13)]),
        (0, 65535, [(0, 0)]),
        (1, 2, [(1, 16), (2, 16)]),
        (65534, 65535, [(65534, 15)]),
    ],
)
def test_ranges(first: int, last: int, expected: list[tuple[int, int]]) -> None:
    """Ranges become the fewest prefixes."""
    assert prefixes(first, last) == expected


def test_every_range_is_covered_exactly() -> None:
    """The prefixes of a range are its ports, each once."""
    for first, last in ((1, 65535), (0, 1), (1023, 1025), (5, 60000)):
        covered = [
            port
            for value, bits in prefixes(first, last)
            for port in range(value, value + (1 << (16 - bits)))
        ]
        assert covered == list(range(first, last + 1))


def test_rule_ids_are_stable() -> None:
    """A rule keeps its number while it exists, and finds it again after a restart."""
    one, again = RuleIds(), RuleIds()
    rule = PolicyKey("NetworkPolicy", "ns", "a")
    first = one.assign(rule, ["spec.ingress[0]", "spec.ingress[1]"])
    assert (
        one.assign(rule, ["spec.ingress[1]", "spec.egress[0]"])["spec.ingress[1]"]
        == (first["spec.ingress[1]"])
    )
    assert one.rule(first["spec.ingress[0]"]) is None
    assert again.assign(rule, ["spec.ingress[1]"])["spec.ingress[1]"] == first["spec.ingress[1]"]
    one.retain([])
    assert one.rule(first["spec.ingress[1]"]) is None


def test_policy_ids_wait_until_the_kernel_let_go() -> None:
    """A number that came free is not given away before `retain`."""
    ids = PolicyIds()
    one, two, three = (PolicyMap(b"i", {bytes([n]): b""}) for n in range(3))
    first = ids.take(one)
    assert ids.take(one) == first
    assert ids.take(two) != first
    ids.retain([ids.take(two)])
    assert ids.take(three) == first


def test_policy_ids_after_a_restart() -> None:
    """Maps that the kernel has are known again; of two equal ones the second is only reserved."""
    ids = PolicyIds()
    one, two = (PolicyMap(b"i", {bytes([n]): b""}) for n in range(2))
    ids.adopt(9, one)
    ids.adopt(2, one)
    assert ids.take(one) == 9
    assert ids.take(two) == 3
    ids.retain([9, 3])
    for other in range(4096 - 4):
        ids.take(PolicyMap(b"x", {other.to_bytes(2, "big"): b""}))
    with pytest.raises(OutOfIds, match="policy ids"):
        ids.take(PolicyMap(b"y", {}))
