"""Policy maps that follow identities in place.

    identities that came or went ─► their buckets, old and new ─► changes of a map, if all agree

Pods with new labels come all the time, and whoever's rules name them gets a few entries more. A
map changes in place only where no packet can tell: each is judged as before the change or as after
it, though a lookup reads one key at a time. So a map is patched only by whole buckets (all entries
of one identity), into where none was or of identities that are gone, and if everybody who uses the
map wants the same. Everything else makes a new map, to which references are switched.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from fimbria.compile.contents import HEAD, SHAPE
from fimbria.compile.stages import widened
from fimbria.datapath.abi import PolicyInfo, PolicyShape

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

    from fimbria.compile.contents import Content, Entries
    from fimbria.compile.ids import Changes
    from fimbria.compile.stages import Stage

    Wishes = Mapping[int, Changes]
    """What a unit wants to change of its maps, by policy id."""

Unit = TypeVar("Unit")
_ACTION = slice(4, 7)
"""Proxy port and flags in struct policy_entry."""


def changes(
    content: Content, wanted: Stage, identities: Set[int], gone: Callable[[int], bool]
) -> Changes | None:
    """Return what makes the buckets of `identities` in a map those of `wanted`, which has no other.

    None if the map must not be patched with it. `gone`: nobody has this identity any more.
    """
    if wanted.flags != PolicyInfo.unpack(content.policy.info).flags:
        return None
    buckets: dict[bytes, Entries] = {}
    for key, value in wanted.entries.items():
        buckets.setdefault(key[HEAD], {})[key] = value
    found: dict[bytes, bytes | None] = {}
    for identity in sorted(identities):
        have, want = content.bucket(identity), buckets.get(identity.to_bytes(4, "little"), {})
        if have == want:
            continue
        if have:
            if want or not gone(identity):
                return None
            # Wide keys first: who no longer finds a narrow one must not find what it hid.
            found.update(dict.fromkeys(sorted(have, key=_width)))
        elif _alike(want):
            found.update(want)
        else:
            return None
    return found if content.fits(found) else None


def agreed(
    wishes: Mapping[Unit, Wishes | None], users: Mapping[Unit, Set[int]]
) -> tuple[dict[int, Changes], set[Unit]]:
    """Return the changes that all users of a map want, and the units that must go another way.

    `wishes` are of the units that something has changed for, None if it is more than patches;
    `users` are all units with the ids of the maps that they use.
    """
    wanted: dict[int, Changes] = {}
    disputed: set[int] = set()
    for unit, numbers in users.items():
        wish = wishes.get(unit, {})
        for number in numbers:
            one = wish.get(number, {}) if wish is not None else None
            if one is None or wanted.setdefault(number, one) != one:
                disputed.add(number)
    patches = {number: one for number, one in wanted.items() if one and number not in disputed}
    others = {
        unit for unit, wish in wishes.items() if wish is None or not disputed.isdisjoint(wish)
    }
    return patches, others


def _alike(bucket: Entries) -> bool:
    """Return whether entries that one packet can hit all do the same.

    A lookup under way can miss a narrow key that was not there yet and hit the wider one that came
    with it.
    """
    if len({value[_ACTION] for value in bucket.values()}) == 1:
        return True
    widths = {_width(key) for key in bucket}
    wider = (
        (value, bucket.get(widened(key, width)))
        for key, value in bucket.items()
        for width in widths
        if width < _width(key)
    )
    return all(wide is None or wide[_ACTION] == value[_ACTION] for value, wide in wider)


def _width(key: bytes) -> int:
    """Return how much of protocol and port a key names."""
    return key[SHAPE] & ~PolicyShape.EGRESS
