"""`policy diff` and `policy prove` against brute force: complete and sound.

Brute force asks the first judge (the rules as written) about every pair of ends and every port of a
small universe: all pods, all entities, an address in and around every prefix, every port that any
policy mentions with its neighbours.
"""

from __future__ import annotations

import os
from ipaddress import ip_address
from random import Random
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fimbria.analysis import Engine, Flow, FlowError, from_documents
from fimbria.analysis.atoms import cut_ends, cut_ports
from fimbria.analysis.diff import common, diff
from fimbria.analysis.flows import ENTITIES
from fimbria.analysis.prove import prove
from fimbria.analysis.results import Outcome
from fimbria.model.policy import Protocol
from tests.property.strategies import PORTS
from tests.unit.analysis.test_analysis_judges import OUTSIDE, Case, cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis import World
    from fimbria.analysis.atoms import Group
    from fimbria.analysis.diff import Change

NUMBERS = sorted({n for port in PORTS for n in (port - 1, port, port + 1) if 1 <= n <= 0xFFFF})
TYPES = (0, 3, 8, 128, 133, 255)
Question = tuple[str, str, int, int]

sized = settings(
    max_examples=max(4, int(os.environ.get("FIMBRIA_CASES", "5000")) // 500),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)


def packets(world: World, dice: Random) -> Iterator[Question]:
    """Every pair of ends of which one is a pod, with some ports of each protocol."""
    services = {str(ip_address(ip)) for ip in world.service_ips}
    outside = [name for name in OUTSIDE if name not in services]
    ends = [*world.pods, *outside, *(f"entity:{name}" for name in ENTITIES)]
    for source in ends:
        for destination in ends:
            if source == destination or not {source, destination} & world.pods.keys():
                continue
            for protocol in Protocol:
                icmp = protocol in (Protocol.ICMP, Protocol.ICMPV6)
                for port in dice.sample(TYPES if icmp else NUMBERS, 4):
                    yield source, destination, int(protocol), port


def own_node(engine: Engine, question: Question) -> bool:
    """Whether a pod and its own node talk, which is the entity host where nodes have no names."""
    one, other = (engine.place(name) for name in question[:2])
    return one.node == other.node != "" and "nodes" not in engine.state.config.cidr_match


def judged(engine: Engine, question: Question) -> Outcome | None:
    """What the rules say of a packet; None if there can be no such packet."""
    source, destination, protocol, port = question
    families = {engine.place(name).family for name in question[:2]}
    absent = Protocol.ICMP if 6 in families else Protocol.ICMPV6 if 4 in families else None
    if own_node(engine, question) or protocol == absent:
        return None
    try:
        one = engine.eval(Flow(source, destination, Protocol(protocol).name, port), "model")
    except FlowError:
        return None
    return one.verdict


def holder(groups: tuple[Group, ...], engines: tuple[Engine, ...], name: str) -> list[Group]:
    """The groups that an end is in: those of its own kind that have its identity everywhere."""
    node = engines[0].place(name).node if engines[0].place(name).is_node else ""
    by_name = any(group.kind == "node" and group.node == node for group in groups)
    if node and (by_name or "nodes" in engines[0].state.config.cidr_match):
        return [group for group in groups if group.kind == "node" and group.node == node]
    places = [(e.place(name).end.identity, e.place(name).cidr) for e in engines]
    return [
        group
        for group in groups
        if name in group.members
        or (
            not group.members
            and not engines[0].place(name).unit
            and group.kind != "node"
            and [(e.place(group.name).end.identity, e.place(group.name).cidr) for e in engines]
            == places
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
    old, new = from_documents([*rest, *policies]), from_documents([*rest, *kept])
    if dice.random() < 0.5:
        old, new = new, old
    found = diff(old, new, case.mode, case.match)
    before, after, _, _ = common(old, new)
    engines = (Engine(before, case.mode, case.match), Engine(after, case.mode, case.match))
    for question in packets(before, dice):
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


@sized
@given(cases(), st.integers(0, 1 << 32))
def test_proofs_hold_and_examples_refute(case: Case, seed: int) -> None:
    """No packet gets where a proof says that none does, and a refutation's packet does."""
    dice = Random(seed)
    world = from_documents(case.documents)
    engine = Engine(world, case.mode, case.match)
    names = ["pods", "entity:world", "any", *(f"ns={n}" for n in ("red", "blue")), "app=web",
             "cidr:192.0.2.0/24", "not app=db", "entity:host"]  # fmt: skip
    ports = ["", " on TCP/80", " on TCP/79-88, UDP/53", " on ICMP/8"]
    asked = [
        f"no path from {dice.choice(names)} to {dice.choice(names)}{dice.choice(ports)}"
        for _ in range(6)
    ]
    universe = list(packets(world, dice))
    atoms = cut_ports([engine])
    assert all(sum(a.protocol == p and a.first <= n <= a.last for a in atoms) == 1
               for _, _, p, n in universe)  # fmt: skip
    groups = cut_ends([engine])
    for proof in prove(engine, asked):
        if proof.example is not None:
            assert proof.example.protocol != "", proof
            assert engine.eval(proof.example, "model").verdict is not Outcome.DENIED
            continue
        demand = proof.assertion.demands[0]
        wanted = proof.assertion.atoms
        for question in universe:
            source, destination, protocol, port = question
            if wanted and not any(a.protocol == protocol and a.first <= port <= a.last
                                  for a in wanted):  # fmt: skip
                continue
            ends = (holder(tuple(groups), (engine,), name) for name in (source, destination))
            mine, others = ends
            if any(map(demand.sources, mine)) and any(map(demand.destinations, others)):
                assert judged(engine, question) in (None, Outcome.DENIED), (proof, question)
