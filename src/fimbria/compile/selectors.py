"""Which identities the peers of rules name, kept up to date as everything they rest on changes.

    Whom in use ──► parts: label selectors ──► LabelIndex ◄── identities with their labels
                      └──► CIDRs ──► Cidrs: prefixes ──────────────┘

A Whom is a union of parts. A group stands for its prefixes and a Service for its pods or addresses,
as they are now.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from fimbria.compile.cidrs import Cidrs
from fimbria.compile.labelindex import LabelIndex
from fimbria.model.labels import LabelSet
from fimbria.model.matching import named_services
from fimbria.model.peers import Cidr, CidrGroups, Context, Services, host_prefix
from fimbria.model.selector import Selector

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Set

    from fimbria.compile.state import NodeConfig
    from fimbria.model.labels import Labels
    from fimbria.model.peers import CidrGroup, Service, ServiceKey, Whom

K = TypeVar("K")
V = TypeVar("V")
User = TypeVar("User")
Part = Selector | Cidr
Numbers = set[int] | None
"""Identities that came, went, or have other labels; None: any may have."""


class SelectorCache(Generic[User]):
    """Everyone whom rules name, with the users, and the identity numbers of each.

    Any call can change the identities of many: who has changed is kept until `take_changed`.
    """

    def __init__(self, config: NodeConfig) -> None:
        self._index = LabelIndex()
        self.cidrs = Cidrs(config, self._index)
        self._users: dict[Whom, set[User]] = {}
        self._parts: dict[Whom, frozenset[Part]] = {}
        self._wholes: dict[Part, set[Whom]] = {}
        self._changed: dict[Whom, Numbers] = {}
        self._groups: dict[str, CidrGroup] = {}
        self._services: dict[ServiceKey, Service] = {}

    def use(self, whom: Whom, user: User) -> None:
        """Note a user of a peer."""
        self._users.setdefault(whom, set()).add(user)
        if whom not in self._parts:
            self._parts[whom] = frozenset()
            self._set_parts(whom, self._parts_of(whom))
            self._changed.pop(whom, None)

    def drop(self, whom: Whom, user: User) -> None:
        """Forget a user, and the peer with its last one."""
        users = self._users.get(whom)
        if users is None:
            return
        users.discard(user)
        if not users:
            self._set_parts(whom, frozenset())
            del self._users[whom], self._parts[whom]
            self._changed.pop(whom, None)

    def identities(self, whom: Whom) -> Set[int]:
        """Return the identities of a peer in use, as of now."""
        parts = self._parts[whom]
        if len(parts) == 1:
            (part,) = parts
            return self._identities(part)
        return {number for part in parts for number in self._identities(part)}

    def labels(self, number: int) -> LabelSet | None:
        """Return an identity's labels, None if it is not known."""
        return self._index.labels(number)

    def put(self, number: int, labels: Labels) -> None:
        """Take up an identity or its new labels."""
        self._note(self._index.put(number, labels), {number})

    def remove(self, number: int) -> None:
        """Forget an identity; a reserved one gets its own labels again."""
        self._note(self._index.remove(number), {number})

    def set_groups(self, changes: Mapping[str, CidrGroup | None]) -> None:
        """Take up CIDR groups; None for one that is gone."""
        _apply(self._groups, changes)
        if changes:
            self._look_again(CidrGroups)

    def set_services(self, changes: Mapping[ServiceKey, Service | None]) -> None:
        """Take up Services; None for one that is gone."""
        _apply(self._services, changes)
        if changes:
            self._look_again(Services)

    def set_servers(self, ips: Iterable[bytes]) -> None:
        """Take up which addresses of the API server are outside the cluster."""
        self._note(self.cidrs.set_servers(ips))

    def settle(self) -> None:
        """Let the prefixes go that have left, once no address has their identity."""
        self._note(self.cidrs.settle())

    def take_changed(self) -> dict[Whom, Numbers]:
        """Return the peers whose identities changed since the last call, and which of them."""
        taken, self._changed = self._changed, {}
        return taken

    def users(self, changed: Mapping[Whom, Numbers]) -> dict[User, Numbers]:
        """Return everyone who uses one of these, with the identities that changed for them."""
        found: dict[User, Numbers] = {}
        for whom, numbers in changed.items():
            for user in self._users.get(whom, ()):
                merge(found, user, numbers)
        return found

    def lines(self) -> Iterator[tuple[Whom, int, frozenset[int]]]:
        """Yield peer, number of users, identities."""
        for whom, users in self._users.items():
            yield whom, len(users), frozenset(self.identities(whom))

    def _parts_of(self, whom: Whom) -> frozenset[Part]:
        """Return what a peer stands for now."""
        if isinstance(whom, Selector | Cidr):
            return frozenset((whom,))
        if isinstance(whom, CidrGroups):
            return frozenset(
                Cidr(net, whom.excepts)
                for group in self._groups.values()
                if whom.selector.matches(LabelSet(group.labels))
                for net in group.prefixes
            )
        if isinstance(whom, Services):
            services = named_services(whom, Context(services=self._services))
            pods = [s.selector for s in services if s.selector is not None]
            addresses = [ip for s in services if s.selector is None for ip in s.backends]
            return frozenset((*pods, *(Cidr(host_prefix(ip)) for ip in addresses)))
        return frozenset()  # no proxy has learned an address for a name yet

    def _look_again(self, kind: type[CidrGroups | Services]) -> None:
        for whom in [whom for whom in self._parts if isinstance(whom, kind)]:
            self._set_parts(whom, self._parts_of(whom))

    def _set_parts(self, whom: Whom, parts: frozenset[Part]) -> None:
        """Replace a peer's parts."""
        old = self._parts[whom]
        if old == parts:
            return
        for part in parts - old:
            if part not in self._wholes:
                self._wholes[part] = set()
                if isinstance(part, Selector):
                    self._index.add(part)
                else:
                    self._note(self.cidrs.add(part))
            self._wholes[part].add(whom)
        self._parts[whom] = parts
        for part in old - parts:
            self._wholes[part].discard(whom)
            if not self._wholes[part]:
                del self._wholes[part]
                if isinstance(part, Selector):
                    self._index.discard(part)
                else:
                    self.cidrs.remove(part)
        self._changed[whom] = None

    def _identities(self, part: Part) -> Set[int]:
        if isinstance(part, Selector):
            return self._index.identities(part)
        return self.cidrs.identities(part)

    def _note(self, parts: Iterable[Part], numbers: Numbers = None) -> None:
        """Note that parts have other identities now."""
        for part in parts:
            for whom in self._wholes[part]:
                merge(self._changed, whom, numbers)


def merge(found: dict[K, Numbers], key: K, numbers: Numbers) -> None:
    """Add to the identities that are noted for a key."""
    have = found.setdefault(key, set())
    found[key] = None if have is None or numbers is None else have | numbers


def _apply(rows: dict[K, V], changes: Mapping[K, V | None]) -> None:
    for key, row in changes.items():
        if row is None:
            rows.pop(key, None)
        else:
            rows[key] = row
