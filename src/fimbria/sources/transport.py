"""Requests to one API server: over TCP, TLS or a unix socket, with what a kubeconfig gives.

One aiohttp session per process, opened at the first request. Whatever keeps an answer from coming
is KubeUnreachable, and an answer that is an error is the KubeError that its body describes. Nothing
is tried again.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
import msgspec

from fimbria.sources import wire
from fimbria.sources.errors import KubeUnreachable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    from fimbria.sources.kubeconfig import Connection

REQUEST_TIMEOUT = 15.0
TOKEN_LIFETIME = 60.0
STREAM_GRACE = 15.0
"""Seconds that a stream may outlive the timeout the server was asked for."""


class Transport:
    """The way to one API server; `close()` ends it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._session: aiohttp.ClientSession | None = None
        self._token = ""
        self._token_read = float("-inf")
        self.addresses: frozenset[str] = frozenset()
        """The server's, once `resolve` was called."""

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

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the raw answer of any request; `body` is sent as JSON.

        Raises KubeError or KubeUnreachable.
        """
        limits = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT)
        async with self._response(method, path, query, limits, body, headers) as response:
            try:
                return await response.read()
            except (aiohttp.ClientError, OSError) as error:
                raise KubeUnreachable(f"{self._where()}: answer broke off: {error}") from error

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], seconds: float
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """Read an answer that goes on for `seconds`, piece by piece as it comes.

        The body of the `async with` just ends if the server goes on for too long. Raises KubeError
        or KubeUnreachable.
        """
        limits = aiohttp.ClientTimeout(
            total=seconds + STREAM_GRACE, sock_connect=REQUEST_TIMEOUT, sock_read=None
        )
        async with self._response("GET", path, query, limits) as response:
            try:
                yield response.content.iter_any()
            except TimeoutError:
                return
            except (aiohttp.ClientError, OSError) as error:
                raise KubeUnreachable(f"{self._where()}: watch broke: {error}") from error

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
        path = self._connection.socket
        return f"API server {f'unix://{path}' if path else self._connection.base}"
