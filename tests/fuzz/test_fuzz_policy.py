"""Whatever a policy object holds, it is enforced whole, or it opens nothing.

`tests/property/test_policy_input.py` puts junk into objects; here an object is good but for one
field, which is what a typing error or a newer version's manifest looks like. Good objects use the
whole language (`policy_language`). Objects that were once read wrongly are in corpus/policy.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fimbria.datapath.abi import Direction
from fimbria.model.labels import LabelSet, pod_labels
from fimbria.model.peers import Fqdn, prefix
from fimbria.model.policy import Policy, PolicyError, Tier
from fimbria.model.policy_parse import KINDS, parse_policy
from fimbria.model.semantics import End, Question, verdict
from tests.fuzz.policy_language import objects
from tests.property.strategies import NAMESPACES

CORPUS = sorted((Path(__file__).parent / "corpus" / "policy").glob("*.json"))
LABELS = [
    pod_labels({"app": app, "tier": "x"}, namespace, NAMESPACES[namespace], "default", "default")
    for namespace in ("red", "blue")
    for app in ("web", "db")
]
OUTSIDE = [
    End(2, LabelSet(("reserved:world",)), net=prefix(text)) for text in ("192.0.2.7", "2001:db8::1")
]
PODS = [End(number, LabelSet(labels)) for number, labels in enumerate(LABELS, 300)]
DIRECTIONS = {
    Direction.INGRESS: ("ingress", "ingressDeny"),
    Direction.EGRESS: ("egress", "egressDeny"),
}
# A part of an object may be a value that its strategy gives again: change copies only.
policies = objects().map(copy.deepcopy)
FREE = {"matchLabels", "metadata", "description", "labels", "l7"}
"""Below these any key is good."""

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def read(document: dict[str, Any]) -> Policy | None:
    """The policy, or None if the object has no kind or name to tell anyone about."""
    try:
        return parse_policy(document, node_labels=True)
    except PolicyError as raised:
        error = raised
    assert error.reason
    assert error.path in ("kind", "metadata.name", "metadata.namespace")
    return None


def good(document: dict[str, Any]) -> Policy:
    """The policy of a good object: it is enforced whole."""
    found = parse_policy(document, node_labels=True)
    assert found.refusal is None
    return found


def open_ways(among: list[Policy]) -> set[tuple[int, int, Direction, int, int]]:
    """What gets through from and to the pods, sampled over protocols and ports."""
    return {
        (subject.identity, number, direction, protocol, port)
        for subject in PODS
        for number, peer in enumerate([*PODS, *OUTSIDE])
        for direction in DIRECTIONS
        for protocol, port in ((6, 80), (6, 81), (17, 53), (1, 8))
        if verdict(among, Question(subject, peer, direction, protocol, port)).allowed
    }


def mappings(value: Any) -> list[dict[str, Any]]:
    """Every mapping of a document whose fields are fixed."""
    found: list[dict[str, Any]] = []
    if isinstance(value, dict):
        found.append(value)
        for key, inner in value.items():
            if key not in FREE:
                found += mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            found += mappings(inner)
    return found


@settings(deadline=None)
@given(policies)
def test_good_objects(document: dict[str, Any]) -> None:
    """What the language knows is accepted; what waits for a proxy is named, once for each field."""
    before = copy.deepcopy(document)
    found = good(document)
    assert document == before
    assert hash(found.specs) == hash(good(document).specs)
    waiting = [path for path, _ in found.pending]
    assert len(waiting) == len(set(waiting))
    rules = [rule for spec in found.specs for rule in spec.rules]
    redirected = any(port.parser for rule in rules for port in rule.ports)
    by_name = any(isinstance(peer.whom, Fqdn) for rule in rules for peer in rule.peers)
    assert bool(waiting) is (redirected or by_name)


@settings(deadline=None)
@given(policies, st.data())
def test_one_unknown_field_refuses_the_whole_object(
    document: dict[str, Any], data: st.DataObject
) -> None:
    """A field that nobody knows, wherever it stands in the spec, is named; nothing opens."""
    before = good(document)
    places = [place for name in ("spec", "specs") for place in mappings(document.get(name))]
    data.draw(st.sampled_from(places))["newerField"] = data.draw(
        json_values.filter(lambda v: v is not None)
    )
    found = read(document)
    assert found is not None
    assert found.refusal is not None
    assert "newerField" in found.refusal[0]
    assert (found.tier, found.rules, found.pending) == (Tier.NORMAL, 0, ())
    assert open_ways([found]) <= open_ways([before])


@settings(deadline=None)
@given(policies, objects(1), st.data())
def test_a_refused_object_opens_nothing(
    document: dict[str, Any], other: dict[str, Any], data: st.DataObject
) -> None:
    """Beside any other policy, an object that is refused never lets through what was closed."""
    place = data.draw(st.sampled_from(
        [place for name in ("spec", "specs") for place in mappings(document.get(name)) if place]
    ))  # fmt: skip
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(json_values)
    found, beside = read(document), good(other)
    if found is None or found.refusal is None:
        return
    assert open_ways([found, beside]) <= open_ways([beside])


@settings(deadline=None)
@given(policies, st.data())
def test_a_refused_object_closes_its_subjects_only_where_it_says(
    document: dict[str, Any], data: st.DataObject
) -> None:
    """A refusal in a rule closes the selected pods in the directions named, and no one else."""
    before = good(document)
    specs = [document["spec"]] if document.get("spec") else document["specs"]
    spec = data.draw(st.sampled_from(specs))
    sections = [name for names in DIRECTIONS.values() for name in names if spec.get(name)]
    if not sections:
        return
    spec[data.draw(st.sampled_from(sections))].append({"toMoon": []})
    found = read(document)
    assert found is not None
    assert found.refusal is not None
    about_pods = [one for one in before.specs if not one.host]
    assert [one.subject for one in found.specs] == [one.subject for one in about_pods]
    ways = open_ways([found])
    for pod in PODS:
        for direction in DIRECTIONS:
            named = any(
                one.subject.matches(pod.labels) and one.default_deny(direction) is not None
                for one in found.specs
            )
            left = {way for way in ways if way[0] == pod.identity and way[2] is direction}
            assert bool(left) is not named


@given(st.dictionaries(st.sampled_from(["kind", "metadata", "spec", "specs", "apiVersion"]),
                       st.sampled_from(KINDS) | json_values))  # fmt: skip
def test_any_object(document: dict[str, Any]) -> None:
    """Any JSON object is a policy, a refusal, or a PolicyError naming kind or metadata."""
    before = copy.deepcopy(document)
    read(document)
    assert document == before


@pytest.mark.parametrize("case", CORPUS, ids=lambda path: path.stem)
def test_found_cases(case: Path) -> None:
    """What was once read wrongly: each file has the object and the refusal it must get."""
    found = json.loads(case.read_text())
    policy = parse_policy(found["object"])
    assert policy.refusal is not None
    assert policy.refusal[0] == found["field"]
    closed = {(spec.ingress, spec.egress) for spec in policy.specs}
    assert closed == {tuple(one) for one in found["closed"]}
