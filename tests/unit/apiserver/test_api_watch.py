"""Watches over a real store: slow clients, short histories, many watchers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.apiserver.options import ListOptions
from fimbria.apiserver.resources import BY_KEY
from fimbria.apiserver.store import Store
from fimbria.apiserver.watch import stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MAPS = BY_KEY["configmaps"]


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    result = Store(tmp_path / "data.db", history=4)
    task = asyncio.ensure_future(result.run())
    yield result
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def put(store: Store, name: str) -> int:
    metadata = {"name": name, "namespace": "default", "uid": name}
    entry = store.put(MAPS, {"metadata": metadata})
    await store.committed()
    return entry.rv


def watch(store: Store, options: ListOptions) -> AsyncIterator[bytes]:
    return stream(store, MAPS, "", options, None, lambda entry: entry.raw)


def events(chunk: bytes) -> list[tuple[str, Any]]:
    lines = [json.loads(line) for line in chunk.splitlines()]
    return [(e["type"], e["object"].get("metadata", {}).get("name")) for e in lines]


async def test_a_burst_is_one_chunk(store: Store) -> None:
    """What happened while a client was busy comes in one write, in order."""
    start = await put(store, "a")
    chunks = watch(store, ListOptions(version=start))
    for name in "bcd":
        await put(store, name)
    assert events(await anext(chunks)) == [("ADDED", "b"), ("ADDED", "c"), ("ADDED", "d")]


async def test_a_client_that_is_too_slow_is_told(store: Store) -> None:
    """A watcher that falls behind the kept history gets 410 and the end of the stream."""
    start = await put(store, "a")
    chunks = watch(store, ListOptions(version=start))
    await put(store, "b")
    assert events(await anext(chunks)) == [("ADDED", "b")]
    for number in range(20):
        await put(store, f"c{number}")
    (line,) = (await anext(chunks)).splitlines()
    event = json.loads(line)
    assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
    with pytest.raises(StopAsyncIteration):
        await anext(chunks)


async def test_changes_of_other_kinds_do_not_age_a_watch(store: Store) -> None:
    """A quiet kind can be watched from an old version, whatever happens elsewhere."""
    start = await put(store, "a")
    secrets = BY_KEY["secrets"]
    for number in range(50):
        metadata = {"name": f"s{number}", "namespace": "default", "uid": f"s{number}"}
        store.put(secrets, {"metadata": metadata})
    await store.committed()
    chunks = watch(store, ListOptions(version=start, timeout=0.001, bookmarks=True))
    last = [chunk async for chunk in chunks][-1]
    bookmark = json.loads(last)
    assert bookmark["type"] == "BOOKMARK"
    assert int(bookmark["object"]["metadata"]["resourceVersion"]) == store.durable


async def test_a_waiting_watcher_wakes(store: Store) -> None:
    """A watcher that waits hears of the next change; cancelling it is clean."""
    chunks = watch(store, ListOptions(version=await put(store, "a")))
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(anext(chunks))]
        idle = watch(store, ListOptions(version=store.durable))
        waiting.append(tasks.create_task(anext(idle)))
        await put(store, "b")
    assert [events(task.result()) for task in waiting] == [[("ADDED", "b")]] * 2
    lonely = asyncio.ensure_future(anext(watch(store, ListOptions(version=store.durable))))
    await asyncio.sleep(0)
    lonely.cancel()
    with pytest.raises(asyncio.CancelledError):
        await lonely
