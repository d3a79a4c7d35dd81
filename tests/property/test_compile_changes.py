"""The compiler after any changes: the same bytes as from nothing; plans safe at every operation."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fimbria.compile.ids import Ids, PolicyMap
from fimbria.compile.node import Compiler, compile_node
from fimbria.compile.state import ClusterState, Node, NodeConfig, Trial
from fimbria.datapath.plan import plan, plan_delta
from fimbria.model.groups import read_group
from fimbria.model.peers import Service
from fimbria.model.policy_parse import parse_policy
from fimbria.model.selector import Selector, equals
from tests.property.machine import Machine, canonical
from tests.property.manifests import SERVICES, group_rows, policy
from tests.property.strategies import PodRow, pods, put_pod
from tests.property.worlds import World, worlds

if TYPE_CHECKING:
    from fimbria.model.policy import Policy
    from tests.property.manifests import Document

Change = Callable[[ClusterState], None]
quick = settings(
    max_examples=max(25, int(os.environ.get("FIMBRIA_CASES", "5000")) // 500),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


def node(number: int, cidr: int, *, router: bool = True) -> Node:
    """A node; several may claim the same pod CIDR."""
    ip = bytes([172, 18, 0, number])
    routers = (bytes([10, 0, cidr, 1]),) if router else ()
    labels = ("node:role=edge",) if router else ()
    return Node(f"n{number}", (ip,), (), (f"10.0.{cidr}.0/24",), ip, routers, labels)


def put(state: ClusterState, number: int, pod: PodRow, *, local: bool) -> None:
    """A pod comes, or takes the place of another."""
    state.identities.put(pod.identity, pod.labels)
    put_pod(state, number, pod, local=local)


def drop(state: ClusterState, number: int) -> None:
    """A pod goes."""
    state.local.delete(number)
    state.remote.delete(bytes([10, 0, 2, number]))


def put_policy(state: ClusterState, value: Policy) -> None:
    state.policies.put(value.key, value)


def put_trial(state: ClusterState, value: Policy, until: int, *, gone: bool) -> None:
    """A policy is tried in place of the one of its name, or none."""
    state.trials.put(value.key, Trial(None if gone else value, until))


def drop_trials(state: ClusterState) -> None:
    state.trials.replace({})


def put_groups(state: ClusterState, rows: list[Document]) -> None:
    for group in map(read_group, rows):
        state.groups.put(group.name, group)


def put_service(state: ClusterState, row: Service) -> None:
    state.services.put((row.namespace, row.name), row)


def drop_context(state: ClusterState) -> None:
    """All groups and services go."""
    state.groups.replace({})
    state.services.replace({})


def drop_policy(state: ClusterState, number: int) -> None:
    keys = sorted(state.policies)
    if keys:
        state.policies.delete(keys[number % len(keys)])


def drop_identity(state: ClusterState, number: int) -> None:
    state.identities.delete(299 + number)


def come(state: ClusterState, number: int, pod: PodRow) -> None:
    """An identity of its own, with the labels of a pod."""
    state.identities.put(400 + number, pod.labels)


def leave(state: ClusterState, number: int) -> None:
    """An identity goes that nobody has."""
    state.identities.delete(400 + number)


def put_node(state: ClusterState, row: Node) -> None:
    state.nodes.put(row.name, row)


def drop_node(state: ClusterState, row: Node) -> None:
    state.nodes.delete(row.name)


numbers = st.integers(1, 6)
policies = (
    st.integers(0, 3)
    .flatmap(lambda index: policy(index, NodeConfig(node_labels=True)))
    .map(lambda document: parse_policy(document, node_labels=True))
)
services = st.builds(
    lambda name, selector, ip: Service("red", name, (), selector, () if selector else (ip,)),
    st.sampled_from(SERVICES),
    st.sampled_from([None, equals("k8s:app", "web"), equals("k8s:app", "db")]).map(
        lambda demand: Selector((demand,)) if demand else None
    ),
    st.sampled_from([bytes([192, 0, 2, 7]), bytes([192, 0, 2, 200])]),
)
rows = st.builds(node, numbers, st.integers(1, 3), router=st.booleans())
change = st.one_of(
    policies.map(lambda value: partial(put_policy, value=value)),
    policies.map(lambda value: partial(put_policy, value=value)),
    st.builds(
        lambda value, until, gone: partial(put_trial, value=value, until=until, gone=gone),
        policies,
        st.sampled_from([7, 9]),
        st.booleans(),
    ),
    st.just(drop_trials),
    group_rows.map(lambda rows: partial(put_groups, rows=rows)),
    services.map(lambda row: partial(put_service, row=row)),
    st.just(drop_context),
    numbers.map(lambda n: partial(drop_policy, number=n)),
    st.builds(
        lambda n, found, local: partial(put, number=n, pod=found[0], local=local),
        numbers,
        pods(),
        st.booleans(),
    ),
    numbers.map(lambda n: partial(drop, number=n)),
    numbers.map(lambda n: partial(drop_identity, number=n)),
    rows.map(lambda row: partial(put_node, row=row)),
    rows.map(lambda row: partial(drop_node, row=row)),
)
changes = st.lists(change, min_size=1, max_size=6)
"""Changes of all tables: rows come, go, and are replaced by others under the same key."""


churn = st.lists(
    st.one_of(
        st.builds(lambda n, found: partial(come, number=n, pod=found[0]), numbers, pods()),
        numbers.map(lambda n: partial(leave, number=n)),
    ),
    min_size=1,
    max_size=3,
)
"""Identities come, go, or have other labels, and nothing else changes."""


def copy(state: ClusterState) -> ClusterState:
    """The same rows in a state of their own."""
    fresh = ClusterState(state.self_name, state.config)
    for mine, theirs in zip(fresh.tables(), state.tables(), strict=True):
        for key, row in theirs.items():
            mine.put(key, row)  # type: ignore[arg-type] - tables come in the same order
    return fresh


def changed(world: World, todo: list[Change]) -> ClusterState:
    """A world's state after some changes."""
    state = world.state()
    for change in todo:
        change(state)
    return state


