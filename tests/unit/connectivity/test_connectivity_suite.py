"""The scenarios themselves: complete, unambiguous, and about places that exist."""

from __future__ import annotations

import re

import pytest

from fimbria.connectivity.model import ALLOW, EGRESS_DENIED, Probe, actions, check, probes
from fimbria.connectivity.places import (
    HOSTS,
    PLACES,
    TCP_PORTS,
    UDP_PORTS,
    namespaces,
    other_namespace,
    pod,
)
from fimbria.connectivity.policies import HOME, OTHER, cnp, filled_in
from fimbria.connectivity.suite import SUITE, select

FAMILIES = {place.name: {4, 6} for place in PLACES} | {name: {4} for name in HOSTS}


def test_size() -> None:
    """At least 30 scenarios and 265 actions, names unique and fit for --test and file names."""
    names = [scenario.name for scenario in SUITE]
    assert len(names) == len(set(names)) >= 30
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in names)
    listed = [
        action
        for scenario in SUITE
        for step in scenario.steps
        for one in step.checks
        for action in actions(one, {name: {4} for name in FAMILIES})
    ]
    assert len(listed) >= 265


@pytest.mark.parametrize("scenario", SUITE, ids=lambda scenario: scenario.name)
def test_scenario(scenario) -> None:
    """Places and ports exist, no action contradicts another, policies of a step differ by name."""
    for step in scenario.steps:
        names = [(one["kind"], one["metadata"]["name"]) for one in step.policies]
        assert len(names) == len(set(names))
        expected = {}
        for one in step.checks:
            assert {*one.sources, *one.destinations} <= set(FAMILIES)
            for action in actions(one, FAMILIES):
                assert action.probe.port in {0, *TCP_PORTS, *UDP_PORTS}
                key = action[:4]
                assert expected.setdefault(key, action.expect) == action.expect, action
        assert expected


def test_every_scenario_denies_or_is_about_openness() -> None:
    """A scenario that has policies says what they refuse, unless it is about allowing all."""
    for scenario in SUITE:
        expects = {one.expect for step in scenario.steps for one in step.checks}
        if any(step.policies for step in scenario.steps) and expects == {ALLOW}:
            assert re.search("all|cluster", scenario.name), scenario.name


def test_actions_of_missing_places_are_left_out() -> None:
    """With one node there is no client3; nobody talks to itself; families must be shared."""
    one = check("client client3", "client echo-same", "8080 icmp", ALLOW)
    listed = actions(one, {"client": {4, 6}, "echo-same": {4}})
    assert [(a.source, a.destination, a.probe, a.family) for a in listed] == [
        ("client", "echo-same", Probe("tcp", 8080), 4),
        ("client", "echo-same", Probe("icmp"), 4),
    ]


def test_probe_notation() -> None:
    """`8080 8053/udp icmp` reads as TCP, UDP, ICMP."""
    assert probes("8080 8053/udp icmp") == (Probe("tcp", 8080), Probe("udp", 8053), Probe("icmp"))
    assert [str(one) for one in probes("8080 icmp")] == ["8080/tcp", "icmp"]


def test_expectation_text() -> None:
    """What is expected is said in words."""
    assert str(ALLOW) == "allowed"
    assert str(EGRESS_DENIED) == "denied by default at egress"


def test_namespaces_are_filled_in() -> None:
    """Placeholders for namespaces vanish."""
    policy = cnp("x", {}, ingress=[{"fromEndpoints": [{"matchLabels": {"ns": OTHER}}]}])
    filled = filled_in(policy, "a", "b")
    assert filled["metadata"]["namespace"] == "a"
    assert HOME not in str(filled)
    assert OTHER not in str(filled)


def test_selection() -> None:
    """--test takes expressions; `!` takes away."""
    assert select([]) == SUITE
    assert [one.name for one in select(["^port$"])] == ["port"]
    assert {one.name for one in select(["^port", "!named"])} == {
        "port",
        "port-any-protocol",
        "port-range",
        "port-udp",
        "port-without-peer",
    }


def test_pods() -> None:
    """Pods are pinned to nodes, named ports included; strangers live in the other namespace."""
    stranger = next(place for place in PLACES if place.foreign)
    document = pod(stranger, "t", "node2", "python:3")
    assert document["metadata"]["namespace"] == other_namespace("t") == "t-other"
    assert document["spec"]["nodeName"] == "node2"
    ports = document["spec"]["containers"][0]["ports"]
    assert [port["name"] for port in ports] == ["http", "dns"]
    assert [one["metadata"]["name"] for one in namespaces("t")] == ["t", "t-other"]
