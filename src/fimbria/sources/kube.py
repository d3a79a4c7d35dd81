"""A small asynchronous client of the Kubernetes API.

One aiohttp session per process; typed decoding by msgspec into the Structs of `resources`. It
retries nothing: whoever calls knows what a failure means (`errors` has the predicates), and the
reflector has the loop.

A list comes in pages and may hold objects that do not have the form of their kind; those are handed
to `on_malformed` one by one, and the rest is delivered.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast
from urllib.parse import urlsplit

import aiohttp
import msgspec

from fimbria.sources import kubeconfig, wire
from fimbria.sources.errors import DecodeError, KubeUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from pathlib import Path

    from fimbria.sources.kubeconfig import Connection
    from fimbria.sources.resources import Document, Resource

T = TypeVar("T")

PAGE = 500
REQUEST_TIMEOUT = 15.0
TOKEN_LIFETIME = 60.0
WATCH_GRACE = 15.0
"""Seconds that a watch may outlive the timeout the server was asked for."""

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


class KubeClient:
    """Requests to one API server. Use as `async with`, or call `close()`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None
        self._token_read = float("-inf")
        self.addresses: frozenset[str] = frozenset()
        """The server's, once `resolve` was called."""
        self.on_malformed: Callable[[DecodeError], None] = lambda error: None

    @classmethod
    def from_kubeconfig(cls, path: Path | str | None, context: str | None = None) -> KubeClient:
        """Return a client for a kubeconfig, or for the pod's service account if `path` is None."""
        if path is None:
            return cls(kubeconfig.in_cluster())
        return cls(kubeconfig.load(path, context))

    @property
    def server(self) -> tuple[str, int]:
        """Return host and port of the server; ("", 0) for one on a unix socket."""
        if self._connection.socket:
            return "", 0
        parts = urlsplit(self._connection.base)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)

    async def resolve(self) -> None:
        """Find out `addresses`; there are none if its name has none now, or on a unix socket."""
        host, port = self.server
        if not host:
            return
        try:
            found = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM
            )
        except OSError:
            return
        self.addresses = frozenset(str(address[0]) for *_, address in found)

    async def __aenter__(self) -> KubeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

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
        limits = aiohttp.ClientTimeout(
            total=seconds + WATCH_GRACE, sock_connect=REQUEST_TIMEOUT, sock_read=None
        )
        async with self._response("GET", resource.path(namespace), query, limits) as response:
            rest = b""
            try:
                async for chunk in response.content.iter_any():
                    *lines, rest = (rest + chunk).split(b"\n")
                    events = [e for line in lines if (e := self._event(resource, decoder, line))]
                    if events:
                        yield events
            except TimeoutError:
                return
            except (aiohttp.ClientError, OSError) as error:
                raise KubeUnreachable(f"{self._where()}: watch broke: {error}") from error

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

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the raw answer of any request; `body` is sent as JSON."""
        limits = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        async with self._response(method, path, query, limits, body, headers) as response:
            try:
                return await response.read()
            except (aiohttp.ClientError, OSError) as error:
                raise KubeUnreachable(f"{self._where()}: answer broke off: {error}") from error

    @asynccontextmanager
    async def _response(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        limits: aiohttp.ClientTimeout,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[aiohttp.ClientResponse]:
        data = None if body is None else msgspec.json.encode(body)
        sent = {"Accept": "application/json", **self._authorization()}
        if data is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        url = self._connection.base + path
        try:
            response = await self._open().request(
                method, url, params=query, data=data, headers=sent, timeout=limits
            )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise KubeUnreachable(f"{self._where()}: {error or 'no answer in time'}") from error
        try:
            if response.status >= 400:
                raise wire.error_of(response.status, await response.read(), f"{method} {path}")
            yield response
        finally:
            response.close() if response.status >= 400 else response.release()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = (
                aiohttp.UnixConnector(self._connection.socket, limit=0)
                if self._connection.socket
                else aiohttp.TCPConnector(ssl=self._connection.tls or True, limit=0)
            )
            self._session = aiohttp.ClientSession(
                connector=connector, read_bufsize=1 << 20, headers=self._connection.headers
            )
        return self._session

    def _authorization(self) -> dict[str, str]:
        file = self._connection.token_file
        if file is None:
            return {}
        now = asyncio.get_running_loop().time()
        if now - self._token_read > TOKEN_LIFETIME:
            self._token = file.read_text().strip()
            self._token_read = now
        return {"Authorization": f"Bearer {self._token}"}

    def _where(self) -> str:
        socket = self._connection.socket
        return f"API server {'unix://' + socket if socket else self._connection.base}"

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
