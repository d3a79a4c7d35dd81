"""Policies to which nothing refers: removed later, and never while they are wanted again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from fimbria.compile.state import ClusterState, NodeConfig
from fimbria.model.labels import pod_labels
from fimbria.model.policy_parse import parse_policy
from tests.property.machine import canonical
from tests.property.strategies import PodRow
from tests.property.test_compile_changes import node, put, put_policy
from tests.property.test_crash_apply import Machine, Process

if TYPE_CHECKING:
    from fimbria.agent.apply import Applier
    from fimbria.model.policy import Policy


def only(port: int) -> Policy:
    """A policy that lets one port in."""
    return parse_policy(
        {
            "kind": "CiliumNetworkPolicy",
            "metadata": {"name": "p", "namespace": "red"},
            "spec": {
                "endpointSelector": {},
                "ingress": [{"toPorts": [{"ports": [{"port": str(port), "protocol": "TCP"}]}]}],
            },
        }
    )


class Node:
    """A pod whose policy changes."""

    def __init__(self) -> None:
        self.state = ClusterState("n1", NodeConfig())
        self.state.nodes.put("n1", node(1, 1))
        pod = PodRow(pod_labels({"app": "web"}, "red", {}, "default", "default"), 300, ())
        put(self.state, 1, pod, local=True)
        put_policy(self.state, only(80))
        self.machine = Machine()
        self.process = Process(self.machine, self.state)
        assert self.process.start()

    @property
    def applier(self) -> Applier:
        return self.process.applier

    async def change(self, port: int) -> None:
        """Have another port let in; returns when that is enforced."""
        put_policy(self.state, only(port))
        self.applier.request()
        await self.applier.flush()

    def held(self) -> set[int]:
        """The policies that the kernel has."""
        assert self.applier.compiler is not None
        return set(self.machine.actual(self.applier.compiler.desired()).policies)

    def right(self) -> bool:
        """Does the kernel hold what is desired, and no policy besides?"""
        assert self.applier.compiler is not None
        desired = self.applier.compiler.desired()
        held = self.machine.actual(desired)
        return canonical(held) == canonical(desired) and self.held() == set(desired.policies)


@pytest.fixture
def one() -> Node:
    return Node()


async def test_removed_after_the_change_and_not_in_it(one: Node) -> None:
    """A change does not wait for the removal of what it replaces."""
    before = one.held()
    await one.change(81)
    assert before < one.held()
    await one.applier.sweep()
    assert before.isdisjoint(one.held())
    assert one.right()


async def test_what_is_wanted_again_stays(one: Node) -> None:
    """Back and forth before the removal: only what is not wanted goes."""
    before = one.held()
    await one.change(81)
    await one.change(80)
    await one.applier.sweep()
    assert one.held() == before
    assert one.right()


async def test_wanted_again_while_it_is_removed(one: Node) -> None:
    """The removal that has begun ends first; then it is there again."""
    for port in range(81, 91):
        await one.change(port)
        await asyncio.gather(one.applier.sweep(), one.change(80))
        await one.applier.sweep()
        assert one.right()


async def test_numbers_in_use_are_not_given_away(one: Node) -> None:
    """A policy that still is to be removed keeps its number to itself."""
    for port in range(81, 86):
        held = one.held()
        await one.change(port)
        assert len(one.held()) == len(held) + 1
    await one.applier.sweep()
    assert len(one.held()) == 1


async def test_a_check_finds_what_is_left(one: Node) -> None:
    """A comparison with the kernel removes it, too, and leaves nothing to the sweeper."""
    await one.change(81)
    await one.applier.check()
    assert one.right()
    await one.change(80)
    await one.applier.sweep()
    assert one.right()
