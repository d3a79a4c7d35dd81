"""When conntrack is collected: from time to time, at the start, and soon after a pod is gone."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from fimbria.agent import ctgc
from fimbria.agent.ctgc import Collected
from fimbria.agent.node import CT, CT_NEW
from fimbria.kernel.maps import BpfMap

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from fimbria.agent.node import Node

TABLES = (CT_NEW, CT)
"""In the order in which a connection goes through them: none is missed on its way."""

log = logging.getLogger(__name__)


class Collector:
    """Runs the collection. `fixed` is a configured interval in seconds, 0 adapts to the churn.

    `known` gives the ids of the node's endpoints; it is called in another thread.
    """

    def __init__(self, node: Node, fixed: float, known: Callable[[], Collection[int]]) -> None:
        self.interval = fixed or ctgc.FIRST_INTERVAL
        self.tables: dict[str, Collected] = {}
        self.seconds = 0.0
        self.runs = {"completed": 0, "uncompleted": 0}
        self.trigger: Callable[[], None] = lambda: None
        self.pace: Callable[[float], None] = lambda interval: None
        self.after: Callable[[], None] = lambda: None
        self._node = node
        self._fixed = fixed
        self._known = known
        self._asked = False

    @property
    def last(self) -> Collected:
        """Return what the last run found, all tables together."""
        return sum(self.tables.values(), Collected(0, 0))

    def soon(self) -> None:
        """Remove the connections of endpoints that are gone: their addresses will be others'."""
        self._asked = True
        self.trigger()

    async def run_once(self) -> None:
        """Collect now, and choose when to do it next."""
        asked, self._asked = self._asked, False
        clock = self._node.clock
        start = clock.monotonic()
        try:
            for name in TABLES:
                table = self._node.maps.map(name)
                assert isinstance(table, BpfMap)
                self.tables[name] = await asyncio.to_thread(
                    ctgc.collect, table, clock.jiffies, self._known
                )
        except OSError:
            self._asked = self._asked or asked
            self.runs["uncompleted"] += 1
            raise
        self.seconds = clock.monotonic() - start
        self.runs["completed"] += 1
        found = self.last
        if not self._fixed and not asked:
            self.interval = ctgc.next_interval(self.interval, found)
            self.pace(self.interval)
        log.debug("conntrack: %d of %d entries collected", found.deleted, found.entries)
        self.after()
