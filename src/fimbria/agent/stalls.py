"""An event loop that tells for how long it was busy at a stretch.

While callbacks run, nothing else does: a timer or a pod's ADD that is due waits until the loop asks
for events again. So the time between an answer of the selector and the next question is how late
whoever is due may be. Nothing wakes up to measure it.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class _Timed(selectors.EpollSelector):
    """A selector that gives `observe` the seconds since its last answer."""

    def __init__(self, now: Callable[[], float], observe: Callable[[float], None]) -> None:
        super().__init__()
        self._now = now
        self._observe = observe
        self._answered = now()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Return what is ready, as the base class does."""
        self._observe(self._now() - self._answered)
        found = super().select(timeout)
        self._answered = self._now()
        return found


def loop(now: Callable[[], float], observe: Callable[[float], None]) -> asyncio.AbstractEventLoop:
    """Return a new event loop; `now` gives seconds of a monotonic clock."""
    return asyncio.SelectorEventLoop(_Timed(now, observe))