@quick
@given(
    worlds(0), st.lists(changes, max_size=3) | st.just([]), st.lists(churn, min_size=1, max_size=5)
)
def test_incremental_is_full(
    world: World, rounds: list[list[Change]], identities: list[list[Change]]
) -> None:
    """After any changes the compiler has byte for byte what a compile from nothing gives."""
    state, ids = world.state(), Ids()
    compiler = Compiler(state, ids)
    mirror = Machine()
    for batch in ([], *rounds, *identities):
        for change in batch:
            change(state)
        for op in plan_delta(compiler.update()):
            mirror.execute(op)
        full = compile_node(copy(state), ids)
        mine = compiler.desired()
        assert mine.maps == full.maps
        assert mine.policies == full.policies
        assert mine.routes == full.routes
        assert canonical(mirror.actual()) == canonical(mine)
        assert mirror.policies.keys() == mine.policies.keys()
        compiler.applied()


@quick
@given(worlds(0), changes)
def test_apply_then_revert_is_identity(world: World, todo: list[Change]) -> None:
    """Taking changes back leaves what was there before, nothing more."""
    state = world.state()
    compiler = Compiler(state, Ids())
    compiler.update()
    compiler.applied()
    before, rows = canonical(compiler.desired()), copy(state)
    for change in todo:
        change(state)
    compiler.update()
    compiler.applied()
    for mine, theirs in zip(state.tables(), rows.tables(), strict=True):
        mine.replace(dict(theirs.items()))  # type: ignore[arg-type] - the same order
    compiler.update()
    assert canonical(compiler.desired()) == before


@quick
@given(worlds(0), changes, worlds(0), changes, st.data())
def test_crash_anywhere_converges(
    one: World, before: list[Change], other: World, after: list[Change], data: st.DataObject
) -> None:
    """Stopped after any operation, planning again reaches the goal; nobody is ever half judged.

    What an endpoint refers to is at any moment a policy that was whole before or will be after.
    """
    ids = Ids()
    first = compile_node(changed(one, before), ids)
    whole = [*first.policies.values()]
    second = compile_node(changed(other, after), ids)
    whole += second.policies.values()
    machine = Machine()
    for op in plan(machine.actual(), first):
        machine.execute(op)
    steps = plan(machine.actual(), second)
    stop = data.draw(st.integers(0, len(steps)))
    for op in steps[:stop]:
        machine.execute(op)
        assert all(policy in whole for policy in machine.policies.values())
    again = plan(machine.actual(), second, bump=True)
    for op in again:
        machine.execute(op)
    assert machine.bumped
    assert canonical(machine.actual()) == canonical(second)
    assert machine.policies.keys() == second.policies.keys()
    assert plan(machine.actual(), second) == []


@quick
@given(worlds(0), changes, st.data())
def test_damage_is_repaired(world: World, todo: list[Change], data: st.DataObject) -> None:
    """A policy whose content somebody changed is rewritten, with its endpoints never in it."""
    desired = compile_node(changed(world, todo), Ids())
    machine = Machine()
    for op in plan(machine.actual(), desired):
        machine.execute(op)
    if not machine.policies:
        return
    number = data.draw(st.sampled_from(sorted(machine.policies)))
    info = machine.policies[number].info
    machine.policies[number] = PolicyMap(info, {b"x": b"y"})
    for op in plan(machine.actual(), desired):
        machine.execute(op)
    assert canonical(machine.actual()) == canonical(desired)
    assert machine.policies.keys() == desired.policies.keys()
