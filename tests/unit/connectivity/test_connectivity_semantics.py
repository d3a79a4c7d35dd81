"""What the scenarios expect, against the policy semantics: a suite must not teach wrong rules."""

from __future__ import annotations

import pytest

from fimbria.connectivity.model import Side, actions
from fimbria.connectivity.places import HOSTS, PLACES, namespaces, other_namespace
from fimbria.connectivity.policies import filled_in
from fimbria.connectivity.suite import SUITE
from fimbria.datapath.abi import Direction, Identity
from fimbria.model.labels import LabelSet
from fimbria.model.policy import ICMP, ICMPV6, TCP, UDP
from fimbria.model.policy_parse import parse_policy
from fimbria.model.semantics import End, Question, Reason, verdict

HOME = "t"
FAMILIES = {place.name: {4, 6} for place in PLACES} | {name: {4, 6} for name in HOSTS}
NODES = {place.name: place.node for place in PLACES} | HOSTS
NAMED = frozenset({("http", TCP, 8080), ("dns", UDP, 8053)})
SIDES = {
    Reason.DENY_RULE: Side.DENY_RULE,
    Reason.DEFAULT_DENY: Side.DEFAULT_DENY,
    Reason.REFUSED: Side.DEFAULT_DENY,
}


def party(name: str, node: int, changes: dict[str, dict[str, str]]) -> End:
    """A place as a node sees it."""
    if name in HOSTS:
        local = HOSTS[name] == node
        identity = Identity.HOST if local else Identity.REMOTE_NODE
        return End(identity, LabelSet([f"reserved:{'host' if local else 'remote-node'}"]))
    place = next(one for one in PLACES if one.name == name)
    namespace = other_namespace(HOME) if place.foreign else HOME
    own = next(n["metadata"] for n in namespaces(HOME) if n["metadata"]["name"] == namespace)
    texts = [
        f"k8s:{key}={value}" for key, value in {**place.labels, **changes.get(name, {})}.items()
    ]
    texts += [
        f"k8s:io.kubernetes.pod.namespace={namespace}",
        "k8s:io.cilium.k8s.policy.cluster=default",
        "k8s:io.cilium.k8s.policy.serviceaccount=default",
    ]
    texts += [
        f"k8s:io.cilium.k8s.namespace.labels.{key}={value}" for key, value in own["labels"].items()
    ]
    number = 1000 + [one.name for one in PLACES].index(name)
    return End(number, LabelSet(sorted(texts)), NAMED)


def protocol(kind: str, family: int) -> tuple[int, int]:
    """The protocol, and the ICMP type of an echo request."""
    if kind == "icmp":
        return (ICMP, 8) if family == 4 else (ICMPV6, 128)
    return (TCP if kind == "tcp" else UDP), 0


@pytest.mark.parametrize("scenario", SUITE, ids=lambda scenario: scenario.name)
def test_scenario(scenario) -> None:
    """Every action's expectation, at both ends, is what the semantics say."""
    for step in scenario.steps:
        policies = [
            parse_policy(filled_in(one, HOME, other_namespace(HOME))) for one in step.policies
        ]
        for one in step.checks:
            for action in actions(one, FAMILIES):
                number, icmp = protocol(action.probe.kind, action.family)
                port = icmp or action.probe.port
                sides = {}
                for direction, own, other in (
                    (Direction.EGRESS, action.source, action.destination),
                    (Direction.INGRESS, action.destination, action.source),
                ):
                    if own in HOSTS:
                        sides[direction] = Side.ALLOW
                        continue
                    judged = verdict(
                        policies,
                        Question(
                            party(own, NODES[own], step.labels),
                            party(other, NODES[own], step.labels),
                            direction,
                            number,
                            port,
                        ),
                    )
                    sides[direction] = SIDES[judged.reason] if not judged.allowed else Side.ALLOW
                assert sides[Direction.EGRESS] is action.expect.egress, action
                if action.expect.egress is Side.ALLOW:
                    assert sides[Direction.INGRESS] is action.expect.ingress, action


def test_only_the_refused_policy_is_refused() -> None:
    """All other policies of the suite can be enforced."""
    refused = {
        scenario.name
        for scenario in SUITE
        for step in scenario.steps
        for one in step.policies
        if parse_policy(filled_in(one, HOME, other_namespace(HOME))).refusal
    }
    assert refused == {"refused-policy-closes"}
