"""`policy diff` and `policy prove` against brute force: complete and sound.

Brute force asks the first judge (the rules as written) about every pair of ends and every port of a
small universe: all pods, all entities, an address in and around every prefix, every port that any
policy mentions with its neighbours.
"""

from __future__ import annotations

import os
from functools import cache
from ipaddress import ip_address
from random import Random
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fimbria.analysis import Flow, FlowError
from fimbria.analysis.atoms import OTHER, cut_ends, cut_ports
from fimbria.analysis.diff import common, diff
from fimbria.analysis.places import ENTITIES
from fimbria.analysis.prove import prove
from fimbria.analysis.reach import Reach
from fimbria.analysis.results import Outcome
from fimbria.model.peers import Prefix, host_prefix
from fimbria.model.policy import Protocol
from tests.property.strategies import PORTS
from tests.unit.analysis.test_analysis_judges import OUTSIDE, Case, cases

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fimbria.analysis import Engine
    from fimbria.analysis.atoms import Group
    from fimbria.analysis.diff import Change
    from fimbria.analysis.prove import Proof

NUMBERS = sorted({n for port in PORTS for n in (port - 1, port, port + 1) if 1 <= n <= 0xFFFF})
TYPES = (0, 3, 8, 128, 133, 255)
Question = tuple[str, str, int, int]

