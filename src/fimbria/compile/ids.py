"""Stable numbers for rules and policy maps.

The allocators are state that the compiler is given: a rule keeps its number as long as it exists,
so that counters and explanations stay true, and equal policy maps have one number, which a map
keeps when it changes in place. Numbers of rules and of proxies start from a hash of the name, so an
agent that starts again finds the same ones; only names whose hashes collide can swap theirs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fimbria.compile.contents import Content
from fimbria.datapath import abi

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

    from fimbria.datapath.abi import Direction
    from fimbria.model.policy import PolicyKey

RULE_FIRST = int(abi.RuleIds.FIRST)
RULE_LIMIT = int(abi.RuleStatsLayout.ENTRIES)
POLICY_FIRST, POLICY_LIMIT = 2, 4096
SPARE = 16
"""Entries for which even the smallest policy map has room."""
PROXY_FIRST, PROXY_LIMIT = 10_000, 20_000


Changes = Mapping[bytes, "bytes | None"]
"""Entries of a policy map that come, and None for those that go."""


class OutOfIds(Exception):
    """All numbers of a kind are taken."""


@dataclass(frozen=True, slots=True)
class PolicyMap:
    """One policy as the kernel holds it: bytes of struct policy_info, and of the inner map.

    `room` is how many entries its map has place for; some more than it has, unless it is given,
    because entries of new identities are added in place. Then `entries` of a policy in use change,
    too: whoever wants to keep them copies them.
    """

    info: bytes
    entries: Mapping[bytes, bytes]
    room: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not self.room:
            size = len(self.entries)
            object.__setattr__(self, "room", size + size // 4 + SPARE)

    @property
    def next_id(self) -> int:
        """Return the number of the next tier's policy; 0 for none."""
        return abi.PolicyInfo.unpack(self.info).next_id

    def patched(self, changes: Changes) -> PolicyMap:
        """Return this policy with changed entries, in the same room."""
        entries = dict(self.entries)
        for key, value in changes.items():
            if value is None:
                del entries[key]
            else:
                entries[key] = value
        return PolicyMap(self.info, entries, self.room)


_BOTH = abi.PolicyFlags.INGRESS | abi.PolicyFlags.EGRESS
NONE = PolicyMap(abi.PolicyInfo().pack(), {})
LOCKED = PolicyMap(abi.PolicyInfo(flags=_BOTH).pack(), {})
BUILT_IN: dict[int, PolicyMap] = {
    int(abi.PolicyIds.NONE): NONE,
    int(abi.PolicyIds.LOCKED): LOCKED,
}
"""Policies that every node has: nothing enforced, and both directions closed."""

Rule = tuple["PolicyKey", str]
"""A policy's key and the path of the rule in it."""


class RuleIds:
    """(policy, path) <-> number from RULE_FIRST to RULE_LIMIT - 1."""

    def __init__(self) -> None:
        self._ids: dict[PolicyKey, dict[str, int]] = {}
        self._rules: dict[int, Rule] = {}

    def assign(self, key: PolicyKey, paths: Iterable[str]) -> dict[str, int]:
        """Return the numbers of a policy's rules; those of its paths that are gone become free.

        Raises OutOfIds, then having changed nothing.
        """
        old = self._ids.get(key, {})
        wanted = dict.fromkeys(paths)
        new = wanted.keys() - old.keys()
        if len(self._rules) + len(new) > RULE_LIMIT - RULE_FIRST:
            raise OutOfIds(f"{key}: all {RULE_LIMIT - RULE_FIRST} rule ids are taken")
        ids = {path: old[path] if path in old else self._take(key, path) for path in wanted}
        for path, number in old.items():
            if path not in ids:
                del self._rules[number]
        self._ids[key] = ids
        return ids

    def forget(self, key: PolicyKey) -> None:
        """Free the numbers of a policy that is gone."""
        for number in self._ids.pop(key, {}).values():
            del self._rules[number]

    def retain(self, keys: Iterable[PolicyKey]) -> None:
        """Free the numbers of all policies but these."""
        for key in self._ids.keys() - set(keys):
            self.forget(key)

    def __len__(self) -> int:
        return len(self._rules)

    def rule(self, number: int) -> Rule | None:
        """Return the rule with that number."""
        return self._rules.get(number)

    def _take(self, key: PolicyKey, path: str) -> int:
        number = _hashed((*key, path), RULE_FIRST, RULE_LIMIT, self._rules)
        self._rules[number] = key, path
        return number


