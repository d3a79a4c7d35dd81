"""When conntrack is collected: from time to time, and soon after a pod is gone."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fimbria.agent import ctgc
from fimbria.agent.ctgc import Collected
from fimbria.agent.node import CT, CT_NEW
from fimbria.kernel.maps import BpfMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.agent.node import Node
    from fimbria.agent.statefiles import EndpointFile

_MAPPED = bytes(10) + b"\xff\xff"
TABLES = (CT_NEW, CT)
"""In the order in which a connection goes through them: none is missed on its way."""

log = logging.getLogger(__name__)


class Collector:
    """Runs the collection. `fixed` is a configured interval in seconds, 0 adapts to the churn."""

    def __init__(self, node: Node, fixed: float) -> None:
        self.interval = fixed or ctgc.FIRST_INTERVAL
        self.tables: dict[str, Collected] = {}
        self.seconds = 0.0
        self.runs = {"completed": 0, "uncompleted": 0}
        self.trigger: Callable[[], None] = lambda: None
        self.pace: Callable[[float], None] = lambda interval: None
        self.after: Callable[[], None] = lambda: None
        self._node = node
        self._fixed = fixed
        self._gone: set[bytes] = set()

    @property
    def last(self) -> Collected:
        """Return what the last run found, all tables together."""
        return sum(self.tables.values(), Collected(0, 0))

    def forget(self, file: EndpointFile) -> None:
        """Remove the connections of an endpoint that is gone: its addresses will be another's."""
        for text in filter(None, (file.ipv4, file.ipv6)):
            raw = ip_address(text).packed
            self._gone.add(_MAPPED + raw if len(raw) == 4 else raw)
        self.trigger()

    async def run_once(self) -> None:
        """Collect now, and choose when to do it next."""
        gone, self._gone = self._gone, set()
        clock = self._node.clock
        start = clock.monotonic()
        try:
            for name in TABLES:
                table = self._node.maps.map(name)
                assert isinstance(table, BpfMap)
                self.tables[name] = await asyncio.to_thread(
                    ctgc.collect, table, clock.jiffies, gone
                )
        except OSError:
            self._gone |= gone
            self.runs["uncompleted"] += 1
            raise
        self.seconds = clock.monotonic() - start
        self.runs["completed"] += 1
        found = self.last
        if not self._fixed and not gone:
            self.interval = ctgc.next_interval(self.interval, found)
            self.pace(self.interval)
        log.debug("conntrack: %d of %d entries collected", found.deleted, found.entries)
        self.after()