sized = settings(
    max_examples=max(4, int(os.environ.get("FIMBRIA_CASES", "5000")) // 500),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


def packets(engine: Engine, dice: Random) -> Iterator[Question]:
    """Every pair of ends of which policies can be about one, with some ports of each protocol."""
    world = engine.world
    services = {str(ip_address(ip)) for ip in world.service_ips}
    outside = [name for name in OUTSIDE if name not in services]
    nodes = [f"node:{name}" for name in world.nodes]
    ends = [*world.pods, *nodes, *outside, *(f"entity:{name}" for name in ENTITIES)]
    policed = {*world.pods, *(nodes if engine.host_firewall else ())}
    for source in ends:
        for destination in ends:
            if source == destination or not {source, destination} & policed:
                continue
            for protocol in Protocol:
                icmp = protocol in (Protocol.ICMP, Protocol.ICMPV6)
                for port in dice.sample(TYPES if icmp else NUMBERS, 4):
                    yield source, destination, int(protocol), port


def absent(engine: Engine, question: Question) -> bool:
    """Whether two ends do not meet under these names.

    A pod's own node is the entity host where nodes have no names, and is not where they have. What
    a node sends to itself passes no device.
    """
    one, other = (engine.place(name) for name in question[:2])
    if one.is_node and other.is_node and one.node == other.node:
        return True
    if not engine.views.names_nodes:
        return one.node == other.node != ""
    hosts = "entity:host" in question
    return hosts and any(place.node in engine.world.nodes for place in (one, other))


def judged(engine: Engine, question: Question) -> Outcome | None:
    """What the rules say of a packet; None if there can be no such packet."""
    source, destination, protocol, port = question
    families = {engine.place(name).family for name in question[:2]}
    other = Protocol.ICMP if 6 in families else Protocol.ICMPV6 if 4 in families else None
    if absent(engine, question) or protocol == other:
        return None
    try:
        one = engine.eval(Flow(source, destination, Protocol(protocol).name, port), "model")
    except FlowError:
        return None
    return one.verdict


def holder(groups: tuple[Group, ...], engines: tuple[Engine, ...], name: str) -> list[Group]:
    """The groups that an end is in: those of its own kind that have its identity everywhere."""

    place = engines[0].place(name)
    node = place.node if place.is_node and engines[0].views.names_nodes else ""

    def kind(name: str) -> list[tuple[int, int, int]]:
        places = [engine.place(name) for engine in engines]
        return [(one.end.identity, one.cidr, one.family if node else 0) for one in places]

    return [
        group
        for group in groups
        if name in group.members
        or (
            not group.members
            and not place.unit
            and (group.node if group.kind == "node" else "") == node
            and kind(group.name) == kind(name)
        )
    ]


def turned(
    changes: tuple[Change, ...], engines: tuple[Engine, ...], question: Question
) -> tuple[Outcome, Outcome] | None:
    """What `diff` says that a packet's verdicts are."""
    source, destination, protocol, port = question
    found = {
        (turn.before, turn.after)
        for change in changes
        if holder(change.sources, engines, source)
        and holder(change.destinations, engines, destination)
        for turn in change.turns
        if turn.atom.protocol == protocol and turn.atom.first <= port <= turn.atom.last
    }
    assert len(found) <= 1, (question, found)
    return next(iter(found), None)


@sized
@given(cases(), st.integers(0, 1 << 32))
def test_diff_is_complete_and_sound(case: Case, seed: int) -> None:
    """It names exactly the packets whose verdicts are others, and says which."""
    dice = Random(seed)
    policies = [one for one in case.documents if "Policy" in one["kind"]]
    rest = [one for one in case.documents if "Policy" not in one["kind"]]
    kept = [one for one in policies if dice.random() < 0.6]
    old, new = case.world([*rest, *policies]), case.world([*rest, *kept])
    if dice.random() < 0.5:
        old, new = new, old
    found = diff(old, new, case.mode, case.match, host_firewall=case.host_firewall)
    before, after, _, _ = common(old, new)
    engines = (case.engine(before), case.engine(after))
    for question in packets(engines[0], dice):
        said = [judged(engine, question) for engine in engines]
        if None in said:
            continue
        other = turned(found.changes, engines, question)
        assert other == (None if said[0] is said[1] else tuple(said)), question
    for change in found.changes:
        if change.example is not None:
            flow = change.example
            was, now = (engine.eval(flow, "model").verdict for engine in engines)
            assert was is not now
            assert change.before is not None
            assert change.after is not None
            assert (change.before.verdict, change.after.verdict) == (was, now)


def assertion(dice: Random) -> str:
    """An assertion of any form about the ends of these worlds."""
    names = ["pods", "entity:world", "any", "ns=red", "ns=blue", "app=web", "cidr:192.0.2.0/24",
             "not app=db", "entity:host", "nodes", "entity:remote-node", "role=edge",
             "node=n2"]  # fmt: skip
    ports = ["", " on TCP/80", " on TCP/79-88, UDP/53", " on ICMP/8"]
    one, other, on = dice.choice(names), dice.choice(names), dice.choice(ports)
    return dice.choice([
        f"no path from {one} to {other}{on}",
        f"no path from {one} to {other}{on}",
        f"path from {one} to {other}{on or ' on TCP, UDP/53'}",
        f"only {one} can reach {other}{on}",
        f"{one} is isolated{on}",
    ])  # fmt: skip


def speaks_of(proof: Proof, engine: Engine) -> Callable[[str, str], bool]:
    """What says whether an assertion is about what goes from one end to another."""
    groups = tuple(cut_ends([engine], proof.assertion.prefixes))

    @cache
    def held(name: str) -> list[Group]:
        found = holder(groups, (engine,), name)
        nets = [one for one in found if one.net is not None and one.net.covers(net_of(name))]
        return [max(nets, key=lambda one: one.net.bits if one.net else 0)] if nets else found

    def asked(source: str, destination: str) -> bool:
        mine = [end_as_seen(one, engine, source, destination) for one in held(source)]
        others = [end_as_seen(one, engine, destination, source) for one in held(destination)]
        return any(
            any(map(demand.sources, mine)) and any(map(demand.destinations, others))
            for demand in proof.assertion.demands
        )

    return asked


def net_of(name: str) -> Prefix:
    """An address as a prefix; for any other name one that nothing covers."""
    try:
        return host_prefix(ip_address(name).packed)
    except ValueError:
        return Prefix(b"", 0)


def end_as_seen(group: Group, engine: Engine, name: str, other: str) -> Group:
    """A group of one end, as the other end sees it: a pod's own node is its host."""
    here, there = engine.place(name), engine.place(other)
    home = group.kind == "node" and there.pod is not None and here.node == there.node
    return group.at_home if home else group


@sized
@given(cases(), st.integers(0, 1 << 32))
def test_every_pair_is_what_the_rules_say(case: Case, seed: int) -> None:
    """The bits of any two groups and any range of ports are the first judge's verdicts."""
    dice = Random(seed)
    engine = case.engine(case.world())
    groups, atoms = cut_ends([engine]), cut_ports([engine])
    for chunk in Reach(engine, groups, atoms).chunks():
        for row, group in enumerate(groups[chunk.start : chunk.start + len(chunk.passes)]):
            for column, other in enumerate(groups):
                names = group.name, other.name
                if group is other and len(group.members) > 1:
                    names = group.members[0], group.members[1]
                place = dice.randrange(len(chunk.atoms))
                atom = chunk.atoms[place]
                if atom.protocol == OTHER:
                    continue
                one, by, possible = (
                    int(bits[row, column]) >> place & 1
                    for bits in (chunk.passes, chunk.redirects, chunk.possible)
                )
                said = judged(engine, (*names, atom.protocol, atom.first))
                if names[0] == names[1] or said is None:
                    continue
                assert possible or not (group.unit or other.unit), (names, atom)
                if possible:
                    assert (said is not Outcome.DENIED) is bool(one), (names, atom)
                    assert (said is Outcome.REDIRECTED) is bool(by), (names, atom)


@sized
@given(cases(), st.integers(0, 1 << 32))
def test_proofs_hold_and_examples_refute(case: Case, seed: int) -> None:
    """No packet speaks against what a proof says; a refutation's does, and is one it speaks of."""
    dice = Random(seed)
    engine = case.engine(case.world())
    universe = list(packets(engine, dice))
    atoms = cut_ports([engine])
    assert all(sum(a.protocol == p and a.first <= n <= a.last for a in atoms) == 1
               for _, _, p, n in universe)  # fmt: skip
    for proof in prove(engine, [assertion(dice) for _ in range(6)]):
        wrong = proof.assertion.text.startswith("path")
        if proof.example is not None:
            flow = proof.example
            assert flow.protocol != "", proof
            passes = engine.eval(flow, "model").verdict is not Outcome.DENIED
            assert passes is not wrong, proof
            assert speaks_of(proof, engine)(flow.source, flow.destination), proof
            continue
        wanted = proof.assertion.atoms
        asked = speaks_of(proof, engine)
        for question in universe:
            source, destination, protocol, port = question
            if wanted and not any(a.protocol == protocol and a.first <= port <= a.last
                                  for a in wanted):  # fmt: skip
                continue
            if not asked(source, destination):
                continue
            said = judged(engine, question)
            assert said is None or (said is Outcome.DENIED) is not wrong, (proof, question)
