"""The two servers that the contract is held against, behind one small client.

`api` runs every test against the embedded server and, where the environment variable KUBE_APISERVER
names a kube-apiserver and an etcd is on PATH, against that too. Each test gets a namespace of its
own.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from fimbria.apiserver.kinds import definitions

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

START_SECONDS = 60.0
REAL = os.environ.get("KUBE_APISERVER", "")


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
    if request.param == "embedded":
        yield from _embedded(directory)
        return
    etcd = shutil.which("etcd") or shutil.which("etcd", path=str(Path(sys.executable).parent))
    if not etcd:
        pytest.skip("there is no etcd on PATH for the kube-apiserver")
    yield from _real(directory, REAL, etcd)


def _embedded(directory: Path) -> Iterator[Server]:
    token, tokens = secrets.token_hex(16), directory / "tokens"
    tokens.write_text(token)
    read, write = os.pipe()
    program = "from fimbria.apiserver.command import command; command()"
    with subprocess.Popen(
        [sys.executable, "-c", program, "--data", str(directory / "data.db"), "--listen",
         "127.0.0.1:0", "--token-file", str(tokens), "--ready-fd", str(write)],
        pass_fds=[write],
    ) as process:  # fmt: skip
        os.close(write)
        with os.fdopen(read) as ready:
            (url,) = json.loads(ready.readline())["listen"]
        yield Server(url, token, real=False)
        process.terminate()


def _real(directory: Path, binary: str, etcd: str) -> Iterator[Server]:
    client, peer, port = _free_port(), _free_port(), _free_port()
    store = f"http://127.0.0.1:{client}"
    token, tokens, key = secrets.token_hex(16), directory / "tokens", directory / "sa.key"
    tokens.write_text(f'{token},admin,1,"system:masters"\n')
    subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
    with (
        subprocess.Popen(
            [etcd, "--data-dir", str(directory / "etcd"), "--listen-client-urls", store,
             "--advertise-client-urls", store, "--listen-peer-urls", f"http://127.0.0.1:{peer}",
             "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
             "--initial-cluster", f"default=http://127.0.0.1:{peer}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as database,
        subprocess.Popen(
            [binary, "--etcd-servers", store, "--secure-port", str(port),
             "--bind-address", "127.0.0.1", "--cert-dir", str(directory / "certs"),
             "--token-auth-file", str(tokens), "--authorization-mode", "RBAC",
             "--service-account-issuer", "https://kubernetes.default.svc",
             "--service-account-key-file", str(key),
             "--service-account-signing-key-file", str(key),
             "--service-cluster-ip-range", "10.96.0.0/12",
             "--disable-admission-plugins", "ServiceAccount"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        ) as process,
    ):  # fmt: skip
        try:
            found = Server(f"https://127.0.0.1:{port}", token, real=True)
            asyncio.run(_prepare(found))
            yield found
        finally:
            process.terminate()
            process.wait()
            database.terminate()


async def _prepare(server: Server) -> None:
    """Wait until the server is ready and knows the cilium.io kinds."""
    end = time.monotonic() + START_SECONDS
    async with _session(server) as session:
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(server.url + "/readyz") as response:
                    if response.status == 200:
                        break
            assert time.monotonic() < end, "the kube-apiserver did not become ready"
            await asyncio.sleep(0.2)
        url = server.url + "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
        for definition in definitions():
            async with session.post(url, json=definition) as response:
                assert response.status in (201, 409), await response.text()
        while time.monotonic() < end:
            async with session.get(server.url + "/apis/cilium.io/v2/ciliumidentities") as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
