"""Client and reflector against the embedded API: lists, watches, an API that goes away."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from fimbria.sources import reflector as reflector_module
from fimbria.sources.errors import (
    DecodeError,
    KubeError,
    KubeUnreachable,
    is_already_exists,
    is_conflict,
    is_gone,
    is_not_found,
    is_transient,
)
from fimbria.sources.kube import KubeClient
from fimbria.sources.reflector import Change, Reflector
from fimbria.sources.resources import (
    CILIUM_ENDPOINTS,
    CILIUM_IDENTITIES,
    NAMESPACES,
    PODS,
    CiliumIdentity,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

TOKEN = "only-for-this-test"


class ApiProcess:
    """An embedded API server on a unix socket; can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: asyncio.subprocess.Process | None = None
        (folder / "tokens").write_text(f"{TOKEN},admin\n")
        self.kubeconfig = folder / "kubeconfig"

    async def start(self, data: str = "data.db") -> None:
        reader, writer = os.pipe()
        socket = self.folder / "api.sock"
        socket.unlink(missing_ok=True)
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "fimbria.cli.main", "apiserver", "--data", str(self.folder / data)),
            *("--listen", f"unix:{socket}", "--token-file", str(self.folder / "tokens")),
            *("--kubeconfig-out", str(self.kubeconfig), "--ready-fd", str(writer)),
            pass_fds=[writer],
        )
        os.close(writer)
        with os.fdopen(reader) as ready:
            line = await asyncio.to_thread(ready.readline)
        assert json.loads(line)["listen"]

    async def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            await self.process.wait()
            self.process = None


@pytest.fixture
async def api(tmp_path: Path) -> AsyncGenerator[ApiProcess]:
    server = ApiProcess(tmp_path)
    await server.start()
    yield server
    await server.kill()


@pytest.fixture
async def client(api: ApiProcess) -> AsyncGenerator[KubeClient]:
    async with KubeClient.from_kubeconfig(api.kubeconfig) as made:
        yield made


class Seen:
    """Collects changes, and lets a test wait for a state of the rows."""

    def __init__(self) -> None:
        self.batches: list[Sequence[Change[CiliumIdentity]]] = []
        self.changed = asyncio.Condition()

    def __call__(self, changes: Sequence[Change[CiliumIdentity]]) -> None:
        self.batches.append(changes)
        self._task = asyncio.get_running_loop().create_task(self._notify())

    async def _notify(self) -> None:
        async with self.changed:
            self.changed.notify_all()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(condition)


@asynccontextmanager
async def running(client: KubeClient, seen: Seen) -> AsyncGenerator[Reflector]:
    made = Reflector(client, CILIUM_IDENTITIES, lambda item: item, seen)
    task = asyncio.create_task(made.run())
    try:
        async with asyncio.timeout(20):
            await made.synced.wait()
        yield made
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def identity(number: int, **labels: str) -> dict[str, object]:
    return {"metadata": {"name": str(number)}, "security-labels": labels}


async def test_errors_have_predicates(client: KubeClient) -> None:
    """What went wrong is asked with predicates, not with numbers or texts."""
    await client.create(CILIUM_IDENTITIES, identity(300, a="b"))
    with pytest.raises(KubeError) as caught:
        await client.create(CILIUM_IDENTITIES, identity(300, a="c"))
    assert is_already_exists(caught.value)
    assert not is_conflict(caught.value)
    with pytest.raises(KubeError) as caught:
        await client.get(CILIUM_IDENTITIES, "301")
    assert is_not_found(caught.value)
    old = await client.get(CILIUM_IDENTITIES, "300")
    await client.patch(CILIUM_IDENTITIES, "300", {"security-labels": {"x": "y"}})
    stale = {**identity(300), "metadata": {"name": "300"}}
    stale["metadata"]["resourceVersion"] = old.metadata.resource_version  # type: ignore[index]
    with pytest.raises(KubeError) as caught:
        await client.update(CILIUM_IDENTITIES, "300", stale)
    assert is_conflict(caught.value)
    with pytest.raises(KubeError) as caught:
        await client.delete(
            CILIUM_IDENTITIES, "300", resource_version=old.metadata.resource_version
        )
    assert is_conflict(caught.value)
    await client.delete(CILIUM_IDENTITIES, "300")


async def test_lists_come_in_pages(client: KubeClient) -> None:
    """A list larger than a page is read page by page, and is complete."""
    for number in range(300, 325):
        await client.create(CILIUM_IDENTITIES, identity(number))
    page = await client.list(CILIUM_IDENTITIES, limit=7)
    assert sorted(item.metadata.name for item in page.items) == [str(n) for n in range(300, 325)]
    assert page.resource_version


