"""Starting the embedded API server: database, credentials, sockets, and the loop that serves them.

`run` binds every listener, opens the database, makes or reads certificates and tokens, writes the
kubeconfig, says on the ready descriptor that it can be used, and serves until it is cancelled or
told to stop (SIGTERM, SIGINT).
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import secrets
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from fimbria.apiserver.api import MAX_BODY, Api
from fimbria.apiserver.auth import Authenticator, read_tokens
from fimbria.apiserver.listeners import ListenError, address, bind
from fimbria.apiserver.registry import Registry
from fimbria.apiserver.store import Store, StoreError
from fimbria.apiserver.tls import make_ca_and_cert, server_context
from fimbria.kernel.clock import SystemClock

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable
    from pathlib import Path

    from aiohttp import StreamReader
    from aiohttp.abc import AbstractStreamWriter
    from aiohttp.http import RawRequestMessage

SHUTDOWN_SECONDS = 0.1
"""How long connections may take to end when the server stops; watches end at once."""


class ConfigError(Exception):
    """The server cannot start as asked; the message says what to change."""


EXPIRY_SECONDS = 60.0
"""How often old Events are looked for."""


@dataclass(frozen=True, slots=True)
class ApiServerConfig:
    """What to serve and how.

    `listen`: `HOST:PORT` (port 0 chooses one), `unix:PATH`, or `fd:N` for a bound socket of either
    family that was inherited. Without `token_file` a token is made beside `data`, and without
    `tls_cert` and `tls_key` a certificate; both are used again. `ready_fd` gets one line of JSON,
    `{"listen": [URL…]}`, and is closed.
    """

    data: Path
    listen: tuple[str, ...] = ("127.0.0.1:6443",)
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    kubeconfig_out: Path | None = None
    ready_fd: int | None = None


@dataclass(frozen=True, slots=True)
class _Credentials:
    tokens: dict[str, str]
    authority: bytes
    tls: ssl.SSLContext | None


def serve(config: ApiServerConfig) -> None:
    """Run the server until a signal ends it. Raises ConfigError."""
    asyncio.run(run(config))


async def run(config: ApiServerConfig, now: Callable[[], float] | None = None) -> None:
    """Serve until cancelled or told to stop. `now` gives seconds since the epoch.

    Raises ConfigError if the server cannot start as asked.
    """
    sockets: list[socket.socket] = []
    try:
        config.data.parent.mkdir(parents=True, exist_ok=True)
        for listen in config.listen:
            sockets.append(bind(listen))
        credentials = _credentials(config, sockets)
        store = Store(config.data)
    except (ListenError, StoreError, ValueError, OSError) as error:
        for listener in sockets:
            listener.close()
        raise ConfigError(str(error)) from error
    clock = now or SystemClock().wall
    registry = Registry(store, clock)
    api = Api(registry, Authenticator(credentials.tokens), clock)
    async with asyncio.TaskGroup() as tasks:
        background = [tasks.create_task(store.run()), tasks.create_task(_expire(registry))]
        try:
            registry.seed()
            await store.committed()
            await _serve_until_stopped(config, api, sockets, credentials)
        finally:
            for task in background:
                task.cancel()


async def _expire(registry: Registry) -> None:
    while True:
        registry.expire_events()
        await asyncio.sleep(EXPIRY_SECONDS)


async def _serve_until_stopped(
    config: ApiServerConfig, api: Api, sockets: list[socket.socket], credentials: _Credentials
) -> None:
    loop = asyncio.get_running_loop()
    server = web.Server(
        api.handle, request_factory=_request, handler_cancellation=True, access_log=None
    )
    runner = web.ServerRunner(server, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    try:
        for listener in sockets:
            secure = credentials.tls if listener.family != socket.AF_UNIX else None
            await web.SockSite(runner, listener, ssl_context=secure, backlog=1024).start()
        urls = [address(listener) for listener in sockets]
        announce(config, urls, credentials.authority, next(iter(credentials.tokens)))
        await stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
        await runner.cleanup()


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    """A request whose body may be as large as the API allows."""
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


def _credentials(config: ApiServerConfig, sockets: list[socket.socket]) -> _Credentials:
    tokens = read_tokens(config.token_file or own_token(config.data.parent))
    if all(listener.family == socket.AF_UNIX for listener in sockets):
        return _Credentials(tokens, b"", None)
    if config.tls_cert and config.tls_key:
        context = server_context(config.tls_cert, config.tls_key)
        return _Credentials(tokens, config.tls_cert.read_bytes(), context)
    if config.tls_cert or config.tls_key:
        raise ValueError("a TLS certificate needs its key, and a key its certificate")
    hosts = {"localhost", "127.0.0.1", "::1"}
    hosts |= {str(s.getsockname()[0]) for s in sockets if s.family != socket.AF_UNIX}
    made = make_ca_and_cert(config.data.parent, sorted(hosts - {"0.0.0.0", "::"}))
    context = server_context(made.certificate, made.key)
    return _Credentials(tokens, made.authority.read_bytes(), context)


def own_token(directory: Path) -> Path:
    """The file with the server's own token; made if it is not there."""
    path = directory / "token"
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24).encode() + b"\n")
    return path


def announce(config: ApiServerConfig, urls: list[str], authority: bytes, token: str) -> None:
    """Write the kubeconfig for the first of `urls`, and say that the server can be used."""
    if config.kubeconfig_out:
        write_private(config.kubeconfig_out, _kubeconfig(urls[0], authority, token))
    if config.ready_fd is not None:
        with os.fdopen(config.ready_fd, "w") as ready:
            ready.write(json.dumps({"listen": urls}) + "\n")


def _kubeconfig(url: str, authority: bytes, token: str) -> bytes:
    """A kubeconfig for the first listener. JSON is YAML, and needs no library."""
    cluster = {"server": url}
    if authority:
        cluster["certificate-authority-data"] = base64.b64encode(authority).decode()
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fimbria", "cluster": cluster}],
        "users": [{"name": "admin", "user": {"token": token}}],
        "contexts": [{"name": "fimbria", "context": {"cluster": "fimbria", "user": "admin"}}],
        "current-context": "fimbria",
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def write_private(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    temporary.replace(path)
