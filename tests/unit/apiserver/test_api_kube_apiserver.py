"""What stands around a kube-apiserver: forwarding, registration, housekeeping, start-up errors."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from fimbria.apiserver import forward, housekeeping, processes, real
from fimbria.apiserver.kinds import definitions
from fimbria.apiserver.listeners import bind
from fimbria.apiserver.main import ApiServerConfig, ConfigError, run
from fimbria.apiserver.registration import PATH, register
from fimbria.apiserver.tls import make_ca_and_cert
from fimbria.sources.kube import KubeClient
from fimbria.sources.kubeconfig import Connection

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = "a-long-enough-token"


@contextlib.asynccontextmanager
async def serving(folder: Path, *listen: str) -> AsyncIterator[None]:
    """The embedded server, as a server that is there already."""
    tokens = folder / "tokens"
    tokens.write_text(TOKEN)
    read, write = os.pipe()
    config = ApiServerConfig(folder / "data.db", listen, tokens, ready_fd=write)
    task = asyncio.ensure_future(run(config))
    with os.fdopen(read) as ready:
        assert await asyncio.get_running_loop().run_in_executor(None, ready.readline)
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[KubeClient]:
    """A client of a server over a unix socket."""
    path = f"{tmp_path}/api.sock"
    async with (
        serving(tmp_path, f"unix:{path}"),
        KubeClient(Connection("http://api", path)) as made,
    ):
        yield made


async def test_both_kinds_of_listener_reach_the_server(tmp_path: Path) -> None:
    """TCP is passed on as TLS that the client verifies; a unix socket's plain HTTP is put in it."""
    (port,) = processes.free_ports(1)
    tcp, unix = bind("127.0.0.1:0"), bind(f"unix:{tmp_path}/front.sock")
    made = make_ca_and_cert(tmp_path)
    tls = ssl.create_default_context(cafile=str(made.authority))
    headers = {"Authorization": f"Bearer {TOKEN}"}
    async with (
        serving(tmp_path, f"127.0.0.1:{port}"),
        await forward.serve(tcp, port, tls),
        await forward.serve(unix, port, tls),
    ):
        for connector, url in (
            (aiohttp.UnixConnector(f"{tmp_path}/front.sock"), "http://api"),
            (aiohttp.TCPConnector(ssl=tls), f"https://127.0.0.1:{tcp.getsockname()[1]}"),
        ):
            async with (
                aiohttp.ClientSession(connector=connector, headers=headers) as session,
                session.get(f"{url}/api/v1/namespaces/default") as answer,
            ):
                assert (await answer.json())["metadata"]["name"] == "default"


async def test_a_server_that_is_away_closes_the_connection(tmp_path: Path) -> None:
    """A connection that cannot be passed on ends; the next one is taken."""
    (port,) = processes.free_ports(1)
    made = make_ca_and_cert(tmp_path)
    tls = ssl.create_default_context(cafile=str(made.authority))
    async with await forward.serve(bind(f"unix:{tmp_path}/front.sock"), port, tls):
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(f"{tmp_path}/front.sock")
            assert await reader.read() == b""
            writer.close()


