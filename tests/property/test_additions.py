"""The smallest addition turns its flow's verdict, and nothing that it does not name.

Brute force asks the first judge (the rules as written) about every pair of ends and every port of a
small universe, before and after.
"""

from __future__ import annotations

import os
import re
from random import Random
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fimbria.analysis import Engine, Flow, FlowError
from fimbria.analysis.additions import Addition, NoAddition, smallest
from fimbria.analysis.additions_edit import edited
from fimbria.analysis.coverage import Deciders
from fimbria.datapath.abi import Direction
from tests.property.strategies import PORTS
from tests.unit.analysis.test_analysis_judges import ENTITIES, OUTSIDE, Case, cases

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fimbria.analysis.additions import Edit
    from fimbria.analysis.places import Place

sized = settings(
    max_examples=max(4, int(os.environ.get("FIMBRIA_CASES", "5000")) // 250),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    phases=(Phase.explicit, Phase.reuse, Phase.generate),
)

RULE = re.compile(r"spec(s\[\d+\])?\.\w+\[\d+\]")

UNSAYABLE = (
    "enable-policy is never",
    "no policy can be about either end",
    "a ClusterNetworkPolicy knows no ICMP",
    "a ClusterNetworkPolicy cannot name",
    "nothing is asked before",
    "cannot go without turning other verdicts",
)
"""Why there may be none: no kind of rule can say it."""


def questions(engine: Engine, flow: Flow, dice: Random) -> Iterator[Flow]:
    """Every pair of ends of which policies can be about one, with the flow's port and others."""
    nodes = [f"node:{name}" for name in engine.world.nodes]
    ends = [*engine.world.pods, *nodes, *OUTSIDE, *(f"entity:{name}" for name in ENTITIES)]
    policed = {*engine.world.pods, *(nodes if engine.host_firewall else ())}
    for source in ends:
        for destination in ends:
            if source == destination or not {source, destination} & policed:
                continue
            yield Flow(source, destination, flow.protocol, flow.port)
            for protocol in ("TCP", "UDP", "ICMP"):
                yield Flow(source, destination, protocol, dice.choice(PORTS) & 0xFF or 1)


def blamed(deciders: Deciders, engine: Engine, edit: Edit, flow: Flow) -> bool:
    """Whether what an edit removes was among what denied a packet."""
    if not edit.path:
        places = (engine.place(flow.source), engine.place(flow.destination))
        about = [one for place in places if place.unit for one in deciders.selecting(place)]
        return any(policy.key == edit.policy for policy in about)
    rule = RULE.match(edit.path)
    assert rule is not None
    ports = any(one in edit.path for one in ("oPorts", "icmps", "protocols"))
    path = edit.path if ports else rule[0]
    return any(
        part.policy == edit.policy and part.path.startswith(path)
        for decision in deciders.of(flow)
        if decision.denied
        for part in decision.parts
    )


def alike(engine: Engine, one: Flow, other: Flow, edits: Iterable[Edit]) -> bool:
    """Whether two flows have the same kinds of ends, and the same port.

    Where edits are about nodes they are the same node, or one of the same labels.
    """
    ways = {edit.scope.direction for edit in edits if edit.scope.host}

    by_entity = any(name.startswith("entity:") for name in (other.source, other.destination))

    def roles(place: Place) -> str:
        return str(engine.world.nodes[place.node].labels)

    def kind(place: Place) -> str | int:
        if place.pod is not None:
            return place.end.identity
        if place.is_node and engine.world.node_labels and not by_entity:
            return roles(place)
        labels = str(place.end.labels.labels)
        # What entities cannot tell apart.
        found = next((one for one in ("world", "remote-node") if f"reserved:{one}" in labels), "")
        return found or place.end.identity

    def ends(flow: Flow) -> tuple[str | int, str | int]:
        source, target = engine.place(flow.source), engine.place(flow.destination)
        return kind(engine.views.seen(target, source)[2]), kind(
            engine.views.seen(source, target)[2]
        )

    def subjects(flow: Flow) -> list[str]:
        ends = (Direction.EGRESS, flow.source), (Direction.INGRESS, flow.destination)
        places = [engine.place(name) for way, name in ends if way in ways]
        return [roles(place) if place.is_node else "" for place in places]

    ports = [(flow.protocol.upper(), flow.port) for flow in (one, other)]
    return ends(one) == ends(other) and ports[0] == ports[1] and subjects(one) == subjects(other)


def verdict(engine: Engine, flow: Flow) -> str | None:
    try:
        return str(engine.eval(flow, "model").verdict)
    except FlowError:
        return None


def flows(engine: Engine, dice: Random) -> Iterator[Flow]:
    """A few flows to turn, half of them to a pod, or to a node where these have policies."""
    pods, nodes = list(engine.world.pods), [f"node:{name}" for name in engine.world.nodes]
    ends = [*pods, *nodes, *OUTSIDE, *(f"entity:{name}" for name in ENTITIES)]
    if engine.host_firewall:
        pods += nodes
    for _ in range(6):
        pair = [dice.choice(pods), dice.choice(ends)]
        dice.shuffle(pair)
        protocol = dice.choice(("TCP", "TCP", "UDP", "ICMP"))
        yield Flow(pair[0], pair[1], protocol, dice.choice((8, 128)) if protocol == "ICMP" else 80)


def check(engine: Engine, flow: Flow, found: Addition, dice: Random) -> None:
    stages = [edited(engine, found.edits[:number]) for number in range(len(found.edits) + 1)]
    changed = stages[-1]
    assert not changed.world.errors
    before = verdict(engine, flow)
    assert (before == "DENIED") != (verdict(changed, flow) == "DENIED")
    removed = [
        (Deciders(stage), stage, edit)
        for stage, edit in zip(stages, found.edits, strict=False)
        if edit.verb == "remove"
    ]
    service = engine.places.stands_for_others(flow.destination)
    for one in questions(engine, flow, dice):
        if engine.places.stands_for_others(one.destination):
            continue
        said = verdict(engine, one), verdict(changed, one)
        if said[0] != said[1]:
            assert (
                service
                or alike(engine, one, flow, found.edits)
                or any(blamed(*cut, one) for cut in removed)
            ), (one, said, [e.text for e in found.edits], flow)


@sized
@given(cases(), st.integers(0, 1 << 32))
def test_an_addition_turns_what_it_names(case: Case, seed: int) -> None:
    """For any flow there is one, unless no rule can say it; it turns the flow and nothing else."""
    dice = Random(seed)
    engine = case.engine(case.world())
    for flow in flows(engine, dice):
        if verdict(engine, flow) is None:
            continue
        try:
            found = smallest(engine, flow)
        except NoAddition as error:
            unsaid = str(error)
        else:
            check(engine, flow, found, dice)
            continue
        assert any(text in unsaid for text in UNSAYABLE), (flow, unsaid)
