"""Which rules ever decide about a packet, found in the compiled maps.

A rule decides if some packet is decided by an entry with its number. Entries that a better one of
the same identity covers are not in the maps at all; of the others each is asked at the ports where
the answer can change. So what is said here holds for every packet between the pods, entities and
prefixes of the world, not for samples.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fimbria.datapath.abi import (
    Direction,
    IdentityScope,
    PolicyEntry,
    PolicyEntryFlags,
    PolicyKey,
    PolicyShape,
)
from fimbria.datapath.lookup import Asked, endpoint_policy, policy_lookup
from fimbria.model.matching import names
from fimbria.model.peers import Cidr
from fimbria.model.policy import Protocol
from fimbria.model.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.analysis.lint import Linted
    from fimbria.model import policy as model
    from fimbria.model.policy import Peer, PortSpec, Rule, Spec

Name = tuple["model.PolicyKey", str]
"""A rule part: policy and path."""

OTHER_PROTOCOL = 47
"""A protocol that rules cannot name."""

_SCOPE = 0xFF000000
_LAST = 0xFFFF


class _Chain(NamedTuple):
    """A policy and those that follow it: entries, and (protocol, port) where answers change."""

    number: int
    entries: tuple[tuple[PolicyKey, PolicyEntry], ...]
    edges: frozenset[tuple[int, int]]


class Deciding:
    """Answers which rules decide in a world."""

    def __init__(self, linted: Linted) -> None:
        self._linted = linted
        engine = linted.engine
        self._maps = engine.policy_maps
        self._rules = engine.ids.rules
        self._numbers = {
            unit: endpoint_policy(engine.maps, unit) for unit in linted.world.units.values()
        }
        taken = linted.world.identities
        self._stranger = next(n for n in range(_LAST, 0, -1) if n not in taken)
        self.rules: frozenset[Name] = frozenset(self._all())

    def beaten_by(self, spec: Spec, rule: Rule, part: PortSpec) -> Name | None:
        """Return what decides instead, about a packet that a rule's part is about; None: nothing.

        Nothing does if there is no such packet in this world.
        """
        for unit in sorted(self._linted.units(spec)):
            for identity in self._peers(rule):
                for protocol, port in self._packets(part, unit, identity, rule.direction):
                    asked = Asked(identity, rule.direction, protocol, port)
                    hit = policy_lookup(self._maps, self._numbers[unit], asked)
                    found = self._rules.rule(hit.rule_id)
                    if found is not None:
                        return found
        return None

    def _all(self) -> Iterator[Name]:
        """Yield the rules that decide about any packet."""
        for number in sorted(set(self._numbers.values())):
            chain = self._chain(number)
            known: set[int] = set()
            for key, entry in chain.entries:
                if entry.rule_id in known:
                    continue
                rule = self._rules.rule(entry.rule_id)
                if rule is not None and self._wins(chain, key, entry):
                    known.add(entry.rule_id)
                    yield rule

    def _chain(self, number: int) -> _Chain:
        entries: list[tuple[PolicyKey, PolicyEntry]] = []
        following = number
        while following:
            policy = self._maps[following]
            entries += [
                (PolicyKey.unpack(key), PolicyEntry.unpack(value))
                for key, value in policy.entries.items()
            ]
            following = policy.next_id
        edges = {(int(protocol), 1) for protocol in Protocol} | {(OTHER_PROTOCOL, 1)}
        for key, _ in entries:
            shape = key.shape & ~PolicyShape.EGRESS
            if shape > PolicyShape.PROTO:
                last = key.dport + (1 << (PolicyShape.PORT - shape)) - 1
                edges |= {(key.protocol, key.dport), (key.protocol, min(last + 1, _LAST))}
        return _Chain(number, tuple(entries), frozenset(edges))

    def _wins(self, chain: _Chain, key: PolicyKey, entry: PolicyEntry) -> bool:
        """Return whether an entry decides about any packet. One that passes on always may."""
        if entry.flags & PolicyEntryFlags.PASS or self._is_cidr_side(key.identity):
            return True
        direction = Direction.EGRESS if key.shape & PolicyShape.EGRESS else Direction.INGRESS
        shape = key.shape & ~PolicyShape.EGRESS
        width = 1 << (PolicyShape.PORT - max(shape, PolicyShape.PROTO))
        packets = [
            edge
            for edge in chain.edges
            if shape == PolicyShape.ANY
            or (edge[0] == key.protocol and key.dport <= edge[1] < key.dport + width)
        ]
        peers = [key.identity] if key.identity else [self._stranger, *self._linted.world.identities]
        return any(
            policy_lookup(
                self._maps, chain.number, Asked(peer, direction, protocol, port)
            ).rule_id == entry.rule_id
            for peer in peers
            for protocol, port in packets
        )  # fmt: skip

    def _is_cidr_side(self, identity: int) -> bool:
        """Return whether an identity may be that of a prefix for addresses of the cluster."""
        matching = bool(self._linted.engine.state.config.cidr_match)
        return matching and identity & _SCOPE == IdentityScope.CIDR

    def _peers(self, rule: Rule) -> Iterator[int]:
        for peer in rule.peers:
            yield from self._identities(peer)

    def _identities(self, peer: Peer) -> Iterator[int]:
        """Yield the identities that a peer names in this world."""
        whom = peer.whom
        if whom is None:
            yield self._stranger
        elif isinstance(whom, Cidr):
            cidrs = self._linted.engine.compiler.policies.selectors.cidrs
            yield from sorted(cidrs.identities(whom))
        elif isinstance(whom, Selector):
            yield from sorted(self._linted.chosen(whom))
        else:
            context = self._linted.engine.state.context()
            places = self._linted.engine.places
            for number in self._linted.world.identities:
                if names(peer, places.end(number), context):
                    yield number

    def _packets(
        self, part: PortSpec, unit: int, identity: int, direction: Direction
    ) -> Iterator[tuple[int, int]]:
        """Yield a packet (protocol, port) that a part matches, if there is one."""
        if not part.protocols:
            yield int(Protocol.TCP), 1
        elif part.name:
            named = self._linted.world.named.get(identity, frozenset())
            if direction is Direction.INGRESS:
                named = frozenset(
                    port
                    for key, number in self._linted.world.units.items()
                    if number == unit
                    for port in key.named
                )
            yield from (
                (protocol, port)
                for name, protocol, port in sorted(named)
                if part.matches(protocol, port, named) and name == part.name
            )
        else:
            first = 1 if part.ports is None else part.ports[0]
            yield part.protocols[0], first
