"""Prefixes, their numbers, and whom every kind of peer stands for."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fimbria.compile.localids import LocalIds
from fimbria.compile.prefixes import PrefixSet
from fimbria.compile.selectors import SelectorCache
from fimbria.compile.state import NodeConfig
from fimbria.datapath.abi import Identity, IdentityScope
from fimbria.model.entities import entity
from fimbria.model.identity import cidr_label
from fimbria.model.peers import (
    GROUP_NAME,
    Cidr,
    CidrGroup,
    CidrGroups,
    Fqdn,
    Prefix,
    Service,
    Services,
    prefix,
)
from fimbria.model.selector import EVERYTHING, Selector, equals, exists, selector

if TYPE_CHECKING:
    from fimbria.model.peers import Whom

SCOPE = int(IdentityScope.CIDR)
WEB, DB = selector([equals("k8s:app", "web")]), selector([equals("k8s:app", "db")])


@st.composite
def nested(draw: st.DrawFn) -> Prefix:
    """Prefixes of both families over few bits, so that they nest and meet."""
    size = draw(st.sampled_from([4, 16]))
    bits = draw(st.integers(0, 5)) if draw(st.booleans()) else size * 8
    number = draw(st.integers(0, 31)) << size * 8 - 5
    host = size * 8 - bits
    return Prefix((number >> host << host).to_bytes(size, "big"), bits)


@given(st.sets(nested()), st.sets(nested()), nested())
def test_set_knows_inside_and_around(come: set[Prefix], go: set[Prefix], asked: Prefix) -> None:
    """What is inside a prefix and around it is what covers says, after any coming and going."""
    found = PrefixSet()
    for one in come:
        found.add(one)
    for one in come & go:
        found.remove(one)
    members = come - go
    assert set(found) == members
    assert len(found) == len(members)
    assert found.inside(asked) == sorted(m for m in members if asked.covers(m))
    assert set(found.around(asked)) == {m for m in members if m.covers(asked)}


keys = st.binary(min_size=1, max_size=1)


@given(st.lists(st.tuples(st.booleans(), keys), max_size=30))
def test_numbers_depend_on_the_keys_alone(steps: list[tuple[bool, bytes]]) -> None:
    """However crowded, the numbers are those of the keys added in any order; moves are told."""
    ids, held = LocalIds(SCOPE, 9), dict[bytes, int]()
    for add, key in steps:
        if add and key not in held and len(held) < 8:
            changed = ids.add(key)
        elif not add and key in held:
            changed = ids.remove(key)
        else:
            continue
        before = held
        held = dict(ids.items())
        moved = {k for k in before.keys() | held.keys() if before.get(k) != held.get(k)}
        assert changed == {k: before.get(k) for k in moved}
    fresh = LocalIds(SCOPE, 9)
    for key in sorted(held, reverse=True):
        fresh.add(key)
    assert dict(fresh.items()) == held
    assert all(SCOPE < number <= SCOPE + 9 for number in held.values())


def cache(**config: Any) -> SelectorCache[str]:
    found: SelectorCache[str] = SelectorCache(NodeConfig(**config))
    found.put(300, ("k8s:app=web",))
    found.put(301, ("k8s:app=db",))
    return found


def number(found: SelectorCache[str], text: str) -> int:
    held = found.cidrs.identity(prefix(text))
    assert held is not None
    return held


def cidr(text: str, *excepts: str) -> Cidr:
    return Cidr(prefix(text), tuple(prefix(out) for out in excepts))


def test_a_prefix_has_an_identity_as_long_as_it_is_named() -> None:
    """Exceptions, too; the number is of scope CIDR, the labels say the prefix and the world."""
    found = cache()
    found.use(cidr("10.0.0.0/8", "10.1.0.0/16"), "a")
    found.use(cidr("10.0.0.0/8"), "b")
    ten = number(found, "10.0.0.0/8")
    assert SCOPE < ten <= SCOPE + 0xFFFFFF
    labels = found.labels(ten)
    assert labels is not None
    assert labels.labels == ("cidr:10.0.0.0/8", "reserved:world")
    numbers = [number(found, text) for text in ("10.0.0.0/8", "10.1.0.0/16")]
    assert sorted(one.number for one in found.cidrs.local()) == sorted(numbers)
    found.drop(cidr("10.0.0.0/8", "10.1.0.0/16"), "a")
    assert found.cidrs.identity(prefix("10.1.0.0/16")) is None
    assert number(found, "10.0.0.0/8") == ten
    found.drop(cidr("10.0.0.0/8"), "b")
    found.settle()
    assert found.labels(ten) is None
    assert found.cidrs.local() == []


def test_a_prefix_that_comes_back_never_left() -> None:
    """Its row is decided again, its number is the same, nobody has to know."""
    found = cache()
    found.use(cidr("10.0.0.0/8"), "a")
    ten = number(found, "10.0.0.0/8")
    found.take_changed()
    found.cidrs.take_prefixes()
    found.drop(cidr("10.0.0.0/8"), "a")
    found.use(cidr("10.0.0.0/8"), "b")
    assert found.cidrs.take_prefixes() == {prefix("10.0.0.0/8")}
    found.settle()
    assert number(found, "10.0.0.0/8") == ten
    assert set(found.take_changed()) == set()


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("192.0.2.0/24", "cidr:192.0.2.0/24"),
        ("2001:db8:1:2:3:4:5:6", "cidr:2001-db8-1-2-3-4-5-6/128"),
        ("fd00::/8", "cidr:fd00--0/8"),
        ("::1", "cidr:0--1/128"),
    ],
)
def test_label_of_a_prefix(text: str, label: str) -> None:
    """Colons become dashes, none of them at an end."""
    assert cidr_label(prefix(text)) == label


def test_a_cidr_names_what_it_covers_and_its_exceptions_do_not() -> None:
    """As prefixes come and go, the users of all CIDRs around them are told, and no others.

    One that goes is named until its rows are gone.
    """
    found = cache()
    wide, holed, other = cidr("10.0.0.0/8"), cidr("10.0.0.0/8", "10.1.0.0/16"), cidr("11.0.0.0/8")
    for whom in (wide, holed, other):
        found.use(whom, str(whom))
    found.take_changed()
    inner, hidden = cidr("10.2.0.0/16"), cidr("10.1.2.3/32")
    found.use(inner, "x")
    assert set(found.take_changed()) == {wide, holed}
    found.use(hidden, "x")
    assert set(found.take_changed()) == {wide}
    texts = ["10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "10.1.2.3/32"]
    numbers = [number(found, text) for text in texts]
    assert found.identities(wide) == set(numbers)
    assert found.identities(holed) == {numbers[0], numbers[2]}
    found.drop(hidden, "x")
    assert found.cidrs.identity(hidden.net) is None
    assert set(found.take_changed()) == set()
    assert found.identities(wide) == set(numbers)
    found.settle()
    assert set(found.take_changed()) == {wide}
    assert found.identities(wide) == set(numbers[:3])


@pytest.mark.parametrize(
    ("config", "text", "world"),
    [
        ({}, "0.0.0.0/0", {Identity.WORLD}),
        ({}, "::/0", set[int]()),
        ({"ipv6": True}, "0.0.0.0/0", {Identity.WORLD_IPV4}),
        ({"ipv6": True}, "::/0", {Identity.WORLD_IPV6}),
        ({"ipv4": False, "ipv6": True}, "::/0", {Identity.WORLD}),
        ({}, "fd00::/8", set[int]()),
    ],
)
def test_everything_is_the_world(config: dict[str, Any], text: str, world: set[int]) -> None:
    """/0 is the world of its family. A family that is not in use has no prefixes."""
    found = cache(**config)
    found.use(cidr(text), "a")
    assert found.identities(cidr(text)) == world


def test_world_less_a_prefix() -> None:
    """An exception from /0 is an identity of its own that the CIDR does not name."""
    found = cache()
    whom = cidr("0.0.0.0/0", "10.0.0.0/8")
    found.use(whom, "a")
    found.use(cidr("9.0.0.0/8"), "b")
    assert found.identities(whom) == {Identity.WORLD, number(found, "9.0.0.0/8")}


def test_entity_world_has_all_prefixes() -> None:
    """The world is selected by label, also where it is known by prefix."""
    found = cache()
    (world, *_) = entity("world", "default")
    assert isinstance(world, Selector)
    found.use(world, "w")
    found.use(EVERYTHING, "e")
    assert found.identities(world) == {Identity.WORLD}
    found.use(cidr("10.0.0.0/8"), "a")
    assert set(found.take_changed()) == {world, EVERYTHING}
    assert found.identities(world) == {Identity.WORLD, number(found, "10.0.0.0/8")}


def test_match_mode_has_numbers_of_its_own() -> None:
    """What CIDRs see of the cluster's addresses is in no selector: a pod is not the world."""
    found = cache(cidr_match=frozenset({"pods"}))
    whom = cidr("0.0.0.0/0", "10.0.0.0/8")
    found.use(EVERYTHING, "e")
    found.use(whom, "a")
    all_of_it = found.cidrs.match_identity(prefix("0.0.0.0/0"))
    ten = found.cidrs.match_identity(prefix("10.0.0.0/8"))
    assert found.identities(whom) == {Identity.WORLD, all_of_it}
    assert ten is not None
    assert ten != number(found, "10.0.0.0/8")
    assert not {ten, all_of_it} & found.identities(EVERYTHING)
    assert {(str(one.prefix), one.match) for one in found.cidrs.local()} == {
        ("0.0.0.0/0", True), ("10.0.0.0/8", True), ("10.0.0.0/8", False),
    }  # fmt: skip


