"""The two servers that the contract is held against, behind one small client.

`api` runs every test against the embedded server and, where the environment variable KUBE_APISERVER
names a kube-apiserver, against that too (over the etcd that ETCD names, else the one beside it or
on PATH). Both are started by the same command. Each test gets a namespace of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import ssl
import subprocess
import sys
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

REAL, ETCD = os.environ.get("KUBE_APISERVER", ""), os.environ.get("ETCD", "")


@dataclass(frozen=True)
class Server:
    """Where a server is and how to get in."""

    url: str
    token: str
    real: bool


@dataclass(frozen=True)
class Answer:
    """An answered request: HTTP code and decoded body."""

    code: int
    body: Any


@dataclass(frozen=True)
class Api:
    """A client with a namespace; paths that do not start with / are below it."""

    session: aiohttp.ClientSession
    server: Server
    namespace: str

    def path(self, path: str, group: str = "") -> str:
        """`pods/x` or, with group `apps/v1`, `deployments/x`, in the test's namespace."""
        prefix = f"/apis/{group}" if group else "/api/v1"
        return f"{prefix}/namespaces/{self.namespace}/{path}"

    async def __call__(
        self, method: str, path: str, body: Any = None, content: str = "application/json",
        accept: str = "application/json", **query: str,
    ) -> Answer:  # fmt: skip
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body)
        async with self.session.request(
            method, self.server.url + path, data=data, params=query,
            headers={"Content-Type": content, "Accept": accept},
        ) as response:  # fmt: skip
            return Answer(response.status, await response.json(content_type=None))

    async def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Any:
        """Like a call, but the request must succeed; the body."""
        answer = await self(method, path, body, **options)
        assert answer.code < 300, answer.body
        return answer.body

    @contextlib.asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[Watch]:
        """An open watch."""
        query = {"watch": "1", "timeoutSeconds": "50", **query}
        async with self.session.get(self.server.url + path, params=query) as response:
            yield Watch(response)


@dataclass(frozen=True)
class Watch:
    """The events of a watch."""

    response: aiohttp.ClientResponse

    async def next(self) -> dict[str, Any]:
        """The next event, bookmarks included."""
        async with asyncio.timeout(30):
            line = await self.response.content.readline()
        assert line, "the watch ended"
        return json.loads(line)

    async def change(self) -> tuple[str, str]:
        """Type and object name of the next event that is not a bookmark."""
        while (event := await self.next())["type"] == "BOOKMARK":
            pass
        return event["type"], event["object"]["metadata"]["name"]


@pytest.fixture(scope="session", params=["embedded", *(["kube-apiserver"] if REAL else [])])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A running server."""
    directory = tmp_path_factory.mktemp("contract")
    real = request.param == "kube-apiserver"
    options = ["--kube-apiserver", REAL] if real else []
    if real and ETCD:
        options += ["--etcd", ETCD]
    token, tokens = secrets.token_hex(16), directory / "tokens"
    tokens.write_text(token)
    read, write = os.pipe()
    program = "from fimbria.apiserver.command import command; command()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "--data", str(directory / "data.db"), "--listen",
         "127.0.0.1:0", "--token-file", str(tokens), "--ready-fd", str(write), *options],
        pass_fds=[write],
    ) as process:  # fmt: skip
        os.close(write)
        with os.fdopen(read) as ready:
            line = ready.readline()
        assert line, "the server did not start: see what it wrote"
        (url,) = json.loads(line)["listen"]
        yield Server(url, token, real)
        process.terminate()


def _session(server: Server) -> aiohttp.ClientSession:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context),
        headers={"Authorization": f"Bearer {server.token}"},
    )


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    """A client with a namespace of its own."""
    async with _session(server) as session:
        client = Api(session, server, f"contract-{uuid.uuid4().hex[:8]}")
        await client.ok("POST", "/api/v1/namespaces", {"metadata": {"name": client.namespace}})
        yield client
        await client("DELETE", f"/api/v1/namespaces/{client.namespace}")
