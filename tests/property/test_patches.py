"""Policy maps that change in place: every packet is judged as before the change or as after it.

A lookup reads one key at a time, and entries come one at a time, so what it reads can be of two
moments. All of these are tried: it reads some keys at one moment and the others at a later one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from fimbria.compile.contents import Content
from fimbria.compile.ids import LOCKED, PolicyMap
from fimbria.compile.patches import changes
from fimbria.compile.stages import Stage, uncovered
from fimbria.datapath.abi import Direction, PolicyEntry, PolicyEntryFlags, PolicyIds, PolicyKey
from fimbria.datapath.lookup import Asked, policy_lookup

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fimbria.compile.contents import Entries
    from fimbria.compile.ids import Changes

NEWCOMER, OTHER = 300, 301
FLAGS = int(Direction.INGRESS) | int(Direction.INGRESS) << 2
"""Ingress is enforced, and open: what the map does not decide is for the next one, which denies."""
TIER = 5
SHAPES = ((0, 0, 0), (0, 6, 1), (80, 6, 16), (80, 6, 17), (81, 6, 17), (0, 17, 1), (53, 17, 17))
"""Port, protocol and shape of keys, of which some cover others."""
PACKETS = ((6, 80), (6, 81), (6, 9), (17, 53), (17, 9), (1, 0))
ACTIONS = (
    PolicyEntry(),
    PolicyEntry(proxy_port=10_000),
    PolicyEntry(flags=int(PolicyEntryFlags.DENY)),
    PolicyEntry(flags=int(PolicyEntryFlags.PASS)),
)
rules = st.lists(
    st.tuples(
        st.sampled_from(ACTIONS),
        st.sampled_from([0, NEWCOMER, NEWCOMER]),
        st.sets(st.sampled_from(SHAPES), min_size=1, max_size=3),
    ),
    max_size=5,
)


@dataclass
class Moments(Mapping[bytes, bytes]):
    """Entries at several moments: the first `switch` reads are at moment `one`, then `two`."""

    states: list[Entries]
    one: int = 0
    two: int = 0
    switch: int = 0
    reads: int = 0

    def __getitem__(self, key: bytes) -> bytes:
        self.reads += 1
        return self.states[self.one if self.reads <= self.switch else self.two][key]

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.states[self.two])

    def __len__(self) -> int:
        return len(self.states[self.two])


def tier(found: list[tuple[PolicyEntry, int, set[tuple[int, int, int]]]]) -> Entries:
    """The rules' entries as the compiler ranks and prunes them, and somebody with all shapes."""
    levels: list[Entries] = [
        {
            PolicyKey(identity, *shape).pack(): action._replace(
                rule_id=rank, precedence=rank
            ).pack()
            for shape in shapes
        }
        for rank, (action, identity, shapes) in enumerate(found, 1)
    ]
    others = {PolicyKey(OTHER, *shape).pack(): PolicyEntry().pack() for shape in SHAPES}
    return {**uncovered(levels), **others}


def of(entries: Entries, identity: int) -> Entries:
    head = identity.to_bytes(4, "little")
    return {key: value for key, value in entries.items() if key[:4] == head}


def moments(start: Entries, patch: Changes) -> list[Entries]:
    """A map after each of a patch's changes."""
    found = [dict(start)]
    for key, value in patch.items():
        after = dict(found[-1])
        if value is None:
            del after[key]
        else:
            after[key] = value
        found.append(after)
    return found


def verdict(info: bytes, states: Moments, protocol: int, port: int) -> tuple[int, int]:
    """What becomes of the newcomer's packet: verdict and proxy port."""
    states.reads = 0
    held = {TIER: PolicyMap(info, states), int(PolicyIds.LOCKED): LOCKED}
    hit = policy_lookup(held, TIER, Asked(NEWCOMER, Direction.INGRESS, protocol, port))
    return hit.verdict, hit.proxy_port


def check(info: bytes, states: list[Entries]) -> None:
    """Every packet, read at any two moments, is judged as at the first or as at the last."""
    for protocol, port in PACKETS:
        ends = {verdict(info, Moments([one]), protocol, port) for one in (states[0], states[-1])}
        for one, two in combinations_with_replacement(range(len(states)), 2):
            for switch in range(2 * len(SHAPES)):
                seen = Moments(states, one, two, switch)
                found = verdict(info, seen, protocol, port)
                assert found in ends, (protocol, port, one, two, switch)
                if switch >= seen.reads:
                    break


@settings(max_examples=200, deadline=None)
@given(rules)
def test_no_packet_sees_half_of_a_patch(
    found: list[tuple[PolicyEntry, int, set[tuple[int, int, int]]]],
) -> None:
    """An identity comes and goes; what would show is not patched, what is alike always is."""
    whole = tier(found)
    bucket = of(whole, NEWCOMER)
    without = {key: value for key, value in whole.items() if key not in bucket}
    info = Stage(FLAGS, whole).policy(int(PolicyIds.LOCKED)).info
    before, after = Content(PolicyMap(info, without)), Content(PolicyMap(info, whole))
    coming = changes(before, Stage(FLAGS, bucket), {NEWCOMER}, gone=lambda _: False)
    if coming is None:
        assert len({value[4:7] for value in bucket.values()}) > 1
    else:
        before.patch(coming)
        assert before.policy == after.policy
        assert before.mark == after.mark
        check(info, moments(without, coming))
    stays = changes(after, Stage(FLAGS, {}), {NEWCOMER}, gone=lambda _: False)
    assert bool(bucket) is (stays is None), "an identity that is still there lost its entries"
    going = changes(after, Stage(FLAGS, {}), {NEWCOMER}, gone=lambda _: True)
    assert going is not None
    after.patch(going)
    assert after.policy == PolicyMap(info, without)
    assert after.bucket(NEWCOMER) == {}
    check(info, moments(whole, going))
