"""What the first judge says of a packet: at pods by `analysis`, at nodes by `model.ends`."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fimbria.analysis import Because, Engine, Flow, Half, Outcome
from fimbria.datapath.abi import Direction, DropReason
from fimbria.model.ends import Places
from fimbria.model.identity import RESERVED
from fimbria.model.labels import LabelSet
from fimbria.model.peers import prefix
from fimbria.model.semantics import End, Question, Reason, Verdict, verdict
from tests.lab.truth.packets import NAMES

if TYPE_CHECKING:
    from collections.abc import Mapping, Set

    from fimbria.analysis import World
    from fimbria.model.policy import PolicyKey
    from tests.lab.truth.packets import Probe

REASONS = {
    Because.DENY_RULE: DropReason.POLICY_DENY,
    Because.REDIRECT: DropReason.NO_PROXY,
    Reason.DENY_RULE: DropReason.POLICY_DENY,
    Reason.REDIRECT: DropReason.NO_PROXY,
}
"""Why a packet is dropped, by why the judge refuses it; everything else is DropReason.POLICY."""


@dataclass(frozen=True)
class Said:
    """A judgement: why the packet must be dropped, None if it must pass, and the whole of it."""

    drop: DropReason | None
    halves: tuple[Half | Verdict, ...]

    @property
    def allowed(self) -> bool:
        return self.drop is None

    def __str__(self) -> str:
        what = "ALLOWED" if self.allowed else "DENIED"
        return f"{what}: {'; '.join(map(str, self.halves))}"


@dataclass(frozen=True)
class Node:
    """A node as a subject: who it is, and whom it sees behind an address."""

    end: End
    places: Places


class Judge:
    """The first judge in a world. `config` are the agents' settings.

    `left_out` are the policies that a node has not taken up, by its name.
    """

    def __init__(
        self, world: World, config: Mapping[str, str], left_out: Mapping[str, Set[PolicyKey]]
    ) -> None:
        match = config.get("policy-cidr-match-mode", "").split()
        mode = config.get("enable-policy", "default")
        self._engine = Engine(world, mode, match, judge="model")
        self._policies = {
            name: [policy for key, policy in world.policies.items() if key not in left_out[name]]
            for name in world.nodes
        }
        self._nodes: dict[str, Node] = {}
        if config.get("enable-host-firewall") == "true":
            self._nodes = {name: self._node(name, frozenset(match)) for name in world.nodes}

    def _node(self, name: str, match: frozenset[str]) -> Node:
        world = self._engine.world
        own = world.nodes[name]
        places = Places(
            own=frozenset(own.addresses),
            apiserver=world.api_servers,
            nodes={ip: world.nodes[other].labels for ip, other in world.node_of.items()},
            remote={ip: pod.identity for ip, pod in world.by_address.items()},
            pod_cidrs=frozenset(prefix(c) for one in world.nodes.values() for c in one.pod_cidrs),
            labels=world.identities,
            named=world.named,
            dual_stack=True,
            cidr_match=match,
        )
        return Node(End(1, LabelSet((*RESERVED[1], *own.labels))), places)

    def say(self, probe: Probe) -> Said:
        """Judge a probe at both its ends."""
        flow = Flow(probe.source, probe.destination, NAMES[probe.protocol], probe.port)
        result = self._engine.eval(flow)
        ends = probe.source, probe.destination
        halves = (
            self._at_node(*ends, Direction.EGRESS, probe) or result.egress,
            self._at_node(*ends[::-1], Direction.INGRESS, probe) or result.ingress,
        )
        return Said(next((why for half in halves if (why := drop(half))), None), halves)

    def _at_node(self, own: str, peer: str, way: Direction, probe: Probe) -> Verdict | None:
        """The verdict at an end that is a node with a firewall."""
        name = self._engine.world.node_of.get(ip_address(own).packed, "")
        node = self._nodes.get(name)
        if node is None:
            return None
        other = node.places.end(ip_address(peer).packed)
        context = self._engine.state.context()
        asked = Question(
            node.end, other, way, probe.protocol, probe.port, self._engine.mode, context, host=True
        )
        return verdict(self._policies[name], asked)


def drop(half: Half | Verdict) -> DropReason | None:
    """Why the datapath must drop a packet at one end; None if it must not."""
    if isinstance(half, Half):
        passes = half.verdict is Outcome.ALLOWED
    else:
        passes = half.allowed and half.reason is not Reason.REDIRECT
    return None if passes else REASONS.get(half.reason, DropReason.POLICY)
