"""Watches: the history of a kind, filtered for one client, as a stream of JSON lines.

A watch is a cursor into the store's history. It wakes when its kind changes, takes everything
between its cursor and what is on disk, and yields it as one chunk, so that a burst costs one
write per watcher. An object that leaves the selection is DELETED to the client, one that enters it
ADDED (Kubernetes API Concepts, "Efficient detection of changes").
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from fimbria.apiserver.entry import Entry, Event, encode
from fimbria.apiserver.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fimbria.apiserver.options import ListOptions
    from fimbria.apiserver.resources import Resource
    from fimbria.apiserver.selectors import Matcher
    from fimbria.apiserver.store import Store

BOOKMARK_SECONDS = 60.0
Render = Callable[[Entry], bytes]
"""The bytes that stand for an entry: the object itself, a table, its metadata."""


async def stream(
    store: Store,
    resource: Resource,
    namespace: str,
    options: ListOptions,
    match: Matcher | None,
    render: Render,
) -> AsyncIterator[bytes]:
    """Chunks of watch events, each a line of JSON, until the client's timeout."""
    loop = asyncio.get_running_loop()
    end = loop.time() + options.timeout if options.timeout else None
    if options.version and not options.initial_events:
        cursor = options.version
    else:
        await store.committed()
        cursor = store.durable
        # Between `committed` and here nothing ran, so memory is what is durable.
        entries = store.entries(resource, namespace)
        chunk = [_line("ADDED", render(e)) for e in entries if match is None or match(e)]
        if options.initial_events and options.bookmarks:
            chunk.append(_bookmark(resource, cursor, initial=True))
        yield b"".join(chunk)
    while True:
        try:
            events = store.since(resource, cursor)
        except ApiError as error:
            yield _line("ERROR", encode(error.status()))
            return
        if events:
            cursor = events[-1].entry.rv
            if chunk := [x for e in events if (x := _select(e, namespace, match, render))]:
                yield b"".join(chunk)
            continue
        cursor = max(cursor, store.durable)
        now = loop.time()
        try:
            async with asyncio.timeout_at(min(now + BOOKMARK_SECONDS, end or now + 3600)):
                await store.changed(resource)
        except TimeoutError:
            cursor = max(cursor, store.durable)
            if options.bookmarks:
                yield _bookmark(resource, cursor)
            if end is not None and loop.time() >= end:
                return


def _select(event: Event, namespace: str, match: Matcher | None, render: Render) -> bytes:
    entry, before = event.entry, event.previous
    if namespace and entry.namespace != namespace:
        return b""
    if match is None:
        return _line(event.type, render(entry))
    # A predecessor from before a restart is not known: telling a client that something it did not
    # know is gone does no harm, not telling it would.
    was = event.type != "ADDED" and (before is None or match(before))
    now = event.type != "DELETED" and match(entry)
    if not was and not now:
        return b""
    return _line("DELETED" if not now else "MODIFIED" if was else "ADDED", render(entry))


def _line(change: str, document: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (change.encode(), document)


def _bookmark(resource: Resource, rv: int, *, initial: bool = False) -> bytes:
    metadata: dict[str, object] = {"resourceVersion": str(rv), "creationTimestamp": None}
    if initial:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    document = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return _line("BOOKMARK", encode(document))
