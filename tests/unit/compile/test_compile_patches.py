"""Identities come and go: which policy maps change in place, and when there is a new one instead.

After each step the maps are what a compile from nothing gives.
"""

from __future__ import annotations

from typing import Any

from fimbria.compile.delta import POLICY_REF, Delta
from fimbria.compile.ids import SPARE, Ids, PolicyIds, PolicyMap
from fimbria.compile.node import Compiler, compile_node
from fimbria.compile.state import ClusterState, LocalEndpoint, NodeConfig, RemoteEndpoint
from fimbria.datapath.abi import Direction, PolicyRef
from fimbria.datapath.lookup import Asked, policy_lookup
from fimbria.model.policy import AUDIT_ANNOTATION, Policy
from fimbria.model.policy_parse import parse_policy
from tests.property.machine import canonical
from tests.property.test_compile_changes import copy

NS = "k8s:io.kubernetes.pod.namespace=default"
WEB, API, FIRST = 300, 301, 400


def identity(*labels: str) -> tuple[str, ...]:
    return (*(f"k8s:{label}" for label in labels), NS)


def policy(name: str, peer: str, *, app: str = "", audit: bool = False, **spec: Any) -> Policy:
    """Lets whoever has a label into TCP 80 and 81 of an app, or of all."""
    ports = [{"port": port, "protocol": "TCP"} for port in ("80", "81")]
    annotations = {AUDIT_ANNOTATION: "true"} if audit else {}
    found = parse_policy(
        {
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": name, "namespace": "default", "annotations": annotations},
            "spec": {
                "endpointSelector": {"matchLabels": {"app": app} if app else {}},
                "ingress": [{**whom(peer), "toPorts": [{"ports": ports}]}],
                **spec,
            },
        }
    )
    assert found.refusal is None
    return found


def whom(peer: str) -> dict[str, Any]:
    key, value = peer.split("=")
    return {"fromEndpoints": [{"matchLabels": {key: value}}]}


class Node:
    """A node with pods `web` and `api`, one identity `tier=old`, and its compiler."""

    def __init__(self, *policies: Policy, **config: Any) -> None:
        self.state = ClusterState("one", NodeConfig(**config))
        self.ids = Ids()
        self.compiler = Compiler(self.state, self.ids)
        for number, app in ((WEB, "web"), (API, "api")):
            self.state.identities.put(number, identity(f"app={app}"))
            ip = bytes([10, 0, 1, number % 256])
            row = LocalEndpoint(number, 1, bytes(6), bytes(6), ip, None, number)
            self.state.local.put(number, row)
        self.state.identities.put(FIRST, identity("tier=new"))
        for one in policies:
            self.state.policies.put(one.key, one)
        self.update()

    def update(self) -> Delta:
        """Take up what changed, and compare with a compile from nothing."""
        delta = self.compiler.update()
        fresh = compile_node(copy(self.state), Ids())
        assert canonical(fresh) == canonical(self.compiler.desired())
        self.compiler.applied()
        return delta

    def come(self, number: int, *labels: str) -> Delta:
        self.state.identities.put(number, identity(*labels))
        return self.update()

    def go(self, number: int) -> Delta:
        self.state.identities.delete(number)
        return self.update()

    def ref(self, endpoint: int = WEB) -> PolicyRef:
        key = endpoint.to_bytes(4, "little")
        return PolicyRef.unpack(self.compiler.desired().maps[POLICY_REF][key])

    def allows(self, peer: int, port: int, endpoint: int = WEB) -> bool:
        asked = Asked(peer, Direction.INGRESS, 6, port)
        policies = self.compiler.desired().policies
        return policy_lookup(policies, self.ref(endpoint).policy_id, asked).allowed


def test_a_newcomer_costs_its_own_entries() -> None:
    """No new map and no reference that moves, neither when it comes nor when it goes."""
    node = Node(policy("p", "tier=new"))
    before = node.ref()
    coming = node.come(500, "tier=new")
    assert not coming.created
    assert not coming.maps
    keys = coming.patched[before.policy_id]
    assert {key[:4] for key in keys} == {(500).to_bytes(4, "little")}
    assert len(keys) == 2
    assert node.allows(500, 80)
    assert node.go(500).patched == {before.policy_id: dict.fromkeys(keys)}
    assert not node.allows(500, 80)
    assert node.ref() == before


