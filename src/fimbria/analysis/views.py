"""What each node sees in its own way: its own policy, and its pods' policies about their node.

    both ends of a packet ─► which node's view judges the one ─► that engine, and the ends in it

To all nodes alike a node is entity:remote-node. To itself and its own pods it is the host, and
rules that name nodes by labels mean that one; and with the host firewall a node is an endpoint,
whose policy is in its own maps only. Such halves are asked of an engine with that node's
`world.View`, which is compiled when it is first needed: a world of many nodes is judged in the
common view nearly always.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from fimbria.analysis.world import View
from fimbria.datapath.abi import EndpointIds, Identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.analysis.engine import Engine
    from fimbria.analysis.places import Place
    from fimbria.compile.delta import Problem
    from fimbria.model.policy import PolicyKey


class Views:
    """The nodes' views beside an engine's own, which are made by `make`."""

    def __init__(self, engine: Engine, make: Callable[[View], Engine]) -> None:
        self._engine = engine
        self._world = engine.world
        self._make = make
        self._made: dict[str, Engine] = {}

    @property
    def differ(self) -> bool:
        """Return whether any node sees something in its own way."""
        return self._engine.host_firewall or self._world.node_labels

    @property
    def names_nodes(self) -> bool:
        """Return whether policies can tell one node from another."""
        return self.differ or "nodes" in self._engine.state.config.cidr_match

    def of(self, node: str) -> Engine:
        """Return the engine that sees what a node sees."""
        found = self._made.get(node)
        if found is None:
            units = self._units_on.get(node, frozenset[int]())
            selecting = self._engine.compiler.policies.selecting
            keys = {key for unit in units for key, _ in selecting(unit)} | self._about_nodes
            found = self._made[node] = self._make(View(node, units, frozenset(keys)))
        return found

    def all(self) -> dict[str, Engine]:
        """Return the engines of all nodes that see something in their own way, by name."""
        if self._engine.node or not self.differ:
            return {}
        return {name: self.of(name) for name in self._world.nodes}

    def seen(self, own: Place, other: Place) -> tuple[Engine, Place, Place]:
        """Return whose view judges the half of `own`, and both ends as they are there."""
        if not self._needed(own, other):
            return self._engine, own, self._peer(own, other)
        view = self.of(own.node)
        return view, view.place(own.name), view.place(other.name)

    def problems(self) -> Iterator[str]:
        """Yield whose policies could not be compiled, in the common view or in a node's only."""
        common: set[int] = set()
        for problem in self._engine.compiler.problems:
            common.update(problem.endpoints)
            yield _misfit(f"identity {problem.identity}", "closed", problem)
        for node, view in self.all().items():
            for problem in view.compiler.problems:
                if EndpointIds.HOST in problem.endpoints:
                    yield _misfit(f"node {node}", "open", problem)
                elif not common.issuperset(problem.endpoints):
                    yield _misfit(f"identity {problem.identity} on node {node}", "closed", problem)

    def _needed(self, own: Place, other: Place) -> bool:
        """Return whether `own` must be judged with its node's view."""
        if self._engine.node or own.node not in self._world.nodes:
            return False
        home = other.is_node and other.node == own.node
        return (own.is_node and self._engine.host_firewall) or (home and self._world.node_labels)

    def _peer(self, own: Place, other: Place) -> Place:
        """Return the other end as `own` sees it: its own node is host, others are remote."""
        if not (other.is_node and own.node and other.node == own.node):
            return other
        if self._engine.node == own.node:
            return other  # this view has it as host already
        return replace(other, end=self._engine.places.end(int(Identity.HOST), other.end.net))

    @cached_property
    def _units_on(self) -> dict[str, frozenset[int]]:
        """Units of the pods by node, if these see their node in its own way."""
        found: dict[str, set[int]] = {}
        for pod in self._world.pods.values() if self._world.node_labels else ():
            found.setdefault(pod.node, set()).add(self._world.units[pod.unit])
        return {node: frozenset(units) for node, units in found.items()}

    @cached_property
    def _about_nodes(self) -> frozenset[PolicyKey]:
        """The policies about nodes."""
        policies = self._world.policies.values()
        return frozenset(one.key for one in policies if any(spec.host for spec in one.specs))


def _misfit(who: str, judged: str, problem: Problem) -> str:
    """Return a sentence. Here a map has all that concerns it or nothing; an agent can choose."""
    return f"{who} is judged as {judged}: {problem.reason}; an agent would leave a policy out"
