"""CIDRs in use, the prefixes that they name, and the identities of these.

Every prefix that a CIDR names, exceptions included, has an identity of scope CIDR, with labels by
which selectors find it like any other; 0.0.0.0/0 and ::/0 are the world's own. A CIDR names the
identities of all prefixes that it covers. Where rules by CIDR may match the cluster's own addresses
(policy-cidr-match-mode), a prefix has a second identity for these, without labels: no selector
may take a pod for the world.

An address of the API server that is no node's is in use like a prefix that rules name, and has the
label of kube-apiserver besides those of the world.

A prefix that is no longer in use leaves in two steps. First its rows go, while policies still judge
its identity as what it is part of; then the identity goes (`settle`). In one step a packet could
meet the row of an identity that no policy knows any more, and pass where all around it is denied.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from fimbria.compile.localids import LocalIds
from fimbria.compile.prefixes import PrefixSet
from fimbria.datapath.abi import IdentityScope
from fimbria.model.identity import cidr_label, prefix_labels, world
from fimbria.model.peers import Cidr, Prefix, host_prefix

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Set

    from fimbria.compile.labelindex import LabelIndex
    from fimbria.compile.state import NodeConfig
    from fimbria.model.labels import Labels
    from fimbria.model.selector import Selector

Changed = set["Selector | Cidr"]
"""Parts of peers whose identities are others now."""

_WORLD, _MATCH = b"w", b"m"
"""First byte of a prefix's key in LocalIds: for the world's addresses, for the cluster's."""


class LocalIdentity(NamedTuple):
    """A prefix's identity. `match`: the one for addresses of the cluster."""

    number: int
    prefix: Prefix
    labels: Labels
    match: bool


