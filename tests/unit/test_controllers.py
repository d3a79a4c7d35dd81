"""Controllers: run when wanted, retried, their failures in plain sight and over when over."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from fimbria.controllers import Controller, Controllers

if TYPE_CHECKING:
    from collections.abc import Callable


class Flaky:
    """Fails as often as it is told, and lets tests wait for its runs."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.runs = 0
        self.ran = asyncio.Condition()

    async def __call__(self) -> None:
        self.runs += 1
        async with self.ran:
            self.ran.notify_all()
        if self.runs <= self.failures:
            raise OSError("not yet")

    async def wait_for(self, runs: int) -> None:
        async with self.ran:
            await self.ran.wait_for(lambda: self.runs >= runs)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it did not come about")


async def test_failure_and_recovery_are_logged_once_and_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A failing controller is logged when it begins to fail and when it recovers, and retried."""
    work = Flaky(3)
    controllers = Controllers()
    controller = controllers.add("flaky", work, backoff=0.001)
    with caplog.at_level(logging.INFO):
        async with asyncio.TaskGroup() as group:
            controllers.start(group)
            controller.trigger()
            await work.wait_for(3)
            assert [one.name for one in controllers.failing] == ["flaky"]
            await work.wait_for(4)
            await until(lambda: not controller.failing)
            controllers.remove("flaky")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "not yet" in caplog.text
    assert "recovered after 3 failures" in caplog.text
    assert (controller.successes, controller.failures, controller.last_error) == (1, 3, "")
    assert controllers.failing == []


async def test_triggers_during_a_run_lead_to_one_more() -> None:
    """Work that is wanted while it is being done is done once more, not once per wish."""
    started, go = asyncio.Event(), asyncio.Event()
    runs = 0

    async def slow() -> None:
        nonlocal runs
        runs += 1
        started.set()
        await go.wait()

    controllers = Controllers()
    controller = controllers.add("slow", slow)
    async with asyncio.TaskGroup() as group:
        controllers.start(group)
        controller.trigger()
        await started.wait()
        for _ in range(5):
            controller.trigger()
        go.set()
        await until(lambda: controller.successes >= 2)
        for _ in range(5):
            await asyncio.sleep(0)
        controllers.remove("slow")
    assert runs == 2


async def test_an_interval_runs_it_again() -> None:
    """A controller with an interval needs no trigger."""
    work = Flaky()
    controllers = Controllers()
    async with asyncio.TaskGroup() as group:
        controllers.start(group)
        controllers.add("beat", work, 0.001)
        await work.wait_for(3)
        controllers.remove("beat")
    assert controllers.documents() == []


async def test_documents_and_names() -> None:
    """The API shows name, interval, counts and the last error; names are unique."""
    controllers = Controllers()
    controller = controllers.add("b", Flaky(1), 5.0)
    controllers.add("a", Flaky())
    with pytest.raises(ValueError, match="b already"):
        controllers.add("b", Flaky())
    assert not await controller.attempt()
    shown = controllers.documents()
    assert [one["name"] for one in shown] == ["a", "b"]
    assert shown[1]["last-error"] == "OSError: not yet"
    assert shown[1]["interval"] == 5.0
    assert shown[1]["failing"]
    assert controllers.count == 2


async def test_cancellation_is_no_failure() -> None:
    """Being stopped is not counted as failing."""
    forever = asyncio.Event()

    async def wait() -> None:
        await forever.wait()

    controller = Controller("x", wait)
    task = asyncio.create_task(controller.attempt())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert controller.failures == 0
