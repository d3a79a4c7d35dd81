"""The server as a whole: listeners, credentials, start-up errors, and requests of every kind."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from fimbria.apiserver.main import ApiServerConfig, ConfigError, run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

NOW = 1_700_000_000.0


class Clock:
    """A clock that stands where it is put."""

    def __init__(self) -> None:
        self.time = NOW

    def __call__(self) -> float:
        return self.time


@contextlib.asynccontextmanager
async def serving(config: ApiServerConfig, clock: Clock | None = None) -> AsyncIterator[list[str]]:
    """A server in this process; its URLs."""
    read, write = os.pipe()
    task = asyncio.ensure_future(run(replace(config, ready_fd=write), clock or Clock()))
    loop = asyncio.get_running_loop()
    line = loop.run_in_executor(None, _read_line, read)
    await asyncio.wait([task, line], return_when=asyncio.FIRST_COMPLETED)
    try:
        if task.done():
            await task
        yield json.loads(await line)["listen"]
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def _read_line(descriptor: int) -> str:
    with os.fdopen(descriptor) as file:
        return file.readline()


@pytest.fixture
def config(tmp_path: Path) -> ApiServerConfig:
    return ApiServerConfig(tmp_path / "data.db", (f"unix:{tmp_path}/api.sock",))


def over_unix(config: ApiServerConfig) -> aiohttp.ClientSession:
    path = config.listen[0].removeprefix("unix:")
    return aiohttp.ClientSession("http://api", connector=aiohttp.UnixConnector(path))


async def send(client: aiohttp.ClientSession, method: str, path: str, **options: Any) -> Any:
    """A request that must succeed; the decoded answer."""
    async with client.request(method, path, **options) as response:
        assert response.status < 300, await response.text()
        return await response.json()


async def test_root_needs_no_token_on_the_unix_socket(config: ApiServerConfig) -> None:
    """The unix socket is for its owner only, and takes root without a token."""
    async with serving(config), over_unix(config) as client:
        assert os.stat(config.listen[0].removeprefix("unix:")).st_mode & 0o777 == 0o600
        listing = await send(client, "GET", "/api/v1/namespaces")
        names = [n["metadata"]["name"] for n in listing["items"]]
    assert {"default", "kube-system"} <= set(names)


async def test_the_kubeconfig_is_all_a_client_needs(
    config: ApiServerConfig, tmp_path: Path
) -> None:
    """TCP is TLS with a certificate that the kubeconfig vouches for, and the token in it works."""
    path = tmp_path / "kubeconfig"
    config = replace(config, listen=("127.0.0.1:0",), kubeconfig_out=path)
    seen = []
    for _ in range(2):  # credentials outlive a restart
        async with serving(config) as (url,):
            assert path.stat().st_mode & 0o777 == 0o600
            document = json.loads(path.read_text())
            cluster, user = document["clusters"][0]["cluster"], document["users"][0]["user"]
            assert cluster["server"] == url
            authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
            trust = ssl.create_default_context(cadata=authority)
            headers = {"Authorization": f"Bearer {user['token']}"}
            async with aiohttp.ClientSession() as client:
                async with client.get(f"{url}/version", ssl=trust, headers=headers) as response:
                    assert (await response.json())["major"] == "1"
                async with client.get(f"{url}/version", ssl=trust) as response:
                    assert response.status == 401
                    assert (await response.json())["reason"] == "Unauthorized"
                async with client.get(f"{url}/readyz", ssl=trust) as response:
                    assert await response.text() == "ok"
            seen.append((authority, user["token"]))
    assert seen[0] == seen[1]


async def test_an_inherited_socket_can_be_served(config: ApiServerConfig) -> None:
    """fd:N serves a socket that somebody else bound, such as in another network namespace."""
    with socket.create_server(("127.0.0.1", 0)) as bound:
        port, inherited = bound.getsockname()[1], os.dup(bound.fileno())
        async with serving(replace(config, listen=(f"fd:{inherited}",))) as urls:
            assert urls == [f"https://127.0.0.1:{port}"]


async def test_a_stale_unix_socket_is_replaced(config: ApiServerConfig, tmp_path: Path) -> None:
    """A socket that a killed server left does not keep the next one from starting."""
    left = socket.socket(socket.AF_UNIX)
    left.bind(f"{tmp_path}/api.sock")
    left.close()
    async with serving(config):
        other = replace(config, data=tmp_path / "other.db")
        with pytest.raises(ConfigError, match="a server is listening there"):
            await run(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"listen": ("nonsense",)}, "HOST:PORT"),
        ({"listen": ("127.0.0.1:99999",)}, "127.0.0.1:99999"),
        ({"listen": ("fd:999",)}, "fd:999"),
        ({"listen": ("192.0.2.1:1",)}, "192.0.2.1:1"),
        ({"listen": ("unix:/nowhere/x",)}, "/nowhere/x"),
        ({"token_file": Path("/nowhere/tokens")}, "/nowhere/tokens"),
        ({"listen": ("127.0.0.1:0",), "tls_cert": Path("/x")}, "needs its key"),
        ({"listen": ("127.0.0.1:0",), "tls_cert": Path("/x"), "tls_key": Path("/y")}, "No such"),
        ({"data": Path("/proc/self/status/data.db")}, "/proc/self/status"),
    ],
)
async def test_what_cannot_be_had_is_a_start_up_error(
    config: ApiServerConfig, change: dict[str, Any], message: str
) -> None:
    """The server says what is wrong and does not start half."""
    with pytest.raises(ConfigError, match=message):
        await run(replace(config, **change))


@pytest.mark.parametrize("content", ["", "# nothing\n", "short\n"])
async def test_token_files_are_checked(
    config: ApiServerConfig, tmp_path: Path, content: str
) -> None:
    """A token file without a proper token is an error that names it."""
    path = tmp_path / "tokens"
    path.write_text(content)
    with pytest.raises(ConfigError, match=str(path)):
        await run(replace(config, token_file=path))


async def test_a_watch_goes_on_across_a_restart(config: ApiServerConfig) -> None:
    """A client that watches from its last version after a restart misses nothing."""
    path = "/api/v1/namespaces/default/configmaps"
    async with serving(config), over_unix(config) as client:
        version = (await send(client, "GET", path))["metadata"]["resourceVersion"]
        for name in ("a", "b"):
            await send(client, "POST", path, json={"metadata": {"name": name}})
        await send(client, "DELETE", f"{path}/a")
    async with serving(config), over_unix(config) as client:
        query = {"watch": "1", "resourceVersion": version, "labelSelector": "!x"}
        async with client.get(path, params=query) as response:
            lines = [json.loads(await response.content.readline()) for _ in range(3)]
    assert [(e["type"], e["object"]["metadata"]["name"]) for e in lines] == [
        ("ADDED", "a"), ("ADDED", "b"), ("DELETED", "a"),
    ]  # fmt: skip


async def test_old_events_go(config: ApiServerConfig) -> None:
    """Events are kept for an hour."""
    clock, path = Clock(), "/api/v1/namespaces/default/events"
    async with serving(config, clock), over_unix(config) as client:
        event = {"metadata": {"name": "e"}, "involvedObject": {}}
        await send(client, "POST", path, json=event)
    for hours, left in ((0.9, 1), (1.1, 0)):
        clock.time = NOW + hours * 3600
        async with serving(config, clock), over_unix(config) as client:
            assert len((await send(client, "GET", path))["items"]) == left


NEST = b'{"metadata":{"name":"x"},"data":' + b'{"a":' * 5000 + b"1" + b"}" * 5000 + b"}"


@pytest.mark.parametrize(
    ("method", "path", "content", "body", "code"),
    [
        ("POST", "configmaps", "application/json", b"", 400),
        ("POST", "configmaps", "application/json", b"[]", 400),
        ("POST", "configmaps", "application/json", b"\xff\xfe", 400),
        ("POST", "configmaps", "application/json", b'{"metadata":[]}', 400),
        ("POST", "configmaps", "application/json", b'{"metadata":{"name":{}}}', 422),
        ("POST", "configmaps", "application/json", b'{"kind":"Secret","metadata":{}}', 400),
        ("POST", "configmaps", "application/json", NEST, 400),
        ("POST", "configmaps", "text/yaml", b"metadata: {}", 415),
        ("POST", "configmaps", "application/json", b" " * (4 << 20), 413),
        ("POST", "configmaps/x", "application/json", b"{}", 405),
        ("PUT", "configmaps", "application/json", b"{}", 405),
        ("PUT", "configmaps/none", "application/json", b"{}", 404),
        ("PATCH", "configmaps/made", "application/json-patch+json", b"{}", 400),
        ("PATCH", "configmaps/made", "application/merge-patch+json", b"[]", 400),
        ("PATCH", "configmaps/made", "application/merge-patch+json", b"null", 400),
        ("PATCH", "configmaps/made", "application/merge-patch+json", b'{"data":{"a":[]}}', 422),
        ("PATCH", "configmaps/made", "application/apply-patch+yaml", b"{}", 415),
        ("PATCH", "configmaps/made/status", "application/merge-patch+json", b"{}", 404),
        ("DELETE", "configmaps/made", "application/json", b"[]", 400),
        ("DELETE", "configmaps/made", "application/json", b'{"gracePeriodSeconds":"x"}', 400),
        ("OPTIONS", "configmaps", "application/json", b"", 405),
        ("GET", "configmaps/made/log", "application/json", b"", 404),
        ("GET", "configmaps?limit=-1", "application/json", b"", 400),
        ("GET", "configmaps?watch=1&labelSelector=%00", "application/json", b"", 400),
        ("PATCH", "finalize", "application/merge-patch+json", b"[]", 400),
        ("POST", "pods/made/eviction", "application/json", b'{"deleteOptions":[1]}', 400),
        ("POST", "pods/made/binding", "application/json", b'{"target":"n"}', 422),
        ("GET", "pods/none/log", "application/json", b"", 404),
        ("GET", "../../../etc/passwd", "application/json", b"", 404),
    ],
)  # fmt: skip
async def test_bad_requests_get_a_status(
    config: ApiServerConfig, method: str, path: str, content: str, body: bytes, code: int
) -> None:
    """Whatever is wrong with a request, the answer is a Status object with the fitting code."""
    prefix = "/api/v1/namespaces/default/"
    async with serving(config), over_unix(config) as client:
        made = {"metadata": {"name": "made"}}
        await send(client, "POST", prefix + "configmaps", json=made)
        pod = {**made, "spec": {"containers": [{"name": "a", "image": "a"}]}}
        await send(client, "POST", prefix + "pods", json=pod)
        headers = {"Content-Type": content}
        async with client.request(
            method, prefix + path, data=io.BytesIO(body), headers=headers
        ) as response:
            assert response.status == code, await response.text()
            status = await response.json()
    assert (status["kind"], status["code"]) == ("Status", code)
    assert status["message"]


async def test_open_watches_end_with_the_server(config: ApiServerConfig) -> None:
    """The server stops although clients watch, and their watches end."""
    async with over_unix(config) as client:
        async with serving(config):
            path, query = "/api/v1/pods", {"watch": "1"}
            watches = [await client.get(path, params=query) for _ in range(20)]
            watches.pop().close()
        for watch in watches:
            with contextlib.suppress(aiohttp.ClientPayloadError):
                assert await watch.read() == b""
            watch.close()
