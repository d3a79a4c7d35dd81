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
from fimbria.model.policy import Direction, Enforcement, Rule, Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence, Set

    from fimbria.compile.state import NamedPort
    from fimbria.model.selector import Selector

Entries = dict[bytes, bytes]
ANYONE = bytes(4)
_WAY = int(abi.PolicyShape.EGRESS)
_LOCALHOST = abi.PolicyEntry(int(abi.RuleIds.ALLOW_LOCALHOST)).pack()
_ALLOW_ALL = abi.PolicyEntry(int(abi.RuleIds.ALLOW_ALL)).pack()
_LOCALHOST_KEY = int(abi.Identity.HOST).to_bytes(4, "little") + any_suffix(Direction.INGRESS)


@dataclass(frozen=True)
class PolicyTooLarge(Exception):
    """A policy that does not fit into a map of `limit` entries; the identity keeps its old one."""

    identity: int
    have: int
    limit: int

    def __str__(self) -> str:
        return (
            f"identity {self.identity}: its policy needs {self.have} entries, "
            f"bpf-policy-map-max allows {self.limit}"
        )


@dataclass(frozen=True, slots=True)
class Peers:
    """What rules are resolved with: identities by selector, and named ports by identity."""

    select: Callable[[Selector], Set[int]]
    named: Mapping[int, Set[NamedPort]]


class SpecEntries:
    """One spec's entries, made when they are first asked for, until `invalidate`.

    `ids`: the number of each rule by its path. Compared by identity: a changed spec is another."""

    def __init__(self, spec: Spec, ids: Mapping[str, int], peers: Peers) -> None:
        self.spec = spec
        self._ids = ids
        self._peers = peers
        self._made: dict[tuple[NamedPort, ...], tuple[Entries, Entries]] = {}
        self.uses_own_names = any(
            port.name
            for rule in spec.rules
            if rule.direction is Direction.INGRESS
            for port in rule.ports or ()
        )
        self.uses_peer_names = any(
            port.name
            for rule in spec.rules
            if rule.direction is Direction.EGRESS
            for port in rule.ports or ()
        )

    def invalidate(self) -> None:
        """Who its selectors select, or their named ports, has changed."""
        self._made.clear()

    def entries(self, own: tuple[NamedPort, ...]) -> tuple[Entries, Entries]:
        """Its allow and its deny entries for a subject with these named ports."""
        key = own if self.uses_own_names else ()
        made = self._made.get(key)
        if made is None:
            allow: Entries = {}
            deny: Entries = {}
            for rule in reversed(self.spec.rules):
                flags = int(abi.PolicyEntryFlags.DENY) if rule.deny else 0
                entry = abi.PolicyEntry(self._ids[rule.path], flags=flags).pack()
                keys = rule_keys(rule, self._peers, key)
                (deny if rule.deny else allow).update(dict.fromkeys(keys, entry))
            made = self._made[key] = allow, deny
        return made


def rule_keys(rule: Rule, peers: Peers, own: tuple[NamedPort, ...]) -> list[bytes]:
    """All keys of a rule. A rule that includes anyone needs no keys of single identities."""
    direction = rule.direction
    identities = _identities(rule, peers)
    if rule.ports is None:
        tails: set[bytes] = {any_suffix(direction)}
    else:
        tails = {
            tail for port in rule.ports if not port.name for tail in port_suffixes(port, direction)
        }
    names = [port for port in rule.ports or () if port.name]
    if names and direction is Direction.INGRESS:
        tails.update(t for port in names for t in named_suffixes(port, direction, own))
    heads = [ANYONE] if identities is None else [i.to_bytes(4, "little") for i in identities]
    keys = [head + tail for head in heads for tail in tails]
    if names and direction is Direction.EGRESS:
        # A name means what it means at the peer, so even a rule for anyone names identities.
        for identity in peers.named if identities is None else identities:
            named = peers.named.get(identity, frozenset())
            head = identity.to_bytes(4, "little")
            keys += [head + t for port in names for t in named_suffixes(port, direction, named)]
    return keys


def _identities(rule: Rule, peers: Peers) -> Set[int] | None:
    """Whom a rule names; None: anyone."""
    if rule.peers is None or any(peer.anyone for peer in rule.peers):
        return None
    found: set[int] = set()
    for peer in rule.peers:
        found |= peer.identities
        if peer.selector is not None:
            found |= peers.select(peer.selector)
    return found


def enforced(
    specs: Iterable[Spec], enforcement: Enforcement, is_init: bool
) -> dict[Direction, bool]:
    """The directions that are enforced, and whether each denies by default.

    reserved:init is always enforced, unless nothing is. (Cilium, enable-policy.)"""
    if enforcement is Enforcement.NEVER:
        return {}
    if enforcement is Enforcement.ALWAYS or is_init:
        return dict.fromkeys(Direction, True)
    found: dict[Direction, bool] = {}
    for spec in specs:
        for direction in spec.sections:
            found[direction] = found.get(direction, False) or direction in spec.default_deny
    return found


def merge(
    specs: Sequence[SpecEntries], directions: Mapping[Direction, bool], own: tuple[NamedPort, ...]
) -> PolicyMap:
    """The policy of whom these specs, in order, select. `directions` as `enforced` gives them."""
    allow: Entries = {}
    deny: Entries = {}
    for direction, denies in directions.items():
        if not denies:
            allow[ANYONE + any_suffix(direction)] = _ALLOW_ALL
    if Direction.INGRESS in directions:
        allow[_LOCALHOST_KEY] = _LOCALHOST
    for spec in reversed(specs) if directions else ():
        allows, denials = spec.entries(own)
        allow.update(allows)
        deny.update(denials)
    if deny:
        uncover(allow, deny)
        allow.update(deny)
    return PolicyMap(_info(directions, allow), allow)


def uncover(allow: Entries, deny: Mapping[bytes, bytes]) -> None:
    """Remove the allow entries that a deny entry of the same identity and direction covers."""
    shapes: dict[tuple[bytes, int], set[int]] = {}
    for key in deny:
        shapes.setdefault((key[:4], key[7] & _WAY), set()).add(key[7] & ~_WAY)
    covered = [
        key
        for key in allow
        for denied in (shapes.get((key[:4], key[7] & _WAY)),)
        if denied
        and any(shape <= key[7] & ~_WAY and widened(key, shape) in deny for shape in denied)
    ]
    for key in covered:
        del allow[key]


def widened(key: bytes, shape: int) -> bytes:
    """The key of a shorter shape that covers `key`."""
    port = int.from_bytes(key[4:6], "big") & PORT_MASKS[shape]
    protocol = key[6] if shape else 0
    return key[:4] + bytes((port >> 8, port & 0xFF, protocol, shape | key[7] & _WAY))


def _info(directions: Mapping[Direction, bool], entries: Entries) -> bytes:
    masks = {True: [0, 0], False: [0, 0]}
    for anyone, shape in {(key[:4] == ANYONE, key[7]) for key in entries}:
        masks[anyone][1 if shape & _WAY else 0] |= 1 << (shape & ~_WAY)
    (peer_in, peer_out), (any_in, any_out) = masks[False], masks[True]
    # Their numbers are those of enum policy_flags.
    flags = sum(int(direction) for direction in directions)
    return abi.PolicyInfo(flags, (peer_in, peer_out), (any_in, any_out)).pack()
