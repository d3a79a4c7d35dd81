"""Trials: during one the rules on trial hold, after it the ones before, for every packet."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from hypothesis import given

from fimbria.compile.delta import CIDR, POLICY_REF
from fimbria.compile.endpoints import ref_key
from fimbria.compile.ids import BUILT_IN, Ids
from fimbria.compile.node import Compiler
from fimbria.datapath.abi import Direction, EndpointIds, Identity, PolicyRef
from fimbria.datapath.lookup import Asked, address_identity, cidr_lookup, policy_lookup
from fimbria.model.identity import RESERVED
from fimbria.model.labels import LabelSet
from fimbria.model.policy import DIRECTIONS
from fimbria.model.semantics import End, Question, verdict
from tests.property.test_compile_changes import (
    Change,
    changed,
    changes,
    policies,
    put_trial,
    quick,
)
from tests.property.worlds import World, worlds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.compile.state import ClusterState
    from fimbria.model.policy import Policy

PACKETS = ((6, 80), (6, 53), (17, 53), (1, 8))
HOST = int(EndpointIds.HOST)
PEERS = (
    *(bytes([10, 0, node, number]) for node in (1, 2) for number in range(1, 7)),
    *(bytes([172, 18, 0, number]) for number in (2, 3)),
    *(bytes([192, 0, 2, number]) for number in (7, 130)),
    bytes([10, 9, 9, 9]),
)
"""Pods, nodes, and addresses in and around the prefixes of rules."""


def tried(state: ClusterState) -> list[Policy]:
    """The policies that hold during the trials."""
    found = dict(state.policies.items())
    for key, trial in state.trials.items():
        if trial.policy is None:
            found.pop(key, None)
        else:
            found[key] = trial.policy
    return list(found.values())


def subjects(state: ClusterState) -> Iterator[tuple[int, End]]:
    """Endpoints whose labels are known, and the node."""
    for row in state.local.values():
        labels = state.identities.get(row.identity)
        if labels is not None:
            yield row.id, End(row.identity, LabelSet(labels), frozenset(row.named_ports))
    if not state.config.host_firewall:
        return
    own = state.nodes.get(state.self_name)
    labels = (*(own.labels if own else ()), *RESERVED[Identity.HOST])
    yield HOST, End(Identity.HOST, LabelSet(labels))


@quick
@given(worlds(0), changes, policies)
def test_trials(world: World, todo: list[Change], value: Policy) -> None:
    """policy_id is what is on trial; fallback_id, if there is an end, what was before."""
    state = changed(world, todo)
    put_trial(state, value, 9, gone=False)
    compiler = Compiler(state, Ids())
    compiler.update()
    desired, places, context = compiler.desired(), state.places(), state.context()
    match = state.config.cidr_match
    held = {**BUILT_IN, **desired.policies}
    for number, subject in subjects(state):
        ref = PolicyRef.unpack(desired.maps[POLICY_REF][ref_key(number)])
        chains = [(ref.policy_id, tried(state))]
        # Without an end nothing on trial concerns it: what was before is what holds.
        chains.append((ref.fallback_id if ref.until else ref.policy_id, [*state.policies.values()]))
        for ip, way, (protocol, port) in product(PEERS, DIRECTIONS, PACKETS):
            peer = places.end(ip)
            if number == HOST and peer.identity == Identity.HOST:
                continue
            identity = address_identity(desired.maps, ip, dual_stack=state.config.ipv6)
            cidr = cidr_lookup(
                desired.maps[CIDR], identity, ip, nodes="nodes" in match, pods="pods" in match
            )
            asked = Asked(identity, Direction(way), protocol, port, cidr)
            question = Question(
                subject, peer, way, protocol, port, state.config.enforcement, context,
                host=number == HOST,
            )  # fmt: skip
            for policy_id, rules in chains:
                judged = verdict(rules, question)
                hit = policy_lookup(held, policy_id, asked)
                assert hit.allowed == judged.allowed, (number, ip, asked, judged, hit)
