"""Things that must be brought about again and again, by name, with their failures in plain sight.

A controller runs its function when it is triggered and, if it has an interval, from time to time.
A failure is logged once when it begins and once when it ends, retried with growing delay, and
counted in `failing`, which returns to 0.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

BACKOFF_STEP = 1.0
BACKOFF_MAX = 60.0

log = logging.getLogger(__name__)


@dataclass
class Controller:
    """One function and how it has fared. `interval` None: only when triggered."""

    name: str
    function: Callable[[], Awaitable[None]]
    interval: float | None = None
    backoff: float = BACKOFF_STEP
    successes: int = 0
    failures: int = 0
    consecutive: int = 0
    last_error: str = ""

    def __post_init__(self) -> None:
        self._wanted = asyncio.Event()

    @property
    def failing(self) -> bool:
        """True while the last run failed."""
        return self.consecutive > 0

    def trigger(self) -> None:
        """Run soon; triggers during a run lead to one more run."""
        self._wanted.set()

    async def attempt(self) -> bool:
        """Run once; return whether it succeeded. Never raises but for cancellation."""
        try:
            await self.function()
        except Exception as error:
            self.failures += 1
            self.consecutive += 1
            text = f"{type(error).__name__}: {error}"
            if self.consecutive == 1 or text != self.last_error:
                log.warning("controller %s fails: %s", self.name, text, exc_info=_unexpected(error))
            self.last_error = text
            return False
        self.successes += 1
        if self.consecutive:
            log.info("controller %s recovered after %d failures", self.name, self.consecutive)
        self.consecutive, self.last_error = 0, ""
        return True

    async def run(self) -> None:
        """Serve triggers and the interval until cancelled."""
        while True:
            delay = self.interval
            if self.failing:
                delay = min(self.backoff * self.consecutive, BACKOFF_MAX)
            try:
                async with asyncio.timeout(delay):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            self._wanted.clear()
            await self.attempt()

    def document(self) -> dict[str, Any]:
        """Return the controller's line of `GET /v1/controllers`."""
        return {
            "name": self.name,
            "interval": self.interval,
            "successes": self.successes,
            "failures": self.failures,
            "consecutive-failures": self.consecutive,
            "failing": self.failing,
            "last-error": self.last_error,
        }


class Controllers:
    """All controllers of a process, run in one task group."""

    def __init__(self) -> None:
        self._all: dict[str, Controller] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Run what was added so far, and from now on whatever is added, in `group`."""
        self._group = group
        for controller in self._all.values():
            self._tasks[controller.name] = group.create_task(controller.run())

    def add(
        self,
        name: str,
        function: Callable[[], Awaitable[None]],
        interval: float | None = None,
        *,
        backoff: float = BACKOFF_STEP,
    ) -> Controller:
        """Add a controller; its name must be new."""
        if name in self._all:
            raise ValueError(f"there is a controller {name} already")
        controller = self._all[name] = Controller(name, function, interval, backoff)
        if self._group is not None:
            self._tasks[name] = self._group.create_task(controller.run())
        return controller

    def remove(self, name: str) -> None:
        """Stop and forget a controller; one that is not there is no error."""
        self._all.pop(name, None)
        if task := self._tasks.pop(name, None):
            task.cancel()

    @property
    def failing(self) -> list[Controller]:
        """The controllers whose last run failed, by name."""
        return sorted((one for one in self._all.values() if one.failing), key=lambda c: c.name)

    @property
    def count(self) -> int:
        """How many controllers there are."""
        return len(self._all)

    def documents(self) -> list[dict[str, Any]]:
        """Return `GET /v1/controllers`."""
        return [self._all[name].document() for name in sorted(self._all)]


def _unexpected(error: Exception) -> bool:
    """True for errors that are our own faults rather than the world's: those get a traceback."""
    return isinstance(error, TypeError | AttributeError | KeyError | AssertionError | IndexError)