def objects_in(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """All parts of a schema that are objects with properties."""
    below = [*schema.get("properties", {}).values()]
    below += [schema[name] for name in ("items", "additionalProperties") if name in schema]
    found = [schema] if "properties" in schema else []
    return [*found, *(one for part in below for one in objects_in(part))]


def test_definitions_keep_unknown_fields_everywhere() -> None:
    """No field is dropped by a server: a restriction unknown to us must reach the agents."""
    for definition in definitions():
        for version in definition["spec"]["versions"]:
            parts = objects_in(version["schema"]["openAPIV3Schema"])
            assert parts
            assert all(part["x-kubernetes-preserve-unknown-fields"] for part in parts)


def test_older_versions_are_served_and_not_kept() -> None:
    """CIDR groups come in two versions, and exactly one of them is how they are stored."""
    found = {one["spec"]["names"]["kind"]: one["spec"]["versions"] for one in definitions()}
    versions = {one["name"]: one["storage"] for one in found["CiliumCIDRGroup"]}
    assert versions == {"v2": True, "v2alpha1": False}


def test_definitions_are_complete() -> None:
    """Each built-in custom kind has short names, a structural schema, columns, its status."""
    found = {one["spec"]["names"]["kind"]: one for one in definitions()}
    policy = found["CiliumNetworkPolicy"]["spec"]
    assert policy["names"]["shortNames"] == ["cnp", "ciliumnp"]
    (version,) = policy["versions"]
    assert version["subresources"] == {"status": {}}
    assert version["schema"]["openAPIV3Schema"]["x-kubernetes-preserve-unknown-fields"]
    paths = [one["jsonPath"] for one in version["additionalPrinterColumns"]]
    assert paths == [".metadata.creationTimestamp", '.status.conditions[?(@.type=="Valid")].status']
    (endpoint,) = found["CiliumEndpoint"]["spec"]["versions"]
    assert "subresources" not in endpoint
    wide = {one["name"]: one["priority"] for one in endpoint["additionalPrinterColumns"]}
    assert (wide["Ingress Enforcement"], wide["IPv4"]) == (1, 0)


async def test_registering_twice_is_once(client: KubeClient) -> None:
    """Definitions that are there already are left alone, the missing one is made."""
    await client.request("DELETE", f"{PATH}/ciliumcidrgroups.cilium.io")
    assert await register(client) == ["ciliumcidrgroups.cilium.io"]
    assert await register(client) == []


def owned(name: str, owner: str, uid: str) -> dict[str, Any]:
    """An Endpoints object with one owner."""
    reference = {"apiVersion": "v1", "kind": owner, "name": "x", "uid": uid}
    if owner == "Stranger":
        reference["apiVersion"] = "example.com/v1"
    return {"metadata": {"name": name, "ownerReferences": [reference]}}


async def test_housekeeping(client: KubeClient) -> None:
    """What has no owner left goes, the rest stays; a namespace has its default account."""
    kind = housekeeping.KINDS["v1", "Endpoints"]
    service = await client.create(
        housekeeping.KINDS["v1", "Service"],
        {"metadata": {"name": "x"}, "spec": {"ports": [{"port": 1}]}},
        "default",
    )
    for document in (
        {"metadata": {"name": "free"}},
        owned("kept", "Service", service["metadata"]["uid"]),
        owned("left", "Service", "no-such-uid"),
        owned("foreign", "Stranger", "strange-uid"),
    ):
        await client.create(kind, document, "default")
    accounts = housekeeping.ACCOUNTS
    await client.delete(accounts, "default", "default")
    await housekeeping.Housekeeper(client).look()
    left = {one["metadata"]["name"] for one in (await client.list(kind)).items}
    assert left == {"free", "kept", "foreign"}
    assert [one["metadata"]["name"] for one in (await client.list(accounts, "default")).items]


def test_programs_are_found_or_named(tmp_path: Path) -> None:
    """etcd is the given one, the one beside kube-apiserver, or the one on PATH."""
    python = Path(sys.executable)
    assert processes.find(python, python).etcd == python
    server, etcd = tmp_path / "kube-apiserver", tmp_path / "etcd"
    for path in (server, etcd):
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    assert processes.find(server, None).etcd == etcd
    etcd.chmod(0o644)
    with pytest.raises(ValueError, match="etcd: is no program"):
        processes.find(server, None)


def test_start_up_errors_name_the_cause(tmp_path: Path) -> None:
    """A program that ends, and options that do not fit, end the command with the reason."""
    data = tmp_path / "data.db"
    false = Path("/bin/false")
    with pytest.raises(ConfigError, match="is no program"):
        real.serve(ApiServerConfig(data), tmp_path / "none", false)
    with pytest.raises(ConfigError, match="tls-cert"):
        real.serve(ApiServerConfig(data, tls_cert=data), false, false)
    with pytest.raises(ConfigError, match="/bin/false ended with 1"):
        real.serve(ApiServerConfig(data, ("127.0.0.1:0",)), false, false)