Proxy = tuple["Direction", str]
"""The direction of the traffic that a proxy gets, and its parser."""


class ProxyPorts:
    """(direction, parser) <-> port from PROXY_FIRST to PROXY_LIMIT - 1 of the proxy."""

    def __init__(self) -> None:
        self._ports: dict[Proxy, int] = {}

    def port(self, direction: Direction, parser: str) -> int:
        """Return a proxy's port, a new one if it has none. Raises OutOfIds."""
        proxy = direction, parser
        if proxy not in self._ports:
            if len(self._ports) >= PROXY_LIMIT - PROXY_FIRST:
                raise OutOfIds(f"all {PROXY_LIMIT - PROXY_FIRST} proxy ports are taken")
            name, taken = (direction.name, parser), set(self._ports.values())
            self._ports[proxy] = _hashed(name, PROXY_FIRST, PROXY_LIMIT, taken)
        return self._ports[proxy]

    def retain(self, used: Iterable[Proxy]) -> None:
        """Free the ports of all proxies but these."""
        for proxy in self._ports.keys() - set(used):
            del self._ports[proxy]


def _hashed(name: tuple[str, ...], first: int, limit: int, taken: Container[int]) -> int:
    """Return the first free number from where a name's hash points; one must be free."""
    text, size = "\0".join(name).encode(), limit - first
    start = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % size
    return next(n for step in range(size) if (n := first + (start + step) % size) not in taken)


class PolicyIds:
    """Policy map's content <-> number; equal contents have the same.

    A number is given away again only after `retain` said that the kernel no longer has it. `limit`
    is what no number reaches: a node's map of policies, or more where no kernel is filled.
    """

    def __init__(self, limit: int = POLICY_LIMIT) -> None:
        self._limit = limit
        self._contents: dict[int, Content] = {}
        self._marked: dict[int, list[int]] = {}
        """Numbers by the marks of their contents."""
        self._lowest = POLICY_FIRST  # no number below it is free
        for number, policy in BUILT_IN.items():
            self._hold(number, Content(policy))

    def __getitem__(self, number: int) -> Content:
        """Return the content of a number that is taken."""
        return self._contents[number]

    def take(self, policy: PolicyMap) -> int:
        """Return the number of this content, a new one if it has none. Raises OutOfIds."""
        content = Content(policy)
        number = self._find(policy, content.mark)
        if number is None:
            number = self._lowest
            while number in self._contents:
                number += 1
            self._lowest = number
            if number >= self._limit:
                raise OutOfIds(f"all {self._limit - POLICY_FIRST} policy ids are taken")
            self._hold(number, content)
        return number

    def patch(self, number: int, changes: Changes) -> bool:
        """Change the content of a number, unless another number has what would come of it."""
        content = self._contents[number]
        mark = content.mark_with(changes)
        if mark in self._marked and self._find(content.policy.patched(changes), mark) is not None:
            return False
        self._release(number)
        content.patch(changes)
        self._hold(number, content)
        return True

    def adopt(self, number: int, policy: PolicyMap) -> None:
        """Take over a map that the kernel has already; the next tiers' are part of its content.

        A content that two numbers have is known by the first; the other stays reserved until
        `retain`.
        """
        if number not in self._contents and POLICY_FIRST <= number < self._limit:
            self._hold(number, Content(policy))

    def retain(self, used: Iterable[int]) -> None:
        """Free every number that is neither in use nor built in."""
        for number in self._contents.keys() - set(used) - BUILT_IN.keys():
            self._release(number)
            self._lowest = min(self._lowest, number)

    def _find(self, policy: PolicyMap, mark: int) -> int | None:
        held = self._marked.get(mark, ())
        return next((n for n in held if self._contents[n].policy == policy), None)

    def _hold(self, number: int, content: Content) -> None:
        self._contents[number] = content
        self._marked.setdefault(content.mark, []).append(number)

    def _release(self, number: int) -> None:
        mark = self._contents.pop(number).mark
        self._marked[mark].remove(number)
        if not self._marked[mark]:
            del self._marked[mark]


@dataclass(slots=True)
class Ids:
    """All allocators of a node."""

    rules: RuleIds = field(default_factory=RuleIds)
    policies: PolicyIds = field(default_factory=PolicyIds)
    proxies: ProxyPorts = field(default_factory=ProxyPorts)
