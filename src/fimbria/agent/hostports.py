"""Ports that a node cannot do without: no policy about nodes may cut them by mistake.

    API server, kubelet, health checks, tunnel, load balancers' checks
        ─► judged with every policy about nodes that is, or would be, in force (model.semantics)
        ─► what one of them denies is a reason not to take the policy up

A policy whose annotation FORCE_ANNOTATION is "true" is taken up whatever it cuts, and then nobody
else is blamed for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fimbria.datapath.abi import Direction, Identity
from fimbria.model.ends import Places
from fimbria.model.identity import RESERVED, world
from fimbria.model.labels import LabelSet
from fimbria.model.peers import Cidr, Prefix
from fimbria.model.policy import FORCE_ANNOTATION, TCP, UDP, Protocol
from fimbria.model.semantics import End, Mode, Question, Reason, selecting, verdict

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fimbria.compile.state import ClusterState
    from fimbria.model.policy import Policy, PolicyKey, Spec
    from fimbria.model.semantics import Verdict
    from fimbria.sources.options import Config

KUBELET = 10250
HEALTH, HEALTH_HTTP = 4240, 9879
"""Ports of the cluster's health checks and of the agent's own, as Cilium has them."""


Peer = tuple[str, End]
"""What a peer is called, and as what it is judged."""


@dataclass(frozen=True, slots=True)
class Needed:
    """A port that must stay open in a direction.

    Every one of `peers` must get through; if `any` is set, one of them must.
    """

    what: str
    direction: Direction
    protocol: Protocol
    port: int
    peers: tuple[Peer, ...]
    any: bool = False

    def __str__(self) -> str:
        return f"{self.what} ({self.direction.name.lower()} {self.protocol.name} {self.port})"


class HostPorts:
    """Says why a policy about nodes may not be taken up.

    `server` is the API server's addresses (packed) and its port, 0 for one on a unix socket.
    """

    def __init__(
        self, config: Config, state: ClusterState, server: tuple[frozenset[bytes], int]
    ) -> None:
        self._config = config
        self._state = state
        self._addresses, self._port = server

    def guard(self, policy: Policy, with_: Iterable[Policy] = ()) -> str:
        """Return why `policy` may not be taken up beside what is in force, "" if it may.

        `with_` are others that come at the same time.
        """
        if policy.forced or not self._concerns(policy):
            return ""
        coming = {one.key: one for one in (*with_, policy)}
        beside = {one.key: one for one in self._about_this_node()}
        return self._cut(list((beside | coming).values()), policy)

    def culprits(self) -> Iterator[tuple[PolicyKey, str]]:
        """Yield policies in force that cut a port, each with the reason.

        There are some if what was judged has changed meanwhile: the node's labels, another policy.
        """
        policies = self._about_this_node()
        for policy in policies:
            if not policy.forced and (reason := self._cut(policies, policy)):
                yield policy.key, reason

    def _about_this_node(self) -> list[Policy]:
        if not self._state.config.host_firewall:
            return []
        return [one for _, one in sorted(self._state.policies.items()) if self._concerns(one)]

    def _concerns(self, policy: Policy) -> bool:
        """Return whether a policy is about this node."""
        return self._state.config.host_firewall and any(
            selecting([policy], self._subject.labels, host=True)
        )

    @property
    def _subject(self) -> End:
        own = self._state.nodes.get(self._state.self_name)
        labels = own.labels if own is not None else ()
        return End(int(Identity.HOST), LabelSet((*labels, *RESERVED[Identity.HOST])))

    def _cut(self, policies: Sequence[Policy], suspect: Policy) -> str:
        """Return which port `policies` cut that the forced ones among them do not; "" for none.

        Only what `suspect` has a part in counts.
        """
        ours = [spec for _, spec in selecting([suspect], self._subject.labels, host=True)]
        excused = [policy for policy in policies if policy.forced]
        context = self._state.context()

        def judge(rules: Sequence[Policy], needed: Needed, peer: End) -> Verdict:
            ask = Question(
                self._subject,
                peer,
                needed.direction,
                needed.protocol,
                needed.port,
                Mode(self._config.enable_policy),
                context,
                host=True,
            )
            return verdict(rules, ask)

        for needed in self.needed(ours):
            paths = [s.path for s in ours if s.default_deny(needed.direction) is not None]
            if not paths:
                continue
            found = [(name, end, judge(policies, needed, end)) for name, end in needed.peers]
            closed = [one for one in found if not one[2].allowed]
            if not closed or (needed.any and len(closed) < len(found)):
                continue
            for name, end, said in closed:
                if not judge(excused, needed, end).allowed:
                    continue
                way = "from" if needed.direction is Direction.INGRESS else "to"
                return (
                    f"{needed} {way} {name} would be cut by {_blame(said, paths[0])}; allow it, "
                    f'or annotate the policy with {FORCE_ANNOTATION}: "true"'
                )
        return ""

    def needed(self, specs: Sequence[Spec] = ()) -> list[Needed]:
        """Return the list; `specs` name addresses that a load balancer may have."""
        ingress, egress = Direction.INGRESS, Direction.EGRESS
        nodes, server = self._nodes(), self._servers()
        asking = server if self._addresses else nodes
        found = [
            Needed("the kubelet's port", ingress, TCP, KUBELET, asking),
            Needed("the health check's port", ingress, TCP, HEALTH, nodes),
            Needed(
                "the agent's health port", ingress, TCP, HEALTH_HTTP, (("host", self._subject),)
            ),
        ]
        if self._port:
            found.append(Needed("the API server's port", egress, TCP, self._port, server))
            own = self._state.nodes.get(self._state.self_name)
            if own is not None and not self._addresses.isdisjoint(own.addresses):
                found.append(Needed("the API server's port", ingress, TCP, self._port, nodes))
        if self._state.config.tunnel:
            port = self._config.tunnel_port
            for way in (ingress, egress):
                found.append(Needed("the tunnel's port", way, UDP, port, nodes))
        outside = (*self._outside(specs), *nodes)
        for key, service in sorted(self._state.services.items()):
            if service.health_port:
                what = f"the health check port of Service {'/'.join(key)}"
                found.append(Needed(what, ingress, TCP, service.health_port, outside, any=True))
        return found

    def _places(self) -> Places:
        """Return whose address is whose, as far as nodes go."""
        config, rows = self._state.config, dict(self._state.nodes.items())
        own = rows.pop(self._state.self_name, None)
        return Places(
            own=frozenset(own.addresses) if own is not None else frozenset(),
            apiserver=config.kube_apiserver,
            nodes={ip: node.labels for node in rows.values() for ip in node.addresses},
            dual_stack=config.ipv4 and config.ipv6,
            node_labels=config.node_labels,
            cidr_match=config.cidr_match,
        )

    def _nodes(self) -> tuple[Peer, ...]:
        """Return the other nodes, those that no policy can tell apart once."""
        places = self._places()
        ends = {places.end(ip): ip for ip in sorted(places.nodes, reverse=True)}
        found = [(f"{_kind(end)} {ip_address(ip)}", end) for end, ip in ends.items()]
        anyone = End(int(Identity.REMOTE_NODE), LabelSet(RESERVED[Identity.REMOTE_NODE]))
        return tuple(found) or (("remote-node", anyone),)

    def _servers(self) -> tuple[Peer, ...]:
        """Return the API server's addresses on other machines."""
        places = self._places()
        return tuple(
            (f"kube-apiserver {ip_address(ip)}", places.end(ip))
            for ip in sorted(places.apiserver - places.own)
        )

    def _outside(self, specs: Sequence[Spec]) -> tuple[Peer, ...]:
        """Return the world, and prefixes that ingress rules name: load balancers may be there."""
        rules = [rule for spec in specs for rule in spec.rules]
        named = {
            peer.whom.net
            for rule in rules
            if rule.direction is Direction.INGRESS
            for peer in rule.peers
            if isinstance(peer.whom, Cidr)
        }
        everywhere = {Prefix(bytes(size), 0) for size in (4, 16)}
        return tuple((str(net), self._world(net)) for net in sorted(everywhere | named))

    def _world(self, net: Prefix) -> End:
        config = self._state.config
        number = world(len(net.ip) * 8, dual_stack=config.ipv4 and config.ipv6)
        return End(int(number), LabelSet(RESERVED[Identity(number)]), net=net)


def _kind(end: End) -> str:
    return Identity(end.identity).name.lower().replace("_", "-")


def _blame(said: Verdict, path: str) -> str:
    """Return what of the policies denies."""
    if said.rules:
        return f"{said.rules[0].policy} {said.rules[0].path}"
    return f"{path}, which allows no such thing" if said.reason is Reason.DEFAULT_DENY else path