async def test_a_malformed_object_does_not_spoil_the_list(client: KubeClient) -> None:
    """An object that has not its kind's form is reported by name; the others are delivered."""
    for name, number in (("good", 7), ("bad", "seven")):
        body = {"metadata": {"name": name}, "status": {"id": number}}
        document = {"apiVersion": "cilium.io/v2", "kind": "CiliumEndpoint", **body}
        await client.request("POST", CILIUM_ENDPOINTS.path("default"), body=document)
    complaints: list[DecodeError] = []
    client.on_malformed = complaints.append
    page = await client.list(CILIUM_ENDPOINTS)
    assert [item.metadata.name for item in page.items] == ["good"]
    assert [(one.kind, one.name) for one in complaints] == [("CiliumEndpoint", "default/bad")]
    assert "status.id" in str(complaints[0])


async def test_changes_arrive_as_transactions(client: KubeClient) -> None:
    """The first list is one batch; later changes carry what was before and what is now."""
    for number in (300, 301):
        await client.create(CILIUM_IDENTITIES, identity(number, a="b"))
    seen = Seen()
    async with running(client, seen) as made:
        assert len(seen.batches) == 1
        await client.patch(CILIUM_IDENTITIES, "300", {"security-labels": {"a": "c"}})
        await seen.until(lambda: len(seen.batches) == 2)
        (change,) = seen.batches[1]
        assert change.old.security_labels == {"a": "b"}
        assert change.new.security_labels == {"a": "c"}
        await client.delete(CILIUM_IDENTITIES, "301")
        await seen.until(lambda: ("", "301") not in made.rows)
        assert seen.batches[-1][0].new is None


async def test_an_api_that_is_away_takes_nothing_away(
    api: ApiProcess, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the API is gone the rows stay; when it is back, what changed meanwhile arrives."""
    monkeypatch.setattr(reflector_module, "BACKOFF_MAX", 0.1)
    await client.create(CILIUM_IDENTITIES, identity(300, a="b"))
    seen = Seen()
    async with running(client, seen) as made:
        await api.kill()
        with pytest.raises(KubeUnreachable) as caught:
            await client.list(CILIUM_IDENTITIES)
        assert is_transient(caught.value)
        assert set(made.rows) == {("", "300")}
        assert made.synced.is_set()
        await api.start()
        await client.create(CILIUM_IDENTITIES, identity(301))
        await seen.until(lambda: ("", "301") in made.rows)
        assert set(made.rows) == {("", "300"), ("", "301")}


async def test_another_history_replaces_what_was_known(
    api: ApiProcess, client: KubeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server restored from elsewhere, whose versions are behind ours, is believed anew."""
    monkeypatch.setattr(reflector_module, "BACKOFF_MAX", 0.1)
    for number in range(300, 330):
        await client.create(CILIUM_IDENTITIES, identity(number))
    seen = Seen()
    async with running(client, seen) as made:
        await api.kill()
        await api.start("other.db")
        await client.create(CILIUM_IDENTITIES, identity(400))
        await seen.until(lambda: set(made.rows) == {("", "400")})


async def test_a_kind_that_the_server_lacks(client: KubeClient) -> None:
    """An optional kind that is not served is an empty list, and no trouble."""
    from fimbria.sources.resources import Resource

    nowhere = Resource("cilium.io", "v2", "ciliumnowheres", "CiliumNowhere", True, dict)
    made = Reflector(client, nowhere, lambda item: item, lambda changes: None, optional=True)
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(20):
        await made.synced.wait()
    assert made.rows == {}
    assert (made.health.absent, made.health.last_error) == (True, "")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_kind_in_an_older_version(client: KubeClient) -> None:
    """Where the server has a kind in an older version only, that one is taken."""
    from fimbria.sources.resources import Resource

    newer = Resource("cilium.io", "v9", "ciliumidentities", "CiliumIdentity", False, CiliumIdentity)
    await client.create(CILIUM_IDENTITIES, identity(500))
    made = Reflector(
        client, newer, lambda item: item, lambda changes: None, optional=True,
        older=(CILIUM_IDENTITIES,),
    )  # fmt: skip
    task = asyncio.create_task(made.run())
    async with asyncio.timeout(20):
        await made.synced.wait()
    assert ("", "500") in made.rows
    assert not made.health.absent
    assert made.resource is CILIUM_IDENTITIES
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_field_selectors_and_namespaces(client: KubeClient) -> None:
    """A pod list can be narrowed to a node, as the agent does."""
    await client.create(NAMESPACES, {"metadata": {"name": "ns", "labels": {"k": "v"}}})
    for name, node in (("a", "one"), ("b", "two")):
        spec = {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}
        await client.create(PODS, {"metadata": {"name": name}, "spec": spec}, "ns")
    page = await client.list(PODS, field_selector="spec.nodeName=two")
    assert [(pod.metadata.namespace, pod.metadata.name) for pod in page.items] == [("ns", "b")]
    assert page.items[0].spec.node_name == "two"


def test_what_counts_as_gone() -> None:
    """410, Expired, and a version from the future mean: list again."""
    assert is_gone(KubeError(410, "Gone", "x"))
    assert is_gone(KubeError(500, "Expired", "x"))
    assert is_gone(KubeError(504, "Timeout", "Too large resource version: 9, current: 3"))
    assert not is_gone(KubeError(504, "Timeout", "slow"))