def test_nobody_else_is_concerned() -> None:
    """An identity that no rule names changes nothing."""
    assert not Node(policy("p", "tier=new")).come(500, "tier=other")


def test_a_shared_map_is_patched_once() -> None:
    """Two workloads with one policy have one map, and one patch."""
    node = Node(policy("p", "tier=new"))
    assert node.ref(WEB) == node.ref(API)
    assert list(node.come(500, "tier=new").patched) == [node.ref(WEB).policy_id]
    assert node.ref(WEB) == node.ref(API)


def test_a_shared_map_that_not_all_want_to_change() -> None:
    """Who wants to change gets a map of its own, and shares again once they are equal again."""
    node = Node(policy("p", "tier=new"), policy("q", "tier=rare", app="web"))
    shared = node.ref(API)
    assert node.ref(WEB) == shared
    apart = node.come(500, "tier=rare")
    assert not apart.patched
    assert list(apart.created) == [node.ref(WEB).policy_id]
    assert node.ref(API) == shared
    assert node.allows(500, 80, WEB)
    assert not node.allows(500, 80, API)
    together = node.go(500)
    assert not together.patched
    assert not together.created
    assert node.ref(WEB) == shared


def test_entries_that_contradict_come_in_a_new_map() -> None:
    """A denial within a permission: a lookup under way could miss the one and hit the other.

    They go in place, the wide one first.
    """
    deny = {**whom("tier=new"), "toPorts": [{"ports": [{"port": "81", "protocol": "TCP"}]}]}
    node = Node(policy("p", "tier=new", ingress=[whom("tier=new")], ingressDeny=[deny]))
    coming = node.come(500, "tier=new")
    assert not coming.patched
    assert len(coming.created) == 1
    assert (node.allows(500, 80), node.allows(500, 81)) == (True, False)
    (going,) = node.go(500).patched.values()
    assert [key[7] for key in going] == sorted(key[7] for key in going)
    assert len(going) == 2


def test_an_identity_that_stays_keeps_its_entries_in_the_old_map() -> None:
    """What a living identity is no longer allowed goes with a new map: it sends packets."""
    to = [{"ports": [{"port": "http", "protocol": "TCP"}]}]
    rule = {"toEndpoints": [{"matchLabels": {"tier": "new"}}], "toPorts": to}
    node = Node(policy("p", "tier=new", ingress=[], egress=[rule]))
    node.state.identities.put(500, identity("tier=new"))

    def pod(number: int) -> bytes:
        ip = bytes([10, 0, 2, number % 256])
        named = (("http", 6, 8080),)
        node.state.remote.put(ip, RemoteEndpoint(ip, number, named_ports=named))
        return ip

    pod(FIRST)
    first = node.update()
    assert not first.patched, "the first key of its shape changes struct policy_info"
    assert len(first.created) == 1
    ip = pod(500)
    assert len(node.update().patched[node.ref().policy_id]) == 1
    node.state.remote.delete(ip)
    gone = node.update()
    assert not gone.patched
    assert len(gone.created) == 1


def test_real_and_shadow_are_patched_side_by_side() -> None:
    """Each is judged for itself, so that both change is nothing that a packet could mix."""
    node = Node(policy("p", "tier=new"), policy("q", "tier=new", audit=True))
    ref = node.ref()
    assert node.come(500, "tier=new").patched.keys() == {ref.policy_id, ref.shadow_id}


def test_a_shadow_that_shares_the_real_map_goes_apart() -> None:
    """What only an audited policy allows a newcomer is in the shadow's map, not in the real one."""
    node = Node(policy("p", "tier=new"), policy("q", "tier=rare", audit=True))
    shared = node.ref()
    assert shared.policy_id == shared.shadow_id
    assert not node.come(500, "tier=rare").patched
    assert node.ref().policy_id == shared.policy_id
    assert node.ref().shadow_id != shared.policy_id
    assert not node.allows(500, 80)
    assert node.come(501, "tier=new").patched.keys() == {shared.policy_id, node.ref().shadow_id}


