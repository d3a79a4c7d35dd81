"""Rows by address where rules name prefixes, and where nodes have labels."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.compile.delta import CIDR, IPCACHE, POLICY_REF
from fimbria.compile.ids import Ids, PolicyMap
from fimbria.compile.ipcache import key
from fimbria.compile.node import Compiler
from fimbria.compile.state import ClusterState, LocalEndpoint, Node, NodeConfig, RemoteEndpoint
from fimbria.datapath.abi import CidrInfo, Direction, Identity, IdentityScope, IpcacheInfo
from fimbria.datapath.abi import PolicyKey as Key
from fimbria.datapath.plan import (
    Bump,
    MapDelete,
    PolicyCreate,
    PolicyDelete,
    PolicyRefSet,
    plan_delta,
)
from fimbria.model.labels import LabelSet
from fimbria.model.peers import Cidr, CidrGroup, CidrGroups, Service, Services, Whom, prefix
from fimbria.model.policy import Action, Peer, Policy, PolicyKey, Rule, Spec
from fimbria.model.selector import EVERYTHING, exists, selector

if TYPE_CHECKING:
    from collections.abc import Mapping

MAC = b"\x02\0\0\0\0\1"


def packed(text: str) -> bytes:
    return ip_address(text).packed


def state(**config: Any) -> ClusterState:
    """Nodes one (this) and two with pods in 10.0.1.0/24 and 10.0.2.0/24."""
    found = ClusterState("one", NodeConfig(**config))
    found.identities.put(300, ("k8s:app=web",))
    for number, name in ((1, "one"), (2, "two")):
        ip = packed(f"172.18.0.{number}")
        labels = (f"node:name={name}",)
        cidrs = (f"10.0.{number}.0/24", f"fd00:{number}::/64")
        routers = (packed(f"10.0.{number}.1"),)
        found.nodes.put(name, Node(name, (ip,), (), cidrs, ip, routers, labels))
    pod = LocalEndpoint(5, 42, MAC, MAC, packed("10.0.1.7"), packed("fd00:1::7"), 300)
    found.local.put(5, pod)
    other = RemoteEndpoint(packed("10.0.2.9"), 300, packed("172.18.0.2"))
    found.remote.put(other.ip, other)
    return found


def name(target: ClusterState, text: str, *whoms: Whom) -> None:
    """Put a policy that names some peers."""
    rule = Rule("r", Direction.INGRESS, Action.ALLOW, tuple(Peer("p", whom) for whom in whoms))
    spec = Spec("spec", EVERYTHING, True, None, (rule,))
    found = Policy(PolicyKey("NetworkPolicy", "default", text), (spec,))
    target.policies.put(found.key, found)


def cidrs(target: ClusterState, text: str, *nets: str) -> None:
    name(target, text, *(Cidr(prefix(net)) for net in nets))


class Rows:
    """A compiler, and what it says about addresses after each update."""

    def __init__(self, target: ClusterState) -> None:
        self.state = target
        self.compiler = Compiler(target, Ids())
        self.compiler.update()

    def update(self) -> Rows:
        self.compiler.update()
        return self

    def row(self, net: str) -> tuple[int, int] | None:
        """Identity and tunnel endpoint of exactly this prefix, None if it has no row."""
        value = self.compiler.desired().maps[IPCACHE].get(key(*prefix(net)))
        if value is None:
            return None
        info = IpcacheInfo.unpack(value)
        return info.sec_identity, info.tunnel_endpoint

    def number(self, net: str) -> int | None:
        return self.compiler.policies.selectors.cidrs.identity(prefix(net))

    def labels(self, number: int) -> tuple[str, ...]:
        found = self.compiler.policies.selectors.labels(number)
        return found.labels if found else ()


def test_prefixes_are_rows_as_long_as_they_are_named() -> None:
    """In the same update as the policy, gone with it; the world needs no row."""
    target = state()
    rows = Rows(target)
    before = dict(rows.compiler.desired().maps[IPCACHE])
    cidrs(target, "a", "192.0.2.0/24", "198.51.100.7/32", "0.0.0.0/0")
    name(target, "b", Cidr(prefix("10.0.0.0/8"), (prefix("10.9.0.0/16"),)))
    rows.update()
    for net in ("192.0.2.0/24", "198.51.100.7/32", "10.0.0.0/8", "10.9.0.0/16"):
        assert rows.row(net) == (rows.number(net), 0)
    assert rows.row("0.0.0.0/0") is None
    assert rows.compiler.desired().maps[CIDR] == {}
    target.policies.replace({})
    rows.update()
    assert rows.compiler.desired().maps[IPCACHE] == before


def numbers_in(policies: Mapping[int, PolicyMap]) -> set[int]:
    """The peers that policy maps speak of."""
    return {Key.unpack(entry).identity for policy in policies.values() for entry in policy.entries}


def test_a_prefix_is_judged_until_its_row_is_gone() -> None:
    """Its row goes first, while the rules around it still hold for it; then its identity."""
    target = state()
    cidrs(target, "around", "192.0.2.0/24")
    cidrs(target, "inner", "192.0.2.7")
    rows = Rows(target)
    inner = rows.number("192.0.2.7/32")
    target.policies.delete(PolicyKey("NetworkPolicy", "default", "inner"))
    delta = rows.compiler.update()
    assert delta.maps[IPCACHE] == {key(*prefix("192.0.2.7")): None}
    assert delta.created == {}
    assert delta.then is not None
    assert delta.then.maps.keys() == {POLICY_REF}
    assert inner in numbers_in(delta.then.unused)
    assert inner not in numbers_in(delta.then.created)
    steps = [type(op) for op in plan_delta(delta)]
    assert steps == [MapDelete, Bump, PolicyCreate, PolicyRefSet, Bump, PolicyDelete]


def test_what_leaves_takes_no_room() -> None:
    """A policy that fits without the prefixes that leave is not refused because of them."""
    target = state(policy_map_max=3)
    cidrs(target, "a", "192.0.2.7", "192.0.2.8")
    rows = Rows(target)
    cidrs(target, "a", "192.0.2.0/24", "198.51.100.0/24")
    rows.update()
    assert rows.compiler.problems == []
    (policy,) = rows.compiler.desired().policies.values()
    nets = ("192.0.2.0/24", "198.51.100.0/24")
    assert numbers_in({0: policy}) == {Identity.HOST, *(rows.number(net) for net in nets)}


def test_groups_and_services_have_rows() -> None:
    """The prefixes of a group and the addresses of a Service come and go with these."""
    target = state()
    rows = Rows(target)
    name(target, "a", CidrGroups(selector([exists("cidrgroup:x")])), Services("bank", "shop"))
    target.groups.put("x", CidrGroup("x", ("cidrgroup:x",), (prefix("192.0.2.0/24"),)))
    bank = Service("shop", "bank", (), None, (packed("203.0.113.9"),))
    target.services.put(("shop", "bank"), bank)
    rows.update()
    for net in ("192.0.2.0/24", "203.0.113.9/32"):
        assert rows.row(net) == (rows.number(net), 0)
    target.groups.delete("x")
    target.services.delete(("shop", "bank"))
    rows.update()
    assert rows.row("192.0.2.0/24") is None
    assert rows.row("203.0.113.9/32") is None


def test_no_prefix_in_a_pod_cidr() -> None:
    """An address that the cluster may give to a pod is not matched, now or after a node came."""
    target = state()
    cidrs(target, "a", "10.0.1.0/24", "10.0.2.128/25", "10.0.2.77", "10.0.3.0/24", "10.0.3.4")
    rows = Rows(target)
    two = int.from_bytes(packed("172.18.0.2"), "big")
    assert rows.row("10.0.1.0/24") == (Identity.WORLD, 0)
    assert rows.row("10.0.2.0/24") == (Identity.WORLD, two)
    assert rows.row("10.0.2.128/25") is None
    assert rows.row("10.0.2.77/32") is None
    assert rows.row("10.0.3.0/24") == (rows.number("10.0.3.0/24"), 0)
    three = packed("172.18.0.3")
    target.nodes.put("three", Node("three", (three,), (), ("10.0.3.0/24",), three))
    rows.update()
    assert rows.row("10.0.3.0/24") == (Identity.WORLD, int.from_bytes(three, "big"))
    assert rows.row("10.0.3.4/32") is None
    target.nodes.delete("three")
    rows.update()
    assert rows.row("10.0.3.0/24") == (rows.number("10.0.3.0/24"), 0)
    assert rows.row("10.0.3.4/32") == (rows.number("10.0.3.4/32"), 0)


def test_owners_come_before_prefixes() -> None:
    """A pod or a node keeps its own identity; when it goes, the prefix shows."""
    target = state()
    nets = ["172.18.0.1/32", "172.18.0.2/32", "192.0.2.5/32"]
    cidrs(target, "a", *nets)
    pod = RemoteEndpoint(packed("192.0.2.5"), 300)
    target.remote.put(pod.ip, pod)
    rows = Rows(target)
    assert [rows.row(net) for net in nets] == [(1, 0), (6, 0), (300, 0)]
    target.remote.delete(pod.ip)
    target.nodes.delete("two")
    rows.update()
    assert [rows.row(net) for net in nets] == [(1, 0), *((rows.number(n), 0) for n in nets[1:])]


SERVER = "192.0.2.1"
WORLD = selector([exists("reserved:world")])
APISERVER = selector([exists("reserved:kube-apiserver")])
REMOTE = selector([exists("reserved:remote-node")])


def test_an_api_server_outside_the_cluster() -> None:
    """It is part of the world, and of prefixes around it; whether rules name it or not."""
    target = state(kube_apiserver=frozenset([packed(SERVER)]))
    rows = Rows(target)
    number = rows.number(f"{SERVER}/32")
    assert number is not None
    assert number & IdentityScope.MASK == IdentityScope.CIDR
    assert rows.row(f"{SERVER}/32") == (number, 0)
    labels = f"cidr:{SERVER}/32", "reserved:kube-apiserver", "reserved:world"
    assert rows.labels(number) == labels
    around, beside = Cidr(prefix("192.0.2.0/24")), Cidr(prefix("192.0.2.128/25"))
    less = Cidr(prefix("192.0.2.0/24"), (prefix("192.0.2.0/28"),))
    name(target, "a", WORLD, APISERVER, REMOTE, around, beside, less)
    rows.update()
    cache = rows.compiler.policies.selectors
    named = [whom for whom in (WORLD, APISERVER, REMOTE, around, beside, less)
             if number in cache.identities(whom)]  # fmt: skip
    assert named == [WORLD, APISERVER, around]


@pytest.mark.parametrize("named", [False, True])
def test_an_api_server_becomes_a_node_and_is_none_again(named: bool) -> None:
    """A node that has its address takes it out of the world, until it goes."""
    target = state(kube_apiserver=frozenset([packed(SERVER)]))
    if named:
        cidrs(target, "a", f"{SERVER}/32")
    rows = Rows(target)
    before = dict(rows.compiler.desired().maps[IPCACHE])
    number = rows.number(f"{SERVER}/32")
    assert number is not None
    two = target.nodes["two"]
    target.nodes.put("two", replace(two, ipv4s=(*two.ipv4s, packed(SERVER))))
    delta = rows.compiler.update()
    assert rows.row(f"{SERVER}/32") == (Identity.KUBE_APISERVER, 0)
    assert delta.then is None or IPCACHE not in delta.then.maps
    plain = (f"cidr:{SERVER}/32", "reserved:world")
    assert rows.labels(number) == (plain if named else ())
    assert rows.number(f"{SERVER}/32") == (number if named else None)
    target.nodes.put("two", two)
    rows.update()
    assert rows.compiler.desired().maps[IPCACHE] == before
    assert "reserved:kube-apiserver" in rows.labels(number)


def test_both_families() -> None:
    """With both families a prefix belongs to its family's world; one that is off has no rows."""
    target = state(ipv6=True)
    cidrs(target, "a", "fd99::/16", "192.0.2.0/24")
    rows = Rows(target)
    six, four = rows.number("fd99::/16"), rows.number("192.0.2.0/24")
    assert rows.row("fd99::/16") == (six, 0)
    assert six is not None
    assert four is not None
    assert rows.labels(six) == ("cidr:fd99--0/16", "reserved:world-ipv6")
    assert rows.labels(four) == ("cidr:192.0.2.0/24", "reserved:world-ipv4")
    single = state()
    cidrs(single, "a", "fd99::/16")
    assert Rows(single).row("fd99::/16") is None


