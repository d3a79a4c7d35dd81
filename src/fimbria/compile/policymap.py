"""Rules to the entries of policy maps.

    Spec -> SpecEntries: allow and deny entries, the same for everyone it selects
    selecting specs -> merge() -> PolicyMap

What the lookup relies on (docs/DESIGN.md, "Policy") is made here: in one identity's bucket no allow
is left that a deny of the same bucket covers, because the lookup stops at a bucket's first hit. For
equal keys a deny wins over an allow, otherwise the first rule in order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fimbria.compile.ids import PolicyMap
from fimbria.compile.ports import PORT_MASKS, any_suffix, named_suffixes, port_suffixes
from fimbria.datapath import abi
from fimbria.datapath.abi import Direction
from fimbria.model.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence, Set

    from fimbria.model.policy import NamedPort, PortSpec, Rule, Spec
    from fimbria.model.semantics import Enforcement

Entries = dict[bytes, bytes]
"""Keys and values of an inner policy map."""

ANYONE = bytes(4)
_WAY = int(abi.PolicyShape.EGRESS)
_LOCALHOST = abi.PolicyEntry(int(abi.RuleIds.ALLOW_LOCALHOST)).pack()
_ALLOW_ALL = abi.PolicyEntry(int(abi.RuleIds.ALLOW_ALL)).pack()
_LOCALHOST_KEY = int(abi.Identity.HOST).to_bytes(4, "little") + any_suffix(Direction.INGRESS)


@dataclass(frozen=True, slots=True)
class Peers:
    """What rules are resolved with: identities by selector, and named ports by identity."""

    select: Callable[[Selector], Set[int]]
    named: Mapping[int, Mapping[NamedPort, int]]


class SpecEntries:
    """One spec's entries, made when they are first asked for, until `invalidate`.

    `ids` are the numbers of its rules' parts by path. Compared by identity: a changed spec is
    another one.
    """

    def __init__(self, spec: Spec, ids: Mapping[str, int], peers: Peers) -> None:
        self.spec = spec
        self._ids = ids
        self._peers = peers
        self._made: dict[tuple[Direction, tuple[NamedPort, ...]], tuple[Entries, Entries]] = {}
        names = {r.direction for r in spec.rules for part in r.ports if part.name}
        self.uses_own_names = Direction.INGRESS in names
        self.uses_peer_names = Direction.EGRESS in names

    @property
    def selectors(self) -> set[Selector]:
        """Return the selectors of its peers."""
        found = {peer.whom for rule in self.spec.rules for peer in rule.peers}
        return {whom for whom in found if isinstance(whom, Selector)}

    def invalidate(self) -> None:
        """Note that whom its selectors select, or their named ports, has changed."""
        self._made.clear()

    def entries(self, way: Direction, own: tuple[NamedPort, ...]) -> tuple[Entries, Entries]:
        """Return its allow and its deny entries for a subject that names these ports."""
        key = way, own if self.uses_own_names and way is Direction.INGRESS else ()
        made = self._made.get(key)
        if made is None:
            made = self._made[key] = self._make(way, key[1])
        return made

    def _make(self, way: Direction, own: tuple[NamedPort, ...]) -> tuple[Entries, Entries]:
        allow: Entries = {}
        deny: Entries = {}
        for rule in reversed(self.spec.rules):
            if rule.direction is not way:
                continue
            flags = int(abi.PolicyEntryFlags.DENY) if rule.deny else 0
            target = deny if rule.deny else allow
            peers = self._identities(rule)
            for part in reversed(rule.parts):
                entry = abi.PolicyEntry(self._ids[part.path], flags=flags).pack()
                target.update(dict.fromkeys(self._keys(rule, part, peers, own), entry))
        return allow, deny

    def _identities(self, rule: Rule) -> set[int] | None:
        """Return whom a rule names; None: anyone."""
        found: set[int] = set()
        for peer in rule.peers:
            if peer.whom is None:
                return None
            if isinstance(peer.whom, Selector):
                found |= self._peers.select(peer.whom)
        return found

    def _keys(
        self, rule: Rule, part: PortSpec, peers: set[int] | None, own: tuple[NamedPort, ...]
    ) -> list[bytes]:
        way = rule.direction
        if part.name and way is Direction.EGRESS:
            # A name means what it means at the peer, so even a rule for anyone names identities.
            named = self._peers.named
            return [
                number.to_bytes(4, "little") + tail
                for number in (named if peers is None else peers)
                for tail in named_suffixes(part, way, named.get(number, ()))
            ]
        tails = named_suffixes(part, way, own) if part.name else port_suffixes(part, way)
        heads = [ANYONE] if peers is None else [number.to_bytes(4, "little") for number in peers]
        return [head + tail for head in heads for tail in tails]


def merge(
    specs: Sequence[SpecEntries],
    states: Mapping[Direction, Enforcement],
    own: tuple[NamedPort, ...],
) -> PolicyMap:
    """Return the policy of whom these specs, in order, select.

    `states` say how each direction is enforced; `own` are the ports that the subject names.
    """
    entries: Entries = {}
    for way, state in states.items():
        if not state.enforced:
            continue
        allow: Entries = {}
        deny: Entries = {}
        if way is Direction.INGRESS:
            allow[_LOCALHOST_KEY] = _LOCALHOST
        if not state.closed:
            if not state.default_deny:
                allow[ANYONE + any_suffix(way)] = _ALLOW_ALL
            for spec in reversed(specs):
                allows, denials = spec.entries(way, own)
                allow.update(allows)
                deny.update(denials)
        if deny:
            uncover(allow, deny)
            allow.update(deny)
        entries.update(allow)
    return PolicyMap(
        _info([way for way, state in states.items() if state.enforced], entries), entries
    )


def uncover(allow: Entries, deny: Mapping[bytes, bytes]) -> None:
    """Remove the allow entries that a deny entry of the same identity and direction covers."""
    shapes: dict[bytes, set[int]] = {}
    for key in deny:
        shapes.setdefault(key[:4], set()).add(key[7] & ~_WAY)
    covered = [
        key
        for key in allow
        if (denied := shapes.get(key[:4]))
        and any(shape <= key[7] & ~_WAY and widened(key, shape) in deny for shape in denied)
    ]
    for key in covered:
        del allow[key]


def widened(key: bytes, shape: int) -> bytes:
    """Return the key of a shorter shape that covers `key`."""
    port = int.from_bytes(key[4:6], "big") & PORT_MASKS[shape]
    protocol = key[6] if shape else 0
    return key[:4] + bytes((port >> 8, port & 0xFF, protocol, shape | key[7] & _WAY))


def _info(enforced: Iterable[Direction], entries: Entries) -> bytes:
    masks = {True: [0, 0], False: [0, 0]}
    for anyone, shape in {(key[:4] == ANYONE, key[7]) for key in entries}:
        masks[anyone][1 if shape & _WAY else 0] |= 1 << (shape & ~_WAY)
    (peer_in, peer_out), (any_in, any_out) = masks[False], masks[True]
    # The numbers of the directions are those of enum policy_flags.
    return abi.PolicyInfo(sum(enforced), (peer_in, peer_out), (any_in, any_out)).pack()