def test_groups_stand_for_their_prefixes() -> None:
    """A group that changes changes its users' identities; exceptions hold for every group."""
    found = cache()
    by_name = CidrGroups(selector([exists(f"{GROUP_NAME}/office")]), (prefix("10.9.0.0/16"),))
    by_label = CidrGroups(selector([equals("cidrgroup:kind", "site")]))
    for whom in (by_name, by_label):
        found.use(whom, "u")
        assert found.identities(whom) == set()

    def office(*texts: str) -> CidrGroup:
        labels = (f"{GROUP_NAME}/office", "cidrgroup:kind=site")
        return CidrGroup("office", labels, tuple(prefix(text) for text in texts))

    found.set_groups({"office": office("10.0.0.0/8", "192.0.2.0/24")})
    assert set(found.take_changed()) == {by_name, by_label}
    outer = {number(found, "10.0.0.0/8"), number(found, "192.0.2.0/24")}
    assert found.identities(by_name) == outer
    assert found.identities(by_label) == outer | {number(found, "10.9.0.0/16")}
    found.set_groups({"office": office("192.0.2.0/24")})
    assert set(found.take_changed()) == {by_name, by_label}
    assert found.identities(by_label) == {number(found, "192.0.2.0/24")}
    found.set_groups({"office": None})
    assert found.identities(by_label) == set()
    found.settle()
    assert found.cidrs.local() == []


