"""Nodes among the ends: what their own policies say of all others, and what their pods say of them.

Two ends that have a node in common see each other in their own way. To its pods a node is the host,
and rules that name nodes by labels mean its own; so both may have to be asked in its view
(`Engine.views`), whose identities are not those of other views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fimbria.analysis.bits import Judge, Sides
from fimbria.datapath.abi import EndpointIds, Identity
from fimbria.datapath.lookup import endpoint_policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fimbria.analysis.atoms import Group
    from fimbria.analysis.bits import Bits, Flags, Peer
    from fimbria.analysis.engine import Engine


def guests(groups: Sequence[Group]) -> dict[int, Flags]:
    """Return, by the place of each node among groups, which groups are pods that run on it."""
    nodes = np.array([group.node if group.kind == "pods" else "" for group in groups])
    return {at: nodes == group.node for at, group in enumerate(groups) if group.kind == "node"}


def peers_of(engine: Engine, groups: Sequence[Group], known: Sequence[Peer] = ()) -> list[Peer]:
    """Return what groups are to an engine's policies.

    `known` is what they are to another view's, with the same numbers for pods that no CIDR matches.
    """
    if not known or "pods" in engine.state.config.cidr_match:
        known = [(0, 0)] * len(groups)
    places = (
        engine.place(group.name) if group.kind != "pods" or not peer[0] else None
        for group, peer in zip(groups, known, strict=True)
    )
    return [
        peer if place is None else (place.end.identity, place.cidr)
        for place, peer in zip(places, known, strict=True)
    ]


class Guests:
    """Pods that run on the node at place `at` among groups, and what their policies say of it.

    `engine` sees as nobody does in particular.
    """

    def __init__(self, engine: Engine, groups: Sequence[Group], at: int, here: Flags) -> None:
        self._at, self._places = at, np.flatnonzero(here)
        node = groups[at]
        view = engine.views.of(node.node) if engine.world.node_labels else engine
        units = [groups[place].unit for place in self._places.tolist()]
        heads = [endpoint_policy(view.maps, unit) for unit in units]
        peer = int(Identity.HOST), view.place(node.name).cidr
        self.judge = Judge(view, heads, [peer])
        self._rows = self.judge.rows(heads)

    def put(self, egress: Bits, ingress: Bits, said: Sides, start: int) -> None:
        """Put what the judge said into verdicts by pair, whose sources begin at `start`."""
        here = (self._places >= start) & (self._places < start + len(egress))
        egress[self._places[here] - start, self._at] = said.out[self._rows[here], 0]
        if start <= self._at < start + len(egress):
            ingress[self._at - start, self._places] = said.into[self._rows, 0]


class Own:
    """The node at place `at` among groups, and what its own policy says of them all.

    `common` is what groups are to `engine`, which sees as nobody does in particular.
    """

    def __init__(
        self, engine: Engine, groups: Sequence[Group], at: int, common: Sequence[Peer]
    ) -> None:
        self._at = at
        view = engine.views.of(groups[at].node)
        head = endpoint_policy(view.maps, EndpointIds.HOST)
        peers = peers_of(view, groups, common)
        self.judge = Judge(view, [head], peers)
        self._columns = self.judge.columns(peers)

    def put(self, egress: Bits, ingress: Bits, said: Sides, start: int) -> None:
        """Put what the judge said into verdicts by pair, whose sources begin at `start`."""
        ingress[:, self._at] = said.into[0, self._columns[start : start + len(egress)]]
        if start <= self._at < start + len(egress):
            egress[self._at - start] = said.out[0, self._columns]
