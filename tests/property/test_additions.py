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

from fimbria.analysis import Engine, Flow, FlowError, from_documents
from fimbria.analysis.additions import Addition, NoAddition, smallest
from fimbria.analysis.coverage import Deciders
from tests.property.strategies import PORTS
from tests.unit.analysis.test_analysis_judges import ENTITIES, OUTSIDE, Case, cases

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.additions import Edit
    from fimbria.analysis.flows import Place

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
    """Every pair of ends of which one is a pod, with the flow's port and others."""
    ends = [*engine.world.pods, *OUTSIDE, *(f"entity:{name}" for name in ENTITIES)]
    for source in ends:
        for destination in ends:
            if source == destination or not {source, destination} & engine.world.pods.keys():
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


def alike(engine: Engine, one: Flow, other: Flow) -> bool:
    """Whether two flows have the same kinds of ends, and the same port."""

    def kind(place: Place) -> str | int:
        if place.unit:
            return place.end.identity
        labels = str(place.end.labels.labels)
        # What entities cannot tell apart.
        found = next((one for one in ("world", "remote-node") if f"reserved:{one}" in labels), "")
        return found or place.end.identity

    def ends(flow: Flow) -> tuple[str | int, str | int]:
        source, target = engine.place(flow.source), engine.place(flow.destination)
        return kind(engine.peer(target, source)), kind(engine.peer(source, target))

    ports = [(flow.protocol.upper(), flow.port) for flow in (one, other)]
    return ends(one) == ends(other) and ports[0] == ports[1]


def verdict(engine: Engine, flow: Flow) -> str | None:
    try:
        return str(engine.eval(flow, "model").verdict)
    except FlowError:
        return None


def flows(engine: Engine, dice: Random) -> Iterator[Flow]:
    """A few flows to turn, half of them to a pod."""
    pods = list(engine.world.pods)
    ends = [*pods, *OUTSIDE, *(f"entity:{name}" for name in ENTITIES)]
    for _ in range(6):
        pair = [dice.choice(pods), dice.choice(ends)]
        dice.shuffle(pair)
        protocol = dice.choice(("TCP", "TCP", "UDP", "ICMP"))
        yield Flow(pair[0], pair[1], protocol, dice.choice((8, 128)) if protocol == "ICMP" else 80)


def check(engine: Engine, flow: Flow, found: Addition, dice: Random) -> None:
    after = engine.world
    for edit in found.edits:
        after = edit.applied(after)
    changed = Engine(after, engine.mode, engine.state.config.cidr_match)
    assert not after.errors
    before = verdict(engine, flow)
    assert (before == "DENIED") != (verdict(changed, flow) == "DENIED")
    deciders = Deciders(engine)
    removed = [edit for edit in found.edits if edit.verb == "remove"]
    service = engine.places.stands_for_others(flow.destination)
    for one in questions(engine, flow, dice):
        if engine.places.stands_for_others(one.destination):
            continue
        said = verdict(engine, one), verdict(changed, one)
        if said[0] != said[1]:
            assert (
                service
                or alike(engine, one, flow)
                or any(blamed(deciders, engine, edit, one) for edit in removed)
            ), (one, said, found)


@sized
@given(cases(), st.integers(0, 1 << 32))
def test_an_addition_turns_what_it_names(case: Case, seed: int) -> None:
    """For any flow there is one, unless no rule can say it; it turns the flow and nothing else."""
    dice = Random(seed)
    world = from_documents(case.documents)
    engine = Engine(world, case.mode, case.match)
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
