"""The loop that tells for how long it was busy at a stretch."""

from __future__ import annotations

import asyncio

from fimbria.agent.stalls import loop


class Clock:
    """A clock that moves only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


def test_a_busy_stretch_is_told_and_waiting_is_not() -> None:
    """What a callback spends counts as one stretch; what the selector waits does not."""
    clock, seen = Clock(), list[float]()

    async def work() -> None:
        await asyncio.sleep(0)
        clock.now += 0.75
        await asyncio.sleep(0.01)
        clock.now += 0.25
        await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=lambda: loop(clock.monotonic, seen.append)) as runner:
        runner.run(work())
    assert [seconds for seconds in seen if seconds] == [0.75, 0.25]
