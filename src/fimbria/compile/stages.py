"""Entries of specs to policy maps, one tier at a time.

    specs of a tier that select a unit -> ordinary() or ordered() -> Stage, of all or of some
    stages, the last tier first -> Stage.policy() -> PolicyMap, each with the number of the next

What the lookup relies on (docs/DESIGN.md, "Precedence") is made here: in one identity's bucket no
entry is left that one of higher precedence covers, because the lookup stops at a bucket's first
hit.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import compress
from operator import not_
from typing import TYPE_CHECKING

from fimbria.compile.ids import PolicyMap
from fimbria.compile.ports import PORT_MASKS, any_suffix
from fimbria.datapath import abi
from fimbria.datapath.abi import Direction, Identity, PolicyPrecedence
from fimbria.model.policy import DIRECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fimbria.compile.contents import Entries
    from fimbria.compile.specs import Only, SpecEntries
    from fimbria.model.policy import NamedPort
    from fimbria.model.semantics import Enforcement

_WAY = int(abi.PolicyShape.EGRESS)
_IDENTITY_SIZE = 4
_LOCALHOST = abi.PolicyEntry(
    int(abi.RuleIds.ALLOW_LOCALHOST), precedence=PolicyPrecedence.ALLOW
).pack()
_LOCALHOST_KEY = int(Identity.HOST).to_bytes(_IDENTITY_SIZE, "little") + any_suffix(
    Direction.INGRESS
)
_RANK = slice(8, 12)
"""Where the precedence stands in struct policy_entry."""


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
    parts = [int.from_bytes(keys[at::size], "little") for at in range(_IDENTITY_SIZE)]
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
