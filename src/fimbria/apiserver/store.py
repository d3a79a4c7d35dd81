"""The objects: all of them in memory, every change in SQLite before anyone hears of it.

The event loop owns the memory. A write is a plain function without `await`: it looks at the
newest state, takes the next resource version, changes memory and stages a row. One task hands all
staged rows to a thread as one transaction (group commit, WAL, synchronous=FULL); when it is on
disk, `durable` moves on, writers and readers that wait in `committed` return, and watchers are
woken. So requests that run together share one fsync, and nothing that was answered is lost by
`kill -9`.

The history of each kind (the last `history` changes at least) serves watches and consistent paged
lists; it is in the database too, so that watches go on across a restart.
"""

from __future__ import annotations

import asyncio
import sqlite3
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from fimbria.apiserver.database import Database
from fimbria.apiserver.entry import Entry, Event, Object, encode, make_entry
from fimbria.apiserver.errors import ApiError, expired
from fimbria.apiserver.resources import RESOURCES, Resource

if TYPE_CHECKING:
    from pathlib import Path


class StoreError(Exception):
    """The database cannot be used; the message names the file."""


class Store:
    """Every object of every kind, with durable changes and their history."""

    def __init__(self, path: Path, history: int = 8192) -> None:
        """Open or create the database at `path` (mode 0600). Raises StoreError."""
        self.revision = 0
        self.durable = 0
        self._path = path
        self._limit = history
        self._objects: dict[str, dict[tuple[str, str], Entry]] = {}
        self._sorted: dict[str, list[tuple[str, str]]] = {}
        self._events: dict[str, list[Event]] = {}
        self._floors: dict[str, int] = {}
        self._owned: defaultdict[str, set[tuple[str, str, str]]] = defaultdict(set)
        self._population: Counter[str] = Counter()
        self._staged: list[Event] = []
        self._trims: list[tuple[str, int]] = []
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._wake = asyncio.Event()
        self._signals = {row.key: asyncio.Event() for row in RESOURCES}
        self._thread = ThreadPoolExecutor(1, "store")
        try:
            self._database = Database(path)
            self._load()
        except (sqlite3.Error, ValueError, KeyError, OSError) as error:
            raise StoreError(f"{path}: {error}") from error

    # Reading -----------------------------------------------------------------

    def get(self, resource: Resource, namespace: str, name: str) -> Entry | None:
        """The newest version, on disk or not yet; answer with it only after `committed`."""
        return self._objects[resource.key].get((namespace, name))

    def entries(
        self,
        resource: Resource,
        namespace: str = "",
        at: int = 0,
        after: tuple[str, str] = ("", ""),
    ) -> list[Entry]:
        """The objects by namespace and name, in one namespace or everywhere.

        `at` gives them as they were at that resource version; raises 410 if history is too short.
        `after` leaves out everything up to that namespace and name.
        """
        table = self._objects[resource.key]
        changes = self._after(resource, at) if at else []
        if changes:
            table = dict(table)
            for event in reversed(changes):
                entry, key = event.entry, (event.entry.namespace, event.entry.name)
                if event.previous:
                    table[key] = event.previous
                elif event.type == "ADDED":
                    table.pop(key, None)
                else:
                    raise expired(f"resource version {at} of {entry.resource.key} is too old")
            keys = sorted(table)
        else:
            keys = self._sorted.get(resource.key)
            if keys is None:
                keys = self._sorted[resource.key] = sorted(table)
        if namespace:
            first = bisect_left(keys, (namespace, ""))
            # The first text after a name is the name with the smallest character behind it.
            keys = keys[first : bisect_left(keys, (namespace + "\0", ""), first)]
        return [table[key] for key in keys[bisect_right(keys, after) :]]

    def since(self, resource: Resource, rv: int) -> list[Event]:
        """The durable changes after `rv`, oldest first. Raises 410 if they are no longer known."""
        events = self._after(resource, rv)
        if events and events[-1].entry.rv > self.durable:
            return events[: bisect_right(events, self.durable, key=_event_rv)]
        return events

    async def changed(self, resource: Resource) -> None:
        """Return at the next durable change of this kind."""
        await self._signals[resource.key].wait()

    def owned_by(self, uid: str) -> list[Entry]:
        """The objects that name `uid` among their owners."""
        keys = sorted(self._owned.get(uid, ()))
        return [self._objects[key][namespace, name] for key, namespace, name in keys]

    def population(self, namespace: str) -> int:
        """How many objects a namespace holds."""
        return self._population[namespace]

    async def committed(self, rv: int | None = None) -> None:
        """Return when everything up to `rv` (default: everything so far) is on disk.

        Raises a 500 ApiError if the disk refused it; the change is undone then.
        """
        wanted = self.revision if rv is None else rv
        if wanted <= self.durable:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((wanted, future))
        await future

    # Writing -----------------------------------------------------------------

    def put(self, resource: Resource, document: Object) -> Entry:
        """Create or replace the object that the document's metadata names; sets its version."""
        entry = self._encode(resource, document)
        previous = self.get(resource, entry.namespace, entry.name)
        self._stage(Event("MODIFIED" if previous else "ADDED", entry, previous))
        return entry

    def remove(self, resource: Resource, document: Object) -> Entry:
        """Delete the object; the document is its last state, as watchers will see it."""
        entry = self._encode(resource, document)
        self._stage(Event("DELETED", entry, self.get(resource, entry.namespace, entry.name)))
        return entry

    async def run(self) -> None:
        """Commit what is staged, for ever. What nobody got an answer for may be lost on cancel."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while self._staged:
                    events, self._staged = self._staged, []
                    trims, self._trims = self._trims, []
                    try:
                        await loop.run_in_executor(
                            self._thread, self._database.write, events, trims
                        )
                    except sqlite3.Error as error:
                        self._undo(error)
                    else:
                        self._publish(events)
        finally:
            self._thread.shutdown()
            self._database.close()

    def _encode(self, resource: Resource, document: Object) -> Entry:
        self.revision += 1
        document["metadata"]["resourceVersion"] = str(self.revision)
        return make_entry(resource, document, encode(document))

    def _stage(self, event: Event) -> None:
        self._apply(event)
        self._remember(event)
        self._staged.append(event)
        self._wake.set()

    def _apply(self, event: Event) -> None:
        entry = event.entry
        table, key = self._objects[entry.resource.key], (entry.namespace, entry.name)
        reference = (entry.resource.key, entry.namespace, entry.name)
        before = table.get(key)
        if before is None or event.type == "DELETED":
            self._sorted.pop(entry.resource.key, None)
        if before:
            self._population[entry.namespace] -= 1
            for uid in before.owners:
                self._owned[uid].discard(reference)
                if not self._owned[uid]:
                    del self._owned[uid]
        if event.type == "DELETED":
            table.pop(key, None)
            return
        table[key] = entry
        self._population[entry.namespace] += 1
        for uid in entry.owners:
            self._owned[uid].add(reference)

    def _remember(self, event: Event) -> None:
        key = event.entry.resource.key
        events = self._events[key]
        events.append(event)
        if len(events) > 2 * self._limit:
            cut = len(events) - self._limit
            self._floors[key] = events[cut - 1].entry.rv
            self._trims.append((key, self._floors[key]))
            del events[:cut]

    def _after(self, resource: Resource, rv: int) -> list[Event]:
        floor = self._floors.get(resource.key, 0)
        if rv < floor or rv > self.revision:
            raise expired(f"too old resource version: {rv} (history starts at {floor})")
        events = self._events[resource.key]
        return events[bisect_right(events, rv, key=_event_rv) :]

    def _publish(self, events: list[Event]) -> None:
        self.durable = events[-1].entry.rv
        while self._waiting and self._waiting[0][0] <= self.durable:
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_result(None)
        for key in {event.entry.resource.key for event in events}:
            self._signals[key].set()
            self._signals[key] = asyncio.Event()

    # Disk --------------------------------------------------------------------

    def _undo(self, error: sqlite3.Error) -> None:
        """Go back to what the disk holds; everything that waits for more fails."""
        self._staged.clear()
        self._trims.clear()
        # Versions that were staged are given again: nobody has been told of them.
        self._load()
        failure = ApiError(500, "InternalError", f"{self._path}: {error}")
        while self._waiting:
            future = self._waiting.popleft()[1]
            if not future.done():
                future.set_exception(failure)

    def _load(self) -> None:
        self._objects = {row.key: {} for row in RESOURCES}
        self._sorted.clear()
        self._events = {row.key: [] for row in RESOURCES}
        self._owned.clear()
        self._population.clear()
        self._floors = self._database.floors()
        for entry in self._database.objects():
            self._apply(Event("ADDED", entry, None))
        last: dict[tuple[str, str, str], Entry] = {}
        for change, entry in self._database.history():
            reference = (entry.resource.key, entry.namespace, entry.name)
            previous = None if change == "ADDED" else last.get(reference)
            self._events[entry.resource.key].append(Event(change, entry, previous))
            last[reference] = entry
        self.revision = self._database.revision()
        self.durable = self.revision


def _event_rv(event: Event) -> int:
    return event.entry.rv
