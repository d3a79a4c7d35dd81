"""Rules to entries of policy maps, of one spec at a time.

    Spec -> SpecEntries: levels of entries, by precedence, the same for everyone it selects

For equal keys of one precedence the first rule in order wins.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from fimbria.compile.ports import named_suffixes, port_suffixes
from fimbria.datapath import abi
from fimbria.datapath.abi import Direction, PolicyPrecedence
from fimbria.model.policy import DIRECTIONS, Action, Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fimbria.compile.contents import Entries
    from fimbria.model.peers import Whom
    from fimbria.model.policy import NamedPort, Policy, PortSpec, Rule, Spec

Only = Set[int] | None
"""Identities whose entries are asked for; None: those of all, and for anyone."""

ANYONE = bytes(4)
_ACTION = {
    Action.ALLOW: 0,
    Action.DENY: int(abi.PolicyEntryFlags.DENY),
    Action.PASS: int(abi.PolicyEntryFlags.PASS),
}


@dataclass(frozen=True, slots=True)
class Peers:
    """What rules are resolved with.

    Identities by whom a rule names, named ports by identity, and the port of a direction's and
    parser's proxy.
    """

    select: Callable[[Whom], Set[int]]
    named: Mapping[int, Mapping[NamedPort, int]]
    proxy: Callable[[Direction, str], int]


class SpecEntries:
    """One spec's entries, made when they are first asked for, until `invalidate`.

    `ids` are the numbers of the parts of its policy's rules, by path. Compared by identity: a
    changed spec is another one.
    """

    def __init__(self, policy: Policy, spec: Spec, ids: Mapping[str, int], peers: Peers) -> None:
        self.policy = policy
        self.spec = spec
        self._ids = ids
        self._peers = peers
        self._made: dict[tuple[Direction, tuple[NamedPort, ...]], tuple[Entries, ...]] = {}
        parts = [(rule, part) for rule in spec.rules for part in rule.ports]
        names = {rule.direction for rule, part in parts if part.name}
        self.uses_own_names = Direction.INGRESS in names
        self.uses_peer_names = Direction.EGRESS in names
        self.proxies = {(r.direction, part.parser) for r, part in parts if _redirects(r, part)}

    @property
    def peers(self) -> set[Whom]:
        """Return whom its rules name."""
        found = {peer.whom for rule in self.spec.rules for peer in rule.peers}
        return {whom for whom in found if whom is not None}

    def invalidate(self) -> None:
        """Note that whom its rules name, or their named ports, has changed."""
        self._made.clear()

    def size(self, own: tuple[NamedPort, ...]) -> int:
        """Return how many entries it asks for."""
        return sum(len(level) for way in DIRECTIONS for level in self.levels(way, own))

    def levels(
        self, way: Direction, own: tuple[NamedPort, ...], only: Only = None
    ) -> tuple[Entries, ...]:
        """Return its entries for a subject that names these ports, the lowest precedence first.

        An ordinary spec has a level for each of enum policy_precedence. One of another tier has a
        level for each rule, and its entries have no precedence yet.
        """
        make = self._by_precedence if self.policy.tier is Tier.NORMAL else self._by_rule
        named = own if self.uses_own_names and way is Direction.INGRESS else ()
        if only is not None:
            return make(way, named, only)
        key = way, named
        if key not in self._made:
            self._made[key] = make(way, named, None)
        return self._made[key]

    def _by_precedence(
        self, way: Direction, own: tuple[NamedPort, ...], only: Only
    ) -> tuple[Entries, ...]:
        levels: tuple[Entries, Entries, Entries] = ({}, {}, {})
        for rule in reversed(self.spec.rules):
            if rule.direction is not way:
                continue
            peers = self._identities(rule, only)
            if peers is not None and not peers:
                continue
            for part in reversed(rule.parts):
                rank = _precedence(rule, part)
                value = self._value(rule, part, rank)
                levels[rank - 1].update(
                    dict.fromkeys(self._keys(rule, part, peers, own, only), value)
                )
        return levels

    def _by_rule(
        self, way: Direction, own: tuple[NamedPort, ...], only: Only
    ) -> tuple[Entries, ...]:
        levels: list[Entries] = []
        for rule in reversed(self.spec.rules):
            if rule.direction is not way:
                continue
            peers = self._identities(rule, only)
            level: Entries = {}
            for part in reversed(rule.parts):
                value = self._value(rule, part, 0)
                level.update(dict.fromkeys(self._keys(rule, part, peers, own, only), value))
            levels.append(level)
        return tuple(levels)

    def _value(self, rule: Rule, part: PortSpec, precedence: int) -> bytes:
        port = self._peers.proxy(rule.direction, part.parser) if _redirects(rule, part) else 0
        flags = _ACTION[rule.action]
        return abi.PolicyEntry(self._ids[part.path], port, flags, precedence=precedence).pack()

    def _identities(self, rule: Rule, only: Only) -> set[int] | None:
        """Return whom a rule names; None: anyone."""
        found: set[int] = set()
        for peer in rule.peers:
            if peer.whom is None:
                return None
            named = self._peers.select(peer.whom)
            found |= named if only is None else only & named
        return found

    def _keys(
        self,
        rule: Rule,
        part: PortSpec,
        peers: set[int] | None,
        own: tuple[NamedPort, ...],
        only: Only,
    ) -> list[bytes]:
        way = rule.direction
        if part.name and way is Direction.EGRESS:
            # A name means what it means at the peer, so even a rule for anyone names identities.
            named = self._peers.named
            numbers = named if only is None else only & named.keys()
            return [
                number.to_bytes(4, "little") + tail
                for number in (numbers if peers is None else peers)
                for tail in named_suffixes(part, way, named.get(number, ()))
            ]
        tails = named_suffixes(part, way, own) if part.name else port_suffixes(part, way)
        heads = (
            _heads(frozenset(peers)) if peers is not None else () if only is not None else (ANYONE,)
        )
        return [head + tail for tail in tails for head in heads]


@lru_cache(maxsize=16)
def _heads(peers: frozenset[int]) -> tuple[bytes, ...]:
    """Return identities as keys begin with them, in order: many rules name the same peers."""
    return tuple(sorted([number.to_bytes(4, "little") for number in peers]))


def _redirects(rule: Rule, part: PortSpec) -> bool:
    return bool(part.parser) and rule.action is Action.ALLOW


def _precedence(rule: Rule, part: PortSpec) -> PolicyPrecedence:
    if rule.deny:
        return PolicyPrecedence.DENY
    return PolicyPrecedence.REDIRECT if _redirects(rule, part) else PolicyPrecedence.ALLOW