def test_match_mode_has_all_prefixes() -> None:
    """cilium_cidr has every prefix in use, the world and those in pod CIDRs included."""
    target = state(cidr_match=frozenset({"nodes"}))
    nets = ["0.0.0.0/0", "10.0.2.0/25", "10.0.0.0/8"]
    cidrs(target, "a", *nets)
    rows = Rows(target)
    found = rows.compiler.desired().maps[CIDR]
    prefixes = rows.compiler.policies.selectors.cidrs
    numbers = [prefixes.match_identity(prefix(net)) for net in nets]
    assert found == {
        key(*prefix(net)): CidrInfo(identity=number or 0).pack()
        for net, number in zip(nets, numbers, strict=True)
    }
    assert None not in numbers
    assert rows.row("10.0.2.0/25") is None
    target.policies.replace({})
    rows.update()
    assert rows.compiler.desired().maps[CIDR] == {}


def test_nodes_by_their_labels() -> None:
    """Equal labels are one identity; kube-apiserver's address has one more label."""
    target = state(node_labels=True, kube_apiserver=frozenset([packed("172.18.0.4")]))
    for index, labels in ((3, ("node:name=two",)), (4, ("node:name=two",)), (5, ())):
        ip = packed(f"172.18.0.{index}")
        target.nodes.put(str(index), Node(str(index), (ip,), tunnel_ip=ip, labels=labels))
    rows = Rows(target)
    found = [rows.row(f"172.18.0.{index}/32") for index in range(1, 6)]
    numbers = [row[0] for row in found if row]
    assert numbers[0] == Identity.HOST
    assert numbers[1] == numbers[2]
    assert len(set(numbers)) == 4
    assert all(number & IdentityScope.MASK == IdentityScope.NODE for number in numbers[1:])
    assert [rows.labels(number) for number in (numbers[0], *numbers[2:])] == [
        ("reserved:host", "node:name=one"),
        ("node:name=two", "reserved:remote-node"),
        ("node:name=two", "reserved:kube-apiserver", "reserved:remote-node"),
        ("reserved:remote-node",),
    ]
    assert rows.row("10.0.2.1/32") == (numbers[1], int.from_bytes(packed("172.18.0.2"), "big"))


def test_labels_of_a_node_change() -> None:
    """Its addresses get another identity, selectors follow; back again gives the same bytes."""
    target = state(node_labels=True)
    rows = Rows(target)
    before = dict(rows.compiler.desired().maps[IPCACHE])
    two = target.nodes["two"]
    first = rows.row("172.18.0.2/32")
    moved = Node(two.name, two.ipv4s, (), two.pod_cidrs, two.tunnel_ip, two.routers, ("node:x",))
    target.nodes.put("two", moved)
    second = rows.update().row("172.18.0.2/32")
    assert first is not None
    assert second is not None
    assert rows.labels(first[0]) == ()
    assert "node:x" in LabelSet(rows.labels(second[0])).values
    target.nodes.put("two", two)
    assert rows.update().compiler.desired().maps[IPCACHE] == before


def test_without_node_labels_nodes_are_alike() -> None:
    """Every other node is remote-node, and the host has its own label only."""
    rows = Rows(state())
    assert rows.row("172.18.0.2/32") == (Identity.REMOTE_NODE, 0)
    assert rows.labels(Identity.HOST) == ("reserved:host",)
