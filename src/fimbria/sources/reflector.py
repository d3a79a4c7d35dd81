"""Keep a kind of the API as a dict of rows, through every failure of the API.

List, then watch from the list's version; on 410, or when the server turns out to have another
history (its version is behind ours), list again and replace. While the API is away the rows stay as
they are. Each batch of changes is one call of `on_change`, which must not await: that is what makes
it a transaction.

    API ─ pages, events ─► convert(object) ─► rows (one per object) ─► on_change([Change, …])

Only converted rows are kept, so a kind with many objects costs what its row costs.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from fimbria.sources.errors import DecodeError, KubeError, KubeUnreachable, is_gone, is_not_found

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.sources.kube import Event, KubeClient
    from fimbria.sources.resources import Resource

T = TypeVar("T")
R = TypeVar("R")
Key = tuple[str, str]

BACKOFF_FIRST = 0.1
BACKOFF_MAX = 15.0
WATCH_MIN, WATCH_MAX = 240.0, 480.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Change(Generic[R]):
    """A row that came (`old` None), changed, or went (`new` None). `key` is (namespace, name)."""

    key: Key
    old: R | None
    new: R | None


@dataclass
class Health:
    """How a reflector is doing, for `status`."""

    connected: bool = False
    absent: bool = False
    """The server does not have the kind, which may be so."""
    lists: int = 0
    events: int = 0
    failures: int = 0
    last_error: str = ""


class Reflector(Generic[T, R]):
    """Rows of one kind. `convert` returns None for objects that are no concern of ours.

    `synced` is set once the first complete list has been delivered, and stays set: what is known
    remains known while the API is away.
    """

    def __init__(
        self,
        client: KubeClient,
        resource: Resource[T],
        convert: Callable[[T], R | None],
        on_change: Callable[[Sequence[Change[R]]], None],
        *,
        namespace: str | None = None,
        field_selector: str | None = None,
        label_selector: str | None = None,
        optional: bool = False,
        older: Sequence[Resource[T]] = (),
    ) -> None:
        """`optional`: a server that does not know the kind counts as an empty list.

        `older` are versions of an optional kind to take where the server has no other.
        """
        self.resource = resource
        self._versions = (resource, *older)
        self.rows: dict[Key, R] = {}
        self.synced = asyncio.Event()
        self.health = Health()
        self._client = client
        self._convert = convert
        self._on_change = on_change
        self._namespace = namespace
        self._field_selector = field_selector
        self._label_selector = label_selector
        self._optional = optional
        self._version = ""

    async def run(self) -> None:
        """List and watch until cancelled; every failure is logged once and retried."""
        delay = BACKOFF_FIRST
        fresh = False
        while True:
            try:
                if not fresh:
                    await self._list()
                    fresh = True
                else:
                    await self._check_history()
                if self.health.last_error:
                    log.info("%s: watching again", self.resource.plural)
                self.health.connected, self.health.last_error = True, ""
                self.health.absent = False
                delay = BACKOFF_FIRST
                await self._watch()
                continue
            except (KubeError, KubeUnreachable, DecodeError) as error:
                if is_gone(error) or isinstance(error, DecodeError):
                    fresh = False
                pause = self._absent(error)
                if pause is not None:
                    fresh, delay = False, pause
                else:
                    self._failed(error)
            await asyncio.sleep(delay * random.uniform(0.5, 1.0))
            delay = min(delay * 2, BACKOFF_MAX)

    def _absent(self, error: Exception) -> float | None:
        """Return after how long a kind that may be missing, and is, is looked for again.

        That is at once in an older version, if there is one. A kind that no version has is an empty
        list. None: it is not missing.
        """
        if not (self._optional and is_not_found(error)):
            return None
        following = self._versions.index(self.resource) + 1
        self.resource = self._versions[following % len(self._versions)]
        if following < len(self._versions):
            return 0.0
        self.health.absent, self.health.last_error = True, ""
        self._replace({})
        self.synced.set()
        return BACKOFF_MAX

    def _failed(self, error: Exception) -> None:
        self.health.connected = False
        self.health.failures += 1
        text = str(error)
        if text != self.health.last_error and not is_gone(error):
            log.warning("%s: %s", self.resource.plural, text)
        self.health.last_error = text

    async def _list(self) -> None:
        rows: dict[Key, R] = {}
        version = ""
        async for page in self._client.pages(
            self.resource,
            self._namespace,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
        ):
            for item in page.items:
                row = self._convert(item)
                if row is not None:
                    rows[key_of(item)] = row
            version = version or page.resource_version
        self._version = version
        self.health.lists += 1
        self._replace(rows)
        self.synced.set()

    def _replace(self, rows: dict[Key, R]) -> None:
        old = self.rows
        changes = [Change(key, row, None) for key, row in old.items() if key not in rows]
        changes += [
            Change(key, old.get(key), row) for key, row in rows.items() if old.get(key) != row
        ]
        self.rows = rows
        if changes:
            self._on_change(changes)

    async def _check_history(self) -> None:
        """Raise a 410 if the server is behind what we have seen: it is not the same history."""
        now = await self._client.resource_version(self.resource)
        if now.isdigit() and self._version.isdigit() and int(now) < int(self._version):
            raise KubeError(410, "Expired", f"the API went back from {self._version} to {now}")

    async def _watch(self) -> None:
        async for events in self._client.watch(
            self.resource,
            self._version,
            self._namespace,
            field_selector=self._field_selector,
            label_selector=self._label_selector,
            seconds=random.uniform(WATCH_MIN, WATCH_MAX),
        ):
            self._take(events)

    def _take(self, events: Sequence[Event[T]]) -> None:
        changes: dict[Key, Change[R]] = {}
        for event in events:
            self._version = event.resource_version or self._version
            if event.object is None:
                continue
            key = key_of(event.object)
            new = None if event.type == "DELETED" else self._convert(event.object)
            old = self.rows.pop(key, None) if new is None else self.rows.get(key)
            if new is not None:
                self.rows[key] = new
            if key in changes:
                old = changes[key].old
            changes[key] = Change(key, old, new)
        self.health.events += len(events)
        real = [change for change in changes.values() if change.old != change.new]
        if real:
            self._on_change(real)


def key_of(item: Any) -> Key:
    """Return (namespace, name) of an object, a Struct with metadata or a plain document."""
    if isinstance(item, dict):
        document = cast("dict[str, Any]", item)
        meta: dict[str, Any] = document.get("metadata") or {}
        return meta.get("namespace") or "", meta.get("name") or ""
    return item.metadata.namespace, item.metadata.name
