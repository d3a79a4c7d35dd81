"""Many flows at once: names to numbers, one lookup over arrays, results that are shared.

    flows ─► columns of numbers ─► Questions ─► Table.judge ─► codes ─► halves, each made once

What is not an ordinary flow between two ends (Services, replies, errors, nodes that are endpoints
or have labels) is judged one by one by the engine; both ways give the same results.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fimbria.analysis.flows import PROTOCOLS, Flow, FlowError
from fimbria.analysis.results import Half, Result, together
from fimbria.analysis.table import MISSED, Questions, Table
from fimbria.datapath.abi import (
    Direction,
    DropReason,
    Identity,
    PolicyEntry,
    PolicyEntryFlags,
    PolicyKey,
    RuleIds,
)
from fimbria.datapath.lookup import Hit, endpoint_policy
from fimbria.model.policy import Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fimbria.analysis.engine import Engine
    from fimbria.analysis.places import Place
    from fimbria.analysis.table import Ints

PLACES = 1 << 19
"""Ends that are remembered; then all are forgotten and found again."""

_ODD = -1
"""Number of a name that is no single end."""


class _Names(dict[str, int]):
    """Numbers of ends by name, found when they are first asked for."""

    def __init__(self, bulk: Bulk) -> None:
        self._bulk = bulk

    def __missing__(self, name: str) -> int:
        number = self[name] = self._bulk.add(name)
        return number


class _Protocols(dict[str, int]):
    """Protocol numbers by name in any case; _ODD for one that is none."""

    def __missing__(self, name: str) -> int:
        number = self[name] = PROTOCOLS.get(name.upper(), _ODD)
        return number


class Bulk:
    """Judges lists of flows in an engine's world, as `maps` does."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._table = Table(engine.policy_maps)
        self._policy_of = {unit: endpoint_policy(engine.maps, unit)
                           for unit in engine.world.units.values()}  # fmt: skip
        self._protocols = _Protocols()
        self._halves: dict[int, Half] = {}
        self._nodes = {"": 0}
        self._forget()

    def _forget(self) -> None:
        self._names = _Names(self)
        self._rows: list[tuple[int, ...]] = []
        self._columns: Ints = np.zeros((7, 0), np.int64)

    def add(self, name: str) -> int:
        """Return the number of an end; _ODD if the name is no end, or stands for several."""
        engine = self._engine
        try:
            place = engine.place(name)
        except FlowError:
            return _ODD
        if engine.places.stands_for_others(name):
            return _ODD
        if place.is_node and (engine.host_firewall or engine.world.node_labels):
            return _ODD
        self._rows.append(self._row(place))
        return self._columns.shape[1] + len(self._rows) - 1

    def _row(self, place: Place) -> tuple[int, ...]:
        policy = self._policy_of[place.unit] if place.unit else 0
        node = self._nodes.setdefault(place.node, len(self._nodes))
        return (
            place.end.identity, place.cidr, place.unit, policy,
            place.family, node, int(place.is_node),
        )  # fmt: skip

    def codes(self, flows: Sequence[Flow]) -> tuple[list[int], list[int]]:
        """Return the codes of the flows' egress and ingress halves, _ODD for both where odd."""
        if len(self._columns[0]) > PLACES:
            self._forget()
        names, count = self._names, len(flows)
        source = np.fromiter((names[flow.source] for flow in flows), np.int64, count)
        target = np.fromiter((names[flow.destination] for flow in flows), np.int64, count)
        protocols = self._protocols
        protocol = np.fromiter((protocols[flow.protocol] for flow in flows), np.int64, count)
        port = np.fromiter((_bounded(flow) for flow in flows), np.int64, count)
        if self._rows:
            new = np.array(self._rows, np.int64).T
            self._columns = np.concatenate((self._columns, new), axis=1)
            self._rows = []
        family = self._columns[4]
        if not self._columns.shape[1]:
            return [_ODD] * count, [_ODD] * count
        mine, other = family[source], family[target]
        six = (mine == 6) | (other == 6)
        protocol = np.where((protocol == int(Protocol.ICMP)) & six, int(Protocol.ICMPV6), protocol)
        icmp = (protocol == int(Protocol.ICMP)) | (protocol == int(Protocol.ICMPV6))
        odd = (source < 0) | (target < 0) | (protocol < 0) | (port < 0)
        odd |= (mine != other) & (mine != 0) & (other != 0)
        odd |= np.where(icmp, port > 0xFF, port == 0)
        asked = protocol, port
        egress = self._half(source, target, 1, *asked)
        ingress = self._half(target, source, 0, *asked)
        egress[odd] = ingress[odd] = _ODD
        return egress.tolist(), ingress.tolist()

    def _half(self, own: Ints, peer: Ints, egress: int, protocol: Ints, port: Ints) -> Ints:
        """Return a direction's codes: the deciding entry, or what is there instead by unit."""
        identity, cidr, unit, policy, _, node, is_node = self._columns
        home = (is_node[peer] != 0) & (node[own] != 0) & (node[own] == node[peer])
        seen = np.where(home, int(Identity.HOST), identity[peer])
        way = np.full(len(own), egress, np.int64)
        found = self._table.judge(Questions(policy[own], way, seen, cidr[peer], protocol, port))
        special = len(self._table) + (unit[own] * 2 + egress) * 3 - found - 1
        return np.where(found >= 0, found, special)

    def half(self, code: int) -> Half:
        """Return the half that a code of `codes` stands for."""
        found = self._halves.get(code)
        if found is None:
            found = self._halves[code] = self._made(code)
        return found

    def _made(self, code: int) -> Half:
        if code < len(self._table):
            raw_key, raw_entry = self._table.entry(code)
            key, entry = PolicyKey.unpack(raw_key), PolicyEntry.unpack(raw_entry)
            denies = entry.flags & PolicyEntryFlags.DENY
            verdict = -int(DropReason.POLICY_DENY) if denies else 0
            hit = Hit(verdict, entry.rule_id, key=key, entry=entry)
            return self._engine.halves.of_hit(0, Direction.INGRESS, hit)
        place, kind = divmod(code - len(self._table), 3)
        unit, egress = divmod(place, 2)
        direction = Direction.EGRESS if egress else Direction.INGRESS
        if -kind - 1 == MISSED:
            return self._engine.halves.of_hit(unit, direction, Hit(-DropReason.POLICY))
        enforced = kind != 0
        rule = RuleIds.ALLOW_ALL if enforced else RuleIds.NONE
        return self._engine.halves.of_hit(unit, direction, Hit(0, int(rule), enforced=enforced))

    def results(self, flows: Sequence[Flow]) -> Iterator[Result | FlowError]:
        """Yield each flow's result in order; the error instead where it cannot be judged."""
        egress, ingress = self.codes(flows)
        halves, half = self._halves, self.half
        for flow, out, into in zip(flows, egress, ingress, strict=True):
            if out == _ODD:
                yield self.one(flow)
                continue
            first, second = halves.get(out) or half(out), halves.get(into) or half(into)
            yield Result(
                flow.source, flow.destination, flow.protocol, flow.port,
                together(first, second), first, second,
            )  # fmt: skip

    def one(self, flow: Flow) -> Result | FlowError:
        """Return the result of a flow that is judged by itself, or the error."""
        try:
            return self._engine.eval(flow, "maps")
        except FlowError as error:
            return error


def _bounded(flow: Flow) -> int:
    """Return a flow's port; _ODD if it is none, or the flow is a reply."""
    return flow.port if 0 <= flow.port <= 0xFFFF and not flow.reply else _ODD
