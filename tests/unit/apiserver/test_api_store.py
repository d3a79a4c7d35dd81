"""The store: order, durability, history, and what happens when the disk says no."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from fimbria.apiserver.errors import ApiError
from fimbria.apiserver.resources import BY_KEY
from fimbria.apiserver.store import Store, StoreError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

MAPS = BY_KEY["configmaps"]
SECRETS = BY_KEY["secrets"]


def document(name: str, namespace: str = "default", **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", **metadata}}


@contextlib.asynccontextmanager
async def opened(path: Path, history: int = 8192) -> AsyncIterator[Store]:
    store = Store(path, history)
    task = asyncio.ensure_future(store.run())
    try:
        yield store
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def names(entries: list[Any]) -> list[str]:
    return [entry.name for entry in entries]


async def test_what_was_committed_is_there_after_a_restart(tmp_path: Path) -> None:
    """Objects, versions, history and owners survive closing and opening."""
    path = tmp_path / "data.db"
    async with opened(path) as store:
        first = store.put(MAPS, document("a"))
        store.put(MAPS, document("b", ownerReferences=[{"uid": "uid-a"}]))
        store.remove(MAPS, store.put(MAPS, document("c")).decode())
        await store.committed()
        revision = store.revision
    assert path.stat().st_mode & 0o777 == 0o600
    async with opened(path) as store:
        assert store.revision == store.durable == revision
        assert names(store.entries(MAPS)) == ["a", "b"]
        assert names(store.owned_by("uid-a")) == ["b"]
        assert store.population("default") == 2
        events = [(e.type, e.entry.name) for e in store.since(MAPS, first.rv)]
        assert events == [("ADDED", "b"), ("ADDED", "c"), ("DELETED", "c")]
        assert store.put(MAPS, document("d")).rv == revision + 1


async def test_watchers_hear_of_what_is_durable_only(tmp_path: Path) -> None:
    """A staged change is visible to writers at once and to watchers when it is on disk."""
    async with opened(tmp_path / "data.db") as store:
        entry = store.put(MAPS, document("a"))
        assert store.get(MAPS, "default", "a") is entry
        assert store.since(MAPS, 0) == []
        changed = asyncio.ensure_future(store.changed(MAPS))
        other = asyncio.ensure_future(store.changed(SECRETS))
        await store.committed()
        await changed
        assert names([e.entry for e in store.since(MAPS, 0)]) == ["a"]
        assert not other.done()
        other.cancel()


async def test_concurrent_writes_share_a_commit(tmp_path: Path) -> None:
    """Everything staged while a commit runs goes out in the next one."""
    async with opened(tmp_path / "data.db") as store:
        commits = 0
        write = store._database.write

        def counted(*arguments: Any) -> None:
            nonlocal commits
            commits += 1
            write(*arguments)

        store._database.write = counted  # counts calls of the real thing

        async def writer(index: int) -> None:
            store.put(MAPS, document(f"m{index}"))
            await store.committed()

        await asyncio.gather(*(writer(index) for index in range(100)))
        assert store.durable == 100
        assert commits <= 2


async def test_history_is_bounded_and_says_so(tmp_path: Path) -> None:
    """Changes from before the kept history are 410, before and after a restart."""
    path = tmp_path / "data.db"
    async with opened(path, history=10) as store:
        store.put(SECRETS, document("early"))
        for _ in range(50):
            store.put(MAPS, document("a"))
        await store.committed()
    async with opened(path, history=10) as store:
        with pytest.raises(ApiError) as caught:
            store.since(MAPS, 1)
        assert (caught.value.code, caught.value.reason) == (410, "Expired")
        assert len(store.since(MAPS, store.revision - 10)) == 10
        assert names([e.entry for e in store.since(SECRETS, 0)]) == ["early"]
        with pytest.raises(ApiError):
            store.since(MAPS, store.revision + 1)


async def test_lists_of_the_past(tmp_path: Path) -> None:
    """A list at a version undoes what came after it."""
    async with opened(tmp_path / "data.db") as store:
        store.put(MAPS, document("a"))
        store.put(MAPS, document("b", labels={"v": "1"}))
        then = store.revision
        store.put(MAPS, document("b", labels={"v": "2"}))
        store.put(MAPS, document("aa"))
        store.remove(MAPS, document("a"))
        await store.committed()
        past = store.entries(MAPS, at=then)
        assert [(e.name, dict(e.labels)) for e in past] == [("a", {}), ("b", {"v": "1"})]
        assert names(store.entries(MAPS)) == ["aa", "b"]
        assert names(store.entries(MAPS, after=("default", "aa"))) == ["b"]


async def test_namespaces_do_not_mix(tmp_path: Path) -> None:
    """Objects of one namespace only, also where one name begins with another."""
    async with opened(tmp_path / "data.db") as store:
        for namespace in ("a", "a-b", "ab", "b"):
            store.put(MAPS, document("x", namespace))
        assert [e.namespace for e in store.entries(MAPS, "a")] == ["a"]
        assert [e.namespace for e in store.entries(MAPS)] == ["a", "a-b", "ab", "b"]
        await store.committed()


async def test_a_full_disk_fails_the_write_and_undoes_it(tmp_path: Path) -> None:
    """When SQLite refuses a commit, callers get 500, memory goes back, and later writes work."""
    async with opened(tmp_path / "data.db") as store:
        store.put(MAPS, document("kept"))
        await store.committed()
        pages = store._database.connection.execute("PRAGMA page_count").fetchone()[0]
        store._database.connection.execute(f"PRAGMA max_page_count = {pages}")
        store.put(MAPS, {**document("big"), "data": {"x": "y" * 200_000}})
        with pytest.raises(ApiError) as caught:
            await store.committed()
        assert caught.value.code == 500
        assert "data.db" in caught.value.message
        assert names(store.entries(MAPS)) == ["kept"]
        assert names([e.entry for e in store.since(MAPS, 0)]) == ["kept"]
        store._database.connection.execute("PRAGMA max_page_count = 1000000")
        store.put(MAPS, document("later"))
        await store.committed()
        assert names([e.entry for e in store.since(MAPS, 1)]) == ["later"]


async def test_one_server_per_database(tmp_path: Path) -> None:
    """A second store on the same file is refused with the file's name."""
    async with opened(tmp_path / "data.db"):
        with pytest.raises(StoreError, match=r"data\.db.*locked"):
            Store(tmp_path / "data.db")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    """Garbage and databases of another version are start-up errors that name the file."""
    path = tmp_path / "data.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StoreError, match=r"data\.db.*not a database"):
        Store(path)
    path.unlink()
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(StoreError, match=r"data\.db.*schema 99"):
        Store(path)


def test_committed_writes_survive_kill_9(tmp_path: Path) -> None:
    """Whatever was answered before `kill -9` is there afterwards, in order and whole."""
    program = """
import asyncio, sys
from pathlib import Path
from fimbria.apiserver.resources import BY_KEY
from fimbria.apiserver.store import Store

async def main():
    store = Store(Path(sys.argv[1]))
    asyncio.ensure_future(store.run())
    async def writer(start):
        for number in range(start, 10**9, 8):
            metadata = {"name": f"m{number}", "namespace": "default", "uid": str(number)}
            store.put(BY_KEY["configmaps"], {"metadata": metadata})
            await store.committed()
            print(f"m{number}", flush=True)
    await asyncio.gather(*(writer(start) for start in range(8)))

asyncio.run(main())
"""
    path = tmp_path / "data.db"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        answered = [writer.stdout.readline().strip() for _ in range(300)]
        os.kill(writer.pid, signal.SIGKILL)
        answered += [line.strip() for line in writer.stdout if line.endswith("\n")]
    store = Store(path)
    present = set(names(store.entries(MAPS)))
    store._database.close()
    assert set(answered) <= present
