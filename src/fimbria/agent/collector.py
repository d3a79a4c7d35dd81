"""When conntrack is collected: from time to time, and soon after a pod is gone."""

from __future__ import annotations

import asyncio
import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING

from fimbria.agent import ctgc
from fimbria.agent.node import CT
from fimbria.kernel.maps import BpfMap

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.agent.node import Node
    from fimbria.agent.statefiles import EndpointFile

_MAPPED = bytes(10) + b"\xff\xff"

log = logging.getLogger(__name__)


class Collector:
    """Runs the collection. `fixed` is a configured interval in seconds, 0 adapts to the churn."""

    def __init__(self, node: Node, fixed: float) -> None:
        self.interval = fixed or ctgc.FIRST_INTERVAL
        self.last = ctgc.Collected(0, 0)
        self.trigger: Callable[[], None] = lambda: None
        self.pace: Callable[[float], None] = lambda interval: None
        self._node = node
        self._fixed = fixed
        self._gone: set[bytes] = set()

    def forget(self, file: EndpointFile) -> None:
        """Remove the connections of an endpoint that is gone: its addresses will be another's."""
        for text in filter(None, (file.ipv4, file.ipv6)):
            raw = ip_address(text).packed
            self._gone.add(_MAPPED + raw if len(raw) == 4 else raw)
        self.trigger()

    async def run_once(self) -> None:
        """Collect now, and choose when to do it next."""
        gone, self._gone = self._gone, set()
        table = self._node.maps.map(CT)
        assert isinstance(table, BpfMap)
        try:
            found = await asyncio.to_thread(ctgc.collect, table, self._node.clock.jiffies, gone)
        except OSError:
            self._gone |= gone
            raise
        self.last = found
        if not self._fixed and not gone:
            self.interval = ctgc.next_interval(self.interval, found)
            self.pace(self.interval)
        log.debug("conntrack: %d of %d entries collected", found.deleted, found.entries)