class Cidrs:
    """Keeps `labels` up to date with the identities of prefixes. Other families have none."""

    def __init__(self, config: NodeConfig, labels: LabelIndex) -> None:
        self._dual = config.ipv4 and config.ipv6
        self._families = {size for size, on in ((4, config.ipv4), (16, config.ipv6)) if on}
        self._matching = bool(config.cidr_match)
        self._labels = labels
        self._ids = LocalIds(IdentityScope.CIDR)
        self._by_net: dict[Prefix, dict[Cidr, Set[Prefix]]] = {}
        """The CIDRs in use by what they cover, with their exceptions."""
        self._uses: Counter[Prefix] = Counter()
        self._leaving: set[Prefix] = set()
        self._servers: set[Prefix] = set()
        self._labelled: set[Prefix] = set()
        """Addresses of the API server outside the cluster, and those that were until `settle`."""
        self._dirty: set[Prefix] = set()
        self.prefixes = PrefixSet()
        """The prefixes in use, and those that are leaving."""

    def add(self, cidr: Cidr) -> Changed:
        """Take in a CIDR that is not there yet."""
        changed: Changed = set()
        for prefix in (cidr.net, *cidr.excepts):
            changed |= self._use(prefix)
        self._by_net.setdefault(cidr.net, {})[cidr] = frozenset(cidr.excepts)
        return changed

    def remove(self, cidr: Cidr) -> None:
        """Take out a CIDR that is there."""
        cidrs = self._by_net[cidr.net]
        del cidrs[cidr]
        if not cidrs:
            del self._by_net[cidr.net]
        for prefix in (cidr.net, *cidr.excepts):
            self._drop(prefix)

    def set_servers(self, ips: Iterable[bytes]) -> Changed:
        """Take up which addresses of the API server are outside the cluster."""
        changed: Changed = set()
        servers = {host_prefix(ip) for ip in ips}
        come, gone = servers - self._servers, self._servers - servers
        self._servers = servers
        self._labelled |= come
        for prefix in sorted(come):
            changed |= self._use(prefix) | self._relabel(prefix)
        for prefix in gone:
            self._drop(prefix)
        return changed

    def settle(self) -> Changed:
        """Take their identities from the prefixes that have left, once they have no rows."""
        changed: Changed = set()
        for prefix in self._leaving:
            changed |= self._touch(prefix)
            self.prefixes.remove(prefix)
            for key in self._keys(prefix):
                changed |= self._renumber(self._ids.remove(key))
        self._leaving.clear()
        former, self._labelled = self._labelled - self._servers, set(self._servers)
        for prefix in former:
            changed |= self._relabel(prefix)
        return changed

    def identities(self, cidr: Cidr) -> set[int]:
        """Return the identities that a CIDR in use names."""
        covered = self.prefixes.inside(cidr.net)
        if cidr.excepts:
            out = {prefix for net in cidr.excepts for prefix in self.prefixes.inside(net)}
            covered = [prefix for prefix in covered if prefix not in out]
        both = (n for p in covered for n in (self._number(p), self._ids.get(_key(_MATCH, p))))
        return {number for number in both if number is not None}

    def identity(self, prefix: Prefix) -> int | None:
        """Return the identity of addresses outside the cluster in a prefix; None: not in use."""
        return self._number(prefix) if self._in_use(prefix) else None

    def match_identity(self, prefix: Prefix) -> int | None:
        """Return the identity of addresses of the cluster in a prefix, if CIDRs can match such."""
        return self._ids.get(_key(_MATCH, prefix)) if self._in_use(prefix) else None

    def take_prefixes(self) -> set[Prefix]:
        """Return the prefixes that came, went, or got another number since the last call."""
        taken, self._dirty = self._dirty, set()
        return taken

    def local(self) -> list[LocalIdentity]:
        """Return the identities of prefixes, in order."""
        found: list[LocalIdentity] = []
        for key, number in self._ids.items():
            prefix, match = _prefix(key), key[:1] == _MATCH
            labels = (cidr_label(prefix),) if match else self._labels_of(prefix)
            found.append(LocalIdentity(number, prefix, labels, match))
        return sorted(found)

    def _in_use(self, prefix: Prefix) -> bool:
        return prefix in self.prefixes and prefix not in self._leaving

    def _number(self, prefix: Prefix) -> int | None:
        if not prefix.bits:
            return world(len(prefix.ip) * 8, dual_stack=self._dual)
        return self._ids.get(_key(_WORLD, prefix))

    def _labels_of(self, prefix: Prefix) -> Labels:
        apiserver = prefix in self._labelled
        return prefix_labels(prefix, dual_stack=self._dual, apiserver=apiserver)

    def _relabel(self, prefix: Prefix) -> Changed:
        """Take up that an address of the API server came or went: its labels are others."""
        number = self._ids.get(_key(_WORLD, prefix))
        return set() if number is None else set(self._labels.put(number, self._labels_of(prefix)))

    def _use(self, prefix: Prefix) -> Changed:
        """Count one more user of a prefix."""
        self._uses[prefix] += 1
        if self._uses[prefix] == 1 and len(prefix.ip) in self._families:
            return self._come(prefix)
        return set()

    def _drop(self, prefix: Prefix) -> None:
        """Count one user of a prefix less; without any it leaves."""
        self._uses[prefix] -= 1
        if self._uses[prefix]:
            return
        del self._uses[prefix]
        if prefix in self.prefixes:
            self._leaving.add(prefix)
            self._dirty.add(prefix)

    def _come(self, prefix: Prefix) -> Changed:
        """Take in a prefix that was not in use."""
        if prefix in self._leaving:
            self._leaving.discard(prefix)
            self._dirty.add(prefix)
            return set()
        self.prefixes.add(prefix)
        changed: Changed = set()
        for key in self._keys(prefix):
            changed |= self._renumber(self._ids.add(key))
        return changed | self._touch(prefix)

    def _keys(self, prefix: Prefix) -> Iterator[bytes]:
        if prefix.bits:  # without bits it is the world, which has a number
            yield _key(_WORLD, prefix)
        if self._matching:
            yield _key(_MATCH, prefix)

    def _renumber(self, old: dict[bytes, int | None]) -> Changed:
        """Take up that keys had the numbers `old` before."""
        changed: Changed = set()
        for key, number in old.items():
            if number is not None and key[:1] == _WORLD:
                changed |= self._labels.remove(number)
            if len(old) > 1:  # who has called does it for the first
                changed |= self._touch(_prefix(key))
        for key in old:
            number = self._ids.get(key)
            if number is not None and key[:1] == _WORLD:
                changed |= self._labels.put(number, self._labels_of(_prefix(key)))
        return changed

    def _touch(self, prefix: Prefix) -> set[Cidr]:
        """Note that a prefix came, goes, or has another number; return the CIDRs that cover it."""
        self._dirty.add(prefix)
        around = set(self.prefixes.around(prefix))
        return {
            cidr
            for net in around & self._by_net.keys()
            for cidr, out in self._by_net[net].items()
            if out.isdisjoint(around)
        }


def _key(kind: bytes, prefix: Prefix) -> bytes:
    return kind + bytes([prefix.bits]) + prefix.ip


def _prefix(key: bytes) -> Prefix:
    return Prefix(key[2:], key[1])