def test_two_tiers_that_change_are_a_new_chain() -> None:
    """A packet could ask the one before and the other after."""
    pods = {"pods": {"podSelector": {"matchLabels": {"tier": "new"}}}}
    admin = parse_policy(
        {
            "kind": "ClusterNetworkPolicy",
            "metadata": {"name": "admin"},
            "spec": {
                "tier": "Admin",
                "priority": 1,
                "subject": {"namespaces": {}},
                "ingress": [{"action": "Pass", "from": [pods]}],
            },
        }
    )
    node = Node(admin, policy("p", "tier=new"))
    coming = node.come(500, "tier=new")
    assert not coming.patched
    assert len(coming.created) == 2
    node.state.policies.delete(admin.key)
    node.update()
    assert node.come(501, "tier=new").patched


def test_a_full_map_is_replaced_by_a_larger_one() -> None:
    """Newcomers fill the room that a map was made with, then there is a new one."""
    node = Node(policy("p", "tier=new"))
    created: list[int] = []
    for number in range(SPARE):
        delta = node.come(500 + number, "tier=new")
        assert bool(delta.created) is not bool(delta.patched)
        for policy_id, made in delta.created.items():
            created.append(number)
            assert len(made.entries) < made.room
            assert policy_id == node.ref().policy_id
    assert created == [SPARE // 2], "two entries each"


def test_what_is_to_be_made_is_as_it_was_asked_for() -> None:
    """A patch that comes later is for the kernel to make; the map before it has not changed."""
    node = Node()
    one = policy("p", "tier=new")
    node.state.policies.put(one.key, one)
    ((number, made),) = node.update().created.items()
    before = dict(made.entries)
    assert node.come(500, "tier=new").patched.keys() == {number}
    assert made.entries == before
    assert len(node.compiler.desired().policies[number].entries) == len(before) + 2


def test_who_comes_needs_room_beside_who_goes() -> None:
    """Entries are added before others are removed: a map that is full is replaced."""
    node = Node(policy("p", "tier=new"))
    for number in range(SPARE // 2):
        assert node.come(500 + number, "tier=new").patched
    held = node.compiler.desired().policies[node.ref().policy_id]
    assert len(held.entries) + 2 > held.room
    node.state.identities.delete(500)
    swapped = node.come(600, "tier=new")
    assert not swapped.patched
    assert len(swapped.created) == 1


def test_the_limit_of_a_map_holds_for_patches() -> None:
    """What no map may have is refused as ever; nothing changes in the map until all of it fits."""
    node = Node(policy("p", "tier=new"), policy_map_max=5)
    node.come(500, "tier=new")
    before = node.compiler.desired().policies[node.ref().policy_id].entries
    held = dict(before)
    assert len(held) == 5
    node.state.identities.put(501, identity("tier=new"))
    assert not node.compiler.update()
    (problem, *_) = node.compiler.problems
    assert "bpf-policy-map-max" in problem.reason
    node.state.identities.delete(500)
    node.state.identities.put(502, identity("tier=new"))
    assert not node.compiler.update()
    assert node.compiler.desired().policies[node.ref().policy_id].entries == held
    node.go(501)
    assert (node.allows(500, 80), node.allows(502, 80)) == (False, True)


def test_a_patched_number_is_known_by_its_new_content() -> None:
    """Equal contents still have one number, whoever had it first; other contents do not."""
    ids = PolicyIds()
    one, two = ((300 + n).to_bytes(4, "little") + bytes(4) for n in range(2))
    old, new = PolicyMap(b"i", {one: b"1"}), PolicyMap(b"i", {one: b"1", two: b"2"})
    number = ids.take(old)
    assert ids.patch(number, {two: b"2"})
    assert ids.take(new) == number
    other = ids.take(old)
    assert other != number
    assert not ids.patch(other, {two: b"2"}), "another number has that content"
    assert not ids.patch(number, {two: None})
    assert (ids.take(old), ids.take(new)) == (other, number)
    ids.retain([number])
    assert ids.patch(number, {two: None})
    assert ids.take(old) == number