def test_services_stand_for_pods_or_addresses() -> None:
    """With a selector its pods, without one its addresses; by name or by label."""
    found = cache()
    web = Service("shop", "web", ("k8s:team=a",), WEB)
    outside = Service("shop", "bank", (), None, (ip_address("203.0.113.9").packed,))
    by_name, bank = Services("web", "shop"), Services("bank", "shop")
    by_label = Services("", "", selector([equals("k8s:team", "a")]))
    whoms: list[Whom] = [by_name, bank, by_label]
    for whom in whoms:
        found.use(whom, "u")
    found.set_services({("shop", "web"): web, ("shop", "bank"): outside})
    assert set(found.take_changed()) == set(whoms)
    assert found.identities(by_name) == found.identities(by_label) == {300}
    assert found.identities(bank) == {number(found, "203.0.113.9/32")}
    found.put(302, ("k8s:app=web",))
    assert set(found.take_changed()) == {by_name, by_label}
    assert found.identities(by_name) == {300, 302}
    found.set_services({("shop", "web"): Service("shop", "web", (), DB)})
    assert found.identities(by_name) == {301}
    assert found.identities(by_label) == set()


def test_names_are_nobody() -> None:
    """No proxy has learned an address for a name."""
    found = cache()
    found.use(Fqdn("example.org"), "u")
    assert found.identities(Fqdn("example.org")) == set()
    assert [(users, numbers) for _, users, numbers in found.lines()] == [(1, frozenset())]


def test_users_come_and_go() -> None:
    """A peer is kept as long as somebody uses it; users are told of it, nobody of what is gone."""
    found = cache()
    found.use(WEB, "one")
    found.use(WEB, "two")
    found.drop(WEB, "one")
    found.put(302, ("k8s:app=web",))
    assert found.users(found.take_changed()) == {"two": {302}}
    found.remove(302)
    found.drop(WEB, "two")
    assert set(found.take_changed()) == set()
    assert list(found.lines()) == []
