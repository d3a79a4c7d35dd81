"""The datapath's events on their way to those who watch: drained in batches, kept for a while.

    ring buffer ─ drain ─► arrays ─► the last 4,096 kept
                                  └► one queue per follower ─► explained, one JSON line each

Programs write without waking us, so we look: once a second when nobody follows, every 10 ms when
somebody does. Only what is shown is taken apart; a drain costs the same for one event and for ten
thousand.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    import numpy as np
    from numpy.typing import NDArray

    from fimbria.datapath.abi import Event
    from fimbria.kernel.ringbuf import RingBuffer

KEPT = 4096
IDLE_INTERVAL, FOLLOWED_INTERVAL = 1.0, 0.01
BATCHES_PER_LOOK = 16
QUEUE_LIMIT = 64
"""Batches that a follower may be behind before it loses some."""


class Follower:
    """One reader of the stream. `lost` counts events that came faster than it read."""

    def __init__(self) -> None:
        self.lost = 0
        self._queue: asyncio.Queue[NDArray[np.void]] = asyncio.Queue(QUEUE_LIMIT)

    def offer(self, batch: NDArray[np.void]) -> None:
        """Hand over a batch, or count it as lost if the reader is too slow."""
        try:
            self._queue.put_nowait(batch)
        except asyncio.QueueFull:
            self.lost += len(batch)

    async def batch(self) -> list[Event]:
        """Return the next events, oldest first."""
        from fimbria.datapath.events import events

        return list(events(await self._queue.get()))


class Monitor:
    """The consumer of the ring buffer. `drained` is shown every batch."""

    def __init__(self, ring: RingBuffer) -> None:
        self._ring = ring
        self._kept: deque[NDArray[np.void]] = deque()
        self._count = 0
        self._followers: set[Follower] = set()
        self._followed = asyncio.Event()
        self.seen = 0
        self.drained: Callable[[NDArray[np.void]], None] = lambda batch: None

    async def run(self) -> None:
        """Drain until cancelled."""
        while True:
            self.drain()
            if self._followers:
                await asyncio.sleep(FOLLOWED_INTERVAL)
                continue
            try:
                async with asyncio.timeout(IDLE_INTERVAL):
                    await self._followed.wait()
            except TimeoutError:
                pass

    def drain(self) -> None:
        """Take what is in the ring buffer now."""
        for _ in range(BATCHES_PER_LOOK):
            if not self._ring.pending:
                return
            batch = self._ring.drain()
            if not len(batch):
                return
            self.seen += len(batch)
            self.drained(batch)
            self._keep(batch)
            for follower in self._followers:
                follower.offer(batch)

    def last(self, count: int) -> list[Event]:
        """Return up to `count` of the newest events, oldest first."""
        from fimbria.datapath.events import events

        self.drain()
        found: list[Event] = []
        for batch in reversed(self._kept):
            if len(found) >= count:
                break
            found[:0] = events(batch[-(count - len(found)) :])
        return found

    @contextmanager
    def follow(self) -> Generator[Follower]:
        """Follow the stream from now on."""
        follower = Follower()
        self.drain()
        self._followers.add(follower)
        self._followed.set()
        try:
            yield follower
        finally:
            self._followers.discard(follower)
            if not self._followers:
                self._followed.clear()

    def _keep(self, batch: NDArray[np.void]) -> None:
        # A copy of the tail only: a slice would keep the whole batch alive.
        tail = batch if len(batch) <= KEPT else batch[-KEPT:].copy()
        self._kept.append(tail)
        self._count += len(tail)
        while self._count - len(self._kept[0]) >= KEPT:
            self._count -= len(self._kept.popleft())
