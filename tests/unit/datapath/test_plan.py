"""The order of a plan: what is referred to comes first and goes last."""

from __future__ import annotations

from fimbria.compile.delta import DEVICES, IPCACHE, LXC, MAPS, NODES, POLICY_REF, Delta, Desired
from fimbria.compile.endpoints import ref_key
from fimbria.compile.ids import PolicyMap
from fimbria.compile.nodes import Route, Via
from fimbria.datapath.abi import EndpointIds, PolicyInfo, PolicyRef
from fimbria.datapath.plan import (
    LOCKED,
    Bump,
    MapDelete,
    MapPut,
    PolicyCreate,
    PolicyDelete,
    PolicyPut,
    PolicyRefSet,
    PolicyTrim,
    RouteDelete,
    RoutePut,
    left_behind,
    plan,
    plan_delta,
)

OLD, NEW = Route("10.0.1.0/24", Via.HOST), Route("10.0.2.0/24", Via.HOST)


def tier(next_id: int = 0, content: bytes = b"v") -> PolicyMap:
    """A policy that may be followed by another."""
    return PolicyMap(PolicyInfo(next_id=next_id).pack(), {b"k": content})


POLICY = tier()


def desired(**maps: dict[bytes, bytes]) -> Desired:
    return Desired({name: maps.get(name, {}) for name in MAPS}, {}, frozenset())


def test_order() -> None:
    """Policies, references, nodes, routes, ipcache, endpoints; then the same backwards."""
    delta = Delta(
        {name: {b"new": b"1", b"old": None} for name in (LXC, DEVICES, IPCACHE, NODES, POLICY_REF)},
        created={5: POLICY},
        patched={6: {b"new": b"1", b"old": None}},
        unused={4: POLICY},
        routes_put={NEW},
        routes_deleted={OLD},
    )
    assert plan_delta(delta) == [
        PolicyCreate(5, POLICY),
        PolicyPut(6, {b"new": b"1"}),
        PolicyRefSet({b"new": b"1"}),
        MapPut(NODES, {b"new": b"1"}),
        RoutePut(NEW),
        MapPut(IPCACHE, {b"new": b"1"}),
        MapPut(DEVICES, {b"new": b"1"}),
        MapPut(LXC, {b"new": b"1"}),
        MapDelete(LXC, (b"old",)),
        MapDelete(DEVICES, (b"old",)),
        MapDelete(IPCACHE, (b"old",)),
        RouteDelete(OLD),
        MapDelete(NODES, (b"old",)),
        PolicyRefSet({b"old": LOCKED}),
        PolicyTrim(6, (b"old",)),
        Bump(),
        PolicyDelete(4),
    ]


def test_nothing_to_do() -> None:
    """Equal contents need no operation, and no bump unless one is asked for."""
    same = desired(cilium_lxc={b"k": b"v"})
    assert plan(same, same) == []
    assert plan(same, same, bump=True) == [Bump()]
    assert plan_delta(Delta()) == []


def test_removed_endpoints_stay_locked() -> None:
    """An endpoint that is gone is left with a reference to LOCKED, which counts as none."""
    gone = desired(cilium_policy_ref={ref_key(7): LOCKED})
    assert plan(gone, desired()) == []
    open_ = desired(cilium_policy_ref={ref_key(7): PolicyRef(0).pack()})
    assert plan(open_, desired()) == [PolicyRefSet({ref_key(7): LOCKED}), Bump()]
    found = PolicyRef.unpack(LOCKED)
    assert found.fallback_id == found.policy_id, "locked, too, with a trial's deadline from before"


def test_the_node_is_never_locked() -> None:
    """The node as an endpoint is left open: it must still reach the API server."""
    host = ref_key(EndpointIds.HOST)
    have = desired(cilium_policy_ref={host: PolicyRef(7).pack()})
    assert plan(have, desired()) == [PolicyRefSet({host: PolicyRef(0).pack()}), Bump()]
    assert plan(desired(cilium_policy_ref={host: left_behind(host)}), desired()) == []


def test_chains() -> None:
    """The last tier is created first and removed last, whatever the numbers."""
    chain = {3: tier(9), 9: tier(4), 4: tier()}
    last_first = [PolicyCreate(4, chain[4]), PolicyCreate(9, chain[9]), PolicyCreate(3, chain[3])]
    assert plan_delta(Delta(created=chain))[:-1] == last_first
    assert plan_delta(Delta(unused=chain)) == [
        PolicyDelete(3), PolicyDelete(9), PolicyDelete(4),
    ]  # fmt: skip
    none: frozenset[Route] = frozenset()
    empty, full = Desired({}, {}, none), Desired({}, chain, none)
    assert plan(empty, full)[:-1] == last_first
    assert [op for op in plan(full, empty) if isinstance(op, PolicyDelete)][-1] == PolicyDelete(4)


def test_repair_of_a_chain() -> None:
    """What leads to a damaged policy is written anew with it; every reference moves aside."""
    right = {2: tier(3), 3: tier(), 4: tier(content=b"x")}
    ref = PolicyRef(2, shadow_id=4, fallback_id=2, until=77)
    refs = {POLICY_REF: {ref_key(7): ref.pack()}}
    none: frozenset[Route] = frozenset()
    damaged = Desired(refs, {**right, 3: tier(content=b"bad")}, none)
    aside = ref._replace(policy_id=6, fallback_id=6)
    assert plan(damaged, Desired(refs, right, none)) == [
        PolicyCreate(5, tier()),
        PolicyCreate(6, tier(5)),
        PolicyRefSet({ref_key(7): aside.pack()}),
        PolicyDelete(2),
        PolicyDelete(3),
        PolicyCreate(3, tier()),
        PolicyCreate(2, tier(3)),
        PolicyRefSet({ref_key(7): ref.pack()}),
        PolicyDelete(6),
        PolicyDelete(5),
        Bump(),
    ]
