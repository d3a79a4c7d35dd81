"""The order of a plan: what is referred to comes first and goes last."""

from __future__ import annotations

from fimbria.compile.delta import DEVICES, IPCACHE, LXC, MAPS, NODES, POLICY_REF, Delta, Desired
from fimbria.compile.endpoints import ref_key, ref_value
from fimbria.compile.ids import PolicyMap
from fimbria.compile.nodes import Route, Via
from fimbria.datapath.plan import (
    LOCKED,
    Bump,
    MapDelete,
    MapPut,
    PolicyCreate,
    PolicyDelete,
    PolicyRefSet,
    RouteDelete,
    RoutePut,
    plan,
    plan_delta,
)

OLD, NEW = Route("10.0.1.0/24", Via.HOST), Route("10.0.2.0/24", Via.HOST)
POLICY = PolicyMap(b"info", {b"k": b"v"})


def desired(**maps: dict[bytes, bytes]) -> Desired:
    return Desired({name: maps.get(name, {}) for name in MAPS}, {}, frozenset())


def test_order() -> None:
    """Policies, references, nodes, routes, ipcache, endpoints; then the same backwards."""
    delta = Delta(
        {name: {b"new": b"1", b"old": None} for name in (LXC, DEVICES, IPCACHE, NODES, POLICY_REF)},
        {5: POLICY},
        {4},
        {NEW},
        {OLD},
    )
    assert plan_delta(delta) == [
        PolicyCreate(5, POLICY),
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
    gone = desired(cilium_policy_ref={ref_key(7): ref_value(1)})
    assert plan(gone, desired()) == []
    open_ = desired(cilium_policy_ref={ref_key(7): ref_value(0)})
    assert plan(open_, desired()) == [PolicyRefSet({ref_key(7): LOCKED}), Bump()]
