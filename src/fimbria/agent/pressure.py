"""How full the node's tables are, and who fills them: an alarm before something does not fit.

    collection of conntrack ─┐
    compiled maps, ids ──────┴─► Fill per table ─► status, log (once), metrics

Conntrack's tables are counted when they are collected, everything else from what is compiled, so a
sample costs no system call.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import ip_network
from typing import TYPE_CHECKING

from fimbria.agent.node import CT, CT_NEW, POLICY
from fimbria.compile.delta import IPCACHE, POLICY_REF
from fimbria.compile.ids import POLICY_LIMIT, RULE_FIRST, RULE_LIMIT
from fimbria.datapath.abi import Family, IpcacheKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from fimbria.agent.apply import Applier
    from fimbria.agent.collector import Collector
    from fimbria.agent.endpoints import Endpoints
    from fimbria.agent.node import Node

INTERVAL = 30.0
ALARM, CALM = 0.9, 0.85
"""Share at which the alarm begins, and below which it ends."""
TALKERS, SHOWN = 3, 3
POLICY_ENTRIES, RULE_IDS = "policy map", "rule ids"
TRIES = (IPCACHE, "cilium_cidr")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fill:
    """One table: elements in use, and how many it can hold. `users` names who has most of them."""

    name: str
    used: int
    capacity: int
    users: str = ""

    @property
    def share(self) -> float:
        """Return the used share, 0 to 1; more if more was asked for than there is."""
        return self.used / self.capacity

    def text(self) -> str:
        """Return the alarm's words."""
        users = f"; most: {self.users}" if self.users else ""
        return f"{self.name} {self.share:.0%} full ({self.used} of {self.capacity}{users})"


class Pressure:
    """The last sample, and which alarms it raised. `waiting` are rows without room, by map."""

    def __init__(
        self,
        measure: Callable[[], Iterable[Fill]],
        waiting: Callable[[], Mapping[str, Mapping[bytes, bytes]]],
    ) -> None:
        self.fills: dict[str, Fill] = {}
        self._measure = measure
        self._waiting = waiting
        self._alarms: set[str] = set()
        self._full: set[str] = set()

    def sample(self) -> None:
        """Measure now; alarms are logged when they begin and when they end."""
        self.fills = {fill.name: fill for fill in self._measure()}
        for name, fill in self.fills.items():
            if fill.share >= ALARM and name not in self._alarms:
                self._alarms.add(name)
                log.warning("%s", fill.text())
            elif fill.share < CALM and name in self._alarms:
                self._alarms.discard(name)
                log.info("%s is below %.0f %% again", name, CALM * 100)
        full = set(self._waiting())
        for name in full - self._full:
            log.error("%s", self._missing(name))
        self._full = full

    async def run(self) -> None:
        """Sample, as a controller."""
        self.sample()

    @property
    def alarms(self) -> list[Fill]:
        """Return the tables that are nearly full, the fullest first."""
        found = [self.fills[name] for name in self._alarms if name in self.fills]
        return sorted(found, key=lambda fill: (-fill.share, fill.name))

    def missing(self) -> list[str]:
        """Return what does not fit, a sentence per map."""
        return [self._missing(name) for name in sorted(self._waiting())]

    def _missing(self, name: str) -> str:
        rows = self._waiting()[name]
        named = ", ".join(described(name, key) for key in list(rows)[:SHOWN])
        more = f" and {len(rows) - SHOWN} more" if len(rows) > SHOWN else ""
        return f"{name} is full, there is no room for {named}{more}"


def described(name: str, key: bytes) -> str:
    """Return a map's key in words: a prefix where the map is a trie, else its bytes."""
    if name not in TRIES:
        return key.hex(" ")
    where = IpcacheKey.unpack(key)
    ip = where.ip[:4] if where.family == Family.IPV4 else where.ip
    return str(ip_network((ip, where.prefixlen - 32), strict=False))


def measure(
    node: Node, applier: Applier, collector: Collector, endpoints: Endpoints
) -> Iterator[Fill]:
    """Yield how full each table is, as far as that is known by now."""
    for name in (CT, CT_NEW):
        found = collector.tables.get(name)
        if found is not None:
            users = ", ".join(
                f"{_user(endpoints, number)} {count}"
                for number, count in found.users.most_common(TALKERS)
            )
            yield Fill(name, found.left, node.maps.map(name).max_entries, users)
    compiler = applier.compiler
    if compiler is None:
        return
    desired = compiler.desired()
    for name, rows in desired.maps.items():
        if name != POLICY_REF:
            yield Fill(name, len(rows), node.maps.map(name).max_entries)
    largest = max((len(policy.entries) for policy in desired.policies.values()), default=0)
    yield Fill(POLICY_ENTRIES, largest, node.config.bpf_policy_map_max)
    yield Fill(POLICY, len(desired.policies), POLICY_LIMIT)
    yield Fill(RULE_IDS, len(applier.ids.rules), RULE_LIMIT - RULE_FIRST)


def _user(endpoints: Endpoints, number: int) -> str:
    endpoint = endpoints.get(number)
    return endpoint.name if endpoint is not None else f"endpoint {number}"
