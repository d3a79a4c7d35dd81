"""Rules to the entries of policy maps.

    Spec -> SpecEntries: levels of entries, by precedence, the same for everyone it selects
    specs of a tier that select a unit -> ordinary() or ordered() -> Stage, of all or of some
    stages, the last tier first -> Stage.policy() -> PolicyMap, each with the number of the next

What the lookup relies on (docs/DESIGN.md, "Precedence") is made here: in one identity's bucket no
entry is left that one of higher precedence covers, because the lookup stops at a bucket's first
hit. For equal keys of one precedence the first rule in order wins.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from functools import lru_cache
from itertools import compress
from operator import not_
from typing import TYPE_CHECKING

from fimbria.compile.ids import PolicyMap
from fimbria.compile.ports import PORT_MASKS, any_suffix, named_suffixes, port_suffixes
from fimbria.datapath import abi
from fimbria.datapath.abi import Direction, Identity, PolicyPrecedence
from fimbria.model.policy import DIRECTIONS, Action, Tier

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from fimbria.compile.contents import Entries
    from fimbria.model.peers import Whom
    from fimbria.model.policy import NamedPort, Policy, PortSpec, Rule, Spec
    from fimbria.model.semantics import Enforcement

Only = Set[int] | None
"""Identities whose entries are asked for; None: those of all, and for anyone."""

ANYONE = bytes(4)
_WAY = int(abi.PolicyShape.EGRESS)
_ACTION = {
    Action.ALLOW: 0,
    Action.DENY: int(abi.PolicyEntryFlags.DENY),
    Action.PASS: int(abi.PolicyEntryFlags.PASS),
}
_LOCALHOST = abi.PolicyEntry(
    int(abi.RuleIds.ALLOW_LOCALHOST), precedence=PolicyPrecedence.ALLOW
).pack()
_LOCALHOST_KEY = int(Identity.HOST).to_bytes(4, "little") + any_suffix(Direction.INGRESS)
_RANK = slice(8, 12)
"""Where the precedence stands in struct policy_entry."""


@dataclass(frozen=True, slots=True)
class Peers:
    """What rules are resolved with.

    Identities by whom a rule names, named ports by identity, and the port of a direction's and
    parser's proxy.
    """

    select: Callable[[Whom], Set[int]]
    named: Mapping[int, Mapping[NamedPort, int]]
    proxy: Callable[[Direction, str], int]


@dataclass(frozen=True, slots=True)
class Stage:
    """One tier's policy, not yet linked to the next: enum policy_flags, and entries."""

    flags: int
    entries: Entries

    @property
    def final(self) -> bool:
        """Return whether no packet gets past it to the next tier."""
        ways = sum(DIRECTIONS)
        return self.flags & (ways | ways << 2) == ways

    def policy(self, next_id: int) -> PolicyMap:
        """Return the map, with the number of the next tier's policy; 0 for none."""
        peers, anyone = _shapes(self.entries)
        info = abi.PolicyInfo(self.flags, _masks(peers), _masks(anyone), next_id)
        return PolicyMap(info.pack(), self.entries)


def _shapes(entries: Entries) -> tuple[set[int], set[int]]:
    """Return the shapes of the keys that name an identity, and of those for anyone.

    Maps have many thousands of keys, so no code of ours looks at each: a byte of `named` is the
    four bytes of a key's identity, or'ed.
    """
    keys = b"".join(entries)
    size = abi.PolicyKey.SIZE
    parts = [int.from_bytes(keys[at::size], "little") for at in range(len(ANYONE))]
    named = (parts[0] | parts[1] | parts[2] | parts[3]).to_bytes(len(entries), "little")
    shapes = keys[size - 1 :: size]
    return set(compress(shapes, named)), set(compress(shapes, map(not_, named)))


def _masks(shapes: Iterable[int]) -> tuple[int, int]:
    """Return shapes as bits, of ingress and of egress."""
    ingress = egress = 0
    for shape in shapes:
        if shape & _WAY:
            egress |= 1 << (shape & ~_WAY)
        else:
            ingress |= 1 << shape
    return ingress, egress


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


def ordinary(
    specs: Sequence[SpecEntries],
    states: Mapping[Direction, Enforcement],
    own: tuple[NamedPort, ...],
    *,
    localhost: bool,
    only: Only = None,
) -> Stage:
    """Return the ordinary tier for whom these specs, in order, select.

    `states` say how each direction is enforced; `own` are the ports that the subject names.
    `localhost`: the node may reach it.
    """
    entries: Entries = {}
    flags = 0
    for way, state in states.items():
        if not state.enforced:
            continue
        # Of enum policy_flags the directions' have the numbers of the directions, OPEN is above.
        flags |= way if state.default_deny or state.closed else way | way << 2
        levels: list[Entries] = [{} for _ in PolicyPrecedence]
        node = only is None or Identity.HOST in only
        if localhost and node and way is Direction.INGRESS:
            levels[0][_LOCALHOST_KEY] = _LOCALHOST
        # Where a refused policy closes, only denials are still heard: the node keeps to them too.
        heard = slice(PolicyPrecedence.DENY - 1 if state.closed else 0, None)
        for spec in reversed(specs):
            for level, more in zip(levels[heard], spec.levels(way, own, only)[heard], strict=True):
                level.update(more)
        entries.update(uncovered(levels))
    return Stage(flags, entries)


def ordered(specs: Sequence[SpecEntries], own: tuple[NamedPort, ...], only: Only = None) -> Stage:
    """Return an ordered tier for whom these specs, the first asked first, select.

    A direction is enforced if any rule is about it, and open.
    """
    entries: Entries = {}
    flags = 0
    for way in DIRECTIONS:
        levels = [level for spec in reversed(specs) for level in spec.levels(way, own, only)]
        if levels:
            flags |= way | way << 2
            entries.update(uncovered(_ranked(levels)))
    return Stage(flags, entries)


def _ranked(levels: Iterable[Entries]) -> list[Entries]:
    """Return levels whose entries have their place as precedence, from 1."""
    found: list[Entries] = []
    for rank, level in enumerate(levels, 1):
        number = rank.to_bytes(4, "little")
        found.append(
            {
                key: value[: _RANK.start] + number + value[_RANK.stop :]
                for key, value in level.items()
            }
        )
    return found


def uncovered(levels: Sequence[Entries]) -> Entries:
    """Merge levels of rising precedence, without what an entry of a higher one covers."""
    merged: Entries = {}
    shapes: dict[bytes, set[int]] = {}
    for level in reversed(levels):
        kept = level
        if shapes:
            kept = {
                key: value
                for key, value in level.items()
                if not ((above := shapes.get(key[:4])) and _covered(key, above, merged))
            }
        merged.update(kept)
        if level is not levels[0]:
            for key in kept:
                shapes.setdefault(key[:4], set()).add(key[7] & ~_WAY)
    return merged


def _covered(key: bytes, shapes: Iterable[int], above: Entries) -> bool:
    own = key[7] & ~_WAY
    return any(shape <= own and widened(key, shape) in above for shape in shapes)


def widened(key: bytes, shape: int) -> bytes:
    """Return the key of a shorter shape that covers `key`."""
    port = int.from_bytes(key[4:6], "big") & PORT_MASKS[shape]
    protocol = key[6] if shape else 0
    return key[:4] + bytes((port >> 8, port & 0xFF, protocol, shape | key[7] & _WAY))
