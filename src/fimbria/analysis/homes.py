"""Nodes among the ends: what their own policies say of all others, and what their pods say of them.

Two ends that have a node in common see each other in their own way. To its pods a node is the host,
and rules that name nodes by labels mean its own; so both may have to be asked in its view
(`Engine.view`), whose identities are not those of other views.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fimbria.analysis.bits import Judge, Sides
from fimbria.datapath.abi import Identity
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


class Home:
    """A node among groups, at place `at`, with the pods that run on it.

    `engine` sees as nobody does in particular, and so do `common` and what groups are to it.
    """

    def __init__(
        self, engine: Engine, groups: Sequence[Group], at: int, here: Flags, common: Sequence[Peer]
    ) -> None:
        self._at, self._guests = at, np.flatnonzero(here)
        node = groups[at].node
        view = engine.views().get(node, engine)
        own = view.place(groups[at].name)
        units = [groups[guest].unit for guest in self._guests.tolist()]
        heads = [endpoint_policy(view.maps, unit) for unit in units]
        peers: list[Peer] = [(int(Identity.HOST), own.cidr)]
        self._policed = own.unit != 0
        if self._policed:
            heads.append(endpoint_policy(view.maps, own.unit))
            peers += peers_of(view, groups, common)
        self.judge = Judge(view, heads, peers)
        self._rows, self._columns = self.judge.rows(heads), self.judge.columns(peers)

    def put(self, egress: Bits, ingress: Bits, said: Sides, start: int) -> None:
        """Put what the judge said into verdicts by pair, whose sources begin at `start`."""
        at, count = self._at, len(egress)
        host = self._columns[0]
        rows = self._rows[: len(self._guests)]
        here = (self._guests >= start) & (self._guests < start + count)
        egress[self._guests[here] - start, at] = said.out[rows[here], host]
        is_source = start <= at < start + count
        if is_source:
            ingress[at - start, self._guests] = said.into[rows, host]
        if self._policed:
            own, columns = self._rows[-1], self._columns[1:]
            ingress[:, at] = said.into[own, columns[start : start + count]]
            if is_source:
                egress[at - start] = said.out[own, columns]
