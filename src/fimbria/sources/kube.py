"""A small asynchronous client of the Kubernetes API.

Kinds of `resources` ─► requests ─► Transport ─► answers ─► objects, decoded by msgspec

It retries nothing: whoever calls knows what a failure means (`errors` has the predicates), and the
reflector has the loop.

A list comes in pages and may hold objects that do not have the form of their kind; those are handed
to `on_malformed` one by one, and the rest is delivered.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import msgspec

from fimbria.sources import kubeconfig, wire
from fimbria.sources.errors import DecodeError
from fimbria.sources.transport import Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from fimbria.sources.kubeconfig import Connection
    from fimbria.sources.resources import Document, Resource

T = TypeVar("T")

PAGE = 500

PatchType = Literal["json", "merge", "strategic"]
_PATCH_TYPES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
}
MERGE: PatchType = "merge"


@dataclass(frozen=True)
class Page(Generic[T]):
    """A complete list, and the resourceVersion that a watch may go on from."""

    items: list[T]
    resource_version: str


@dataclass(frozen=True)
class Event(Generic[T]):
    """One watch event. `object` is None for BOOKMARK."""

    type: Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]
    object: T | None
    resource_version: str


class KubeClient(Transport):
    """Objects of one API server. Use as `async with`, or call `close()`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self.on_malformed: Callable[[DecodeError], None] = lambda error: None

    @classmethod
    def from_kubeconfig(cls, path: Path | str | None, context: str | None = None) -> KubeClient:
        """Return a client for a kubeconfig, or for the pod's service account if `path` is None."""
        if path is None:
            return cls(kubeconfig.in_cluster())
        return cls(kubeconfig.load(path, context))

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def list(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = PAGE,
    ) -> Page[T]:
        """Return all objects of a kind, read page by page of `limit`."""
        items: list[T] = []
        version = ""
        async for page in self.pages(
            resource,
            namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            limit=limit,
        ):
            items.extend(page.items)
            version = version or page.resource_version
        return Page(items, version)

    async def pages(
        self,
        resource: Resource[T],
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        limit: int = PAGE,
    ) -> AsyncIterator[Page[T]]:
        """Yield a kind's objects in pages of one moment; KubeError 410 for a reader too slow."""
        query = wire.query(labelSelector=label_selector, fieldSelector=field_selector, limit=limit)
        decoder = msgspec.json.Decoder(resource.type)
        while True:
            body = await self.request("GET", resource.path(namespace), query)
            try:
                answer = msgspec.json.decode(body, type=wire.RawList)
            except msgspec.DecodeError as error:
                raise DecodeError(resource.kind, "list", str(error)) from error
            items: list[T] = []
            for raw in answer.items or []:
                item = self._decode(resource, decoder, raw)
                if item is not None:
                    items.append(item)
            yield Page(items, answer.metadata.resource_version)
            if not answer.metadata.continue_:
                return
            query["continue"] = answer.metadata.continue_

    async def resource_version(self, resource: Resource[Any]) -> str:
        """Return the resourceVersion that the server is at, for the price of one object."""
        body = await self.request("GET", resource.path(), {"limit": "1"})
        return msgspec.json.decode(body, type=wire.RawList).metadata.resource_version

    async def watch(
        self,
        resource: Resource[T],
        resource_version: str,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        seconds: float = 300.0,
    ) -> AsyncIterator[list[Event[T]]]:
        """Yield events after `resource_version`, those that arrived together as one list.

        Ends when the server ends the watch (after `seconds`). Raises KubeError (410 if the
        version is too old) or KubeUnreachable.
        """
        query = wire.query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=resource_version,
            timeoutSeconds=int(seconds),
            labelSelector=label_selector,
            fieldSelector=field_selector,
        )
        decoder = msgspec.json.Decoder(resource.type)
        rest = b""
        async with self.stream(resource.path(namespace), query, seconds) as chunks:
            async for chunk in chunks:
                *lines, rest = (rest + chunk).split(b"\n")
                events = [e for line in lines if (e := self._event(resource, decoder, line))]
                if events:
                    yield events

    async def get(self, resource: Resource[T], name: str, namespace: str | None = None) -> T:
        """Return one object; KubeError (is_not_found) if there is none."""
        return self._one(resource, await self.request("GET", resource.path(namespace, name)))

    async def create(
        self, resource: Resource[T], body: Document, namespace: str | None = None
    ) -> T:
        """Create an object; apiVersion and kind are filled in. is_already_exists if it is there."""
        document = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        path = resource.path(namespace)
        return self._one(resource, await self.request("POST", path, body=document))

    async def update(
        self,
        resource: Resource[T],
        name: str,
        body: Document,
        namespace: str | None = None,
        *,
        subresource: str = "",
    ) -> T:
        """Replace an object; with metadata.resourceVersion in `body` only if nobody changed it."""
        document = {"apiVersion": resource.api_version, "kind": resource.kind, **body}
        path = wire.with_subresource(resource.path(namespace, name), subresource)
        return self._one(resource, await self.request("PUT", path, body=document))

    async def patch(
        self,
        resource: Resource[T],
        name: str,
        body: object,
        namespace: str | None = None,
        *,
        kind: PatchType = MERGE,
        subresource: str = "",
    ) -> T:
        """Patch an object (JSON merge patch unless `kind` says otherwise), or its subresource."""
        path = wire.with_subresource(resource.path(namespace, name), subresource)
        headers = {"Content-Type": _PATCH_TYPES[kind]}
        return self._one(resource, await self.request("PATCH", path, body=body, headers=headers))

    async def delete(
        self,
        resource: Resource[Any],
        name: str,
        namespace: str | None = None,
        *,
        uid: str | None = None,
        resource_version: str | None = None,
    ) -> None:
        """Delete an object, with `uid` and `resource_version` only that very one."""
        conditions = {
            key: value
            for key, value in (("uid", uid), ("resourceVersion", resource_version))
            if value
        }
        body = {"preconditions": conditions} if conditions else None
        await self.request("DELETE", resource.path(namespace, name), body=body)

    def _decode(
        self, resource: Resource[T], decoder: msgspec.json.Decoder[T], raw: msgspec.Raw | bytes
    ) -> T | None:
        try:
            return decoder.decode(raw)
        except msgspec.DecodeError as error:
            self.on_malformed(DecodeError(resource.kind, wire.name_of(raw), str(error)))
            return None

    def _one(self, resource: Resource[T], body: bytes) -> T:
        try:
            return msgspec.json.decode(body, type=resource.type)
        except msgspec.DecodeError as error:
            raise DecodeError(resource.kind, wire.name_of(body), str(error)) from error

    def _event(
        self, resource: Resource[T], decoder: msgspec.json.Decoder[T], line: bytes
    ) -> Event[T] | None:
        """Decode one line of a watch; None for an object that is malformed. Raises KubeError."""
        if not line.strip():
            return None
        try:
            raw = msgspec.json.decode(line, type=wire.RawEvent)
        except msgspec.DecodeError as error:
            raise DecodeError(resource.kind, "watch event", str(error)) from error
        if raw.type == "ERROR":
            raise wire.error_of(0, bytes(raw.object), f"watch {resource.plural}")
        version = wire.head(raw.object).resource_version
        if raw.type == "BOOKMARK":
            return Event("BOOKMARK", None, version)
        item = self._decode(resource, decoder, raw.object)
        if item is None or raw.type not in ("ADDED", "MODIFIED", "DELETED"):
            return None
        return Event(cast("Any", raw.type), item, version)
