"""The API is away, and comes back with another history: the node goes on, then follows it."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from tests.unit.agent.faultnode import Faults, policy, running, until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

KEY = "ciliumnetworkpolicies.cilium.io"


@pytest.fixture
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    with running(Faults(tmp_path_factory.mktemp("node"))) as made:
        made.add("one")
        made.add("two")
        yield made


def create(world: Faults, app: str) -> None:
    """Let nobody reach the pods of an app."""
    world.enforce(policy(f"closed-{app}", "nobody", app=app))


def blocked(world: Faults, source: str, target: str) -> bool:
    return not world.reaches(source, target, 0.3)


def disconnected(world: Faults) -> None:
    """Wait until the status says that the API is away, and why."""
    until(lambda: world.line("Kubernetes")["text"].startswith("Disconnected: "))
    assert world.line("Kubernetes")["state"] == "warning"


def connected(world: Faults) -> None:
    until(lambda: world.line("Kubernetes")["text"] == "Ok")


def test_what_was_known_holds_while_the_api_is_away(world: Faults) -> None:
    """Pods and policy go on, also while an agent starts that cannot ask; deleting a pod works."""
    create(world, "two")
    until(lambda: blocked(world, "one", "two"))
    world.add("three")
    world.stop_api()
    disconnected(world)
    assert blocked(world, "one", "two")
    assert world.reaches("two", "one")
    world.remove("three")
    world.kill()
    with (world.dir / "log").open("ab") as log:
        world.agent = world.spawn(world.command(), stderr=log)
    until(lambda: world.log().count("restored 2 endpoints") == 1)
    disconnected(world)
    assert blocked(world, "one", "two")
    assert world.reaches("two", "one")
    world.start_api()
    connected(world)
    assert blocked(world, "one", "two")
    world.lift("closed-two")
    until(lambda: world.reaches("one", "two", 0.3))


def test_the_past_is_no_longer_kept(world: Faults) -> None:
    """What changed while nobody looked, and cannot be told any more (410), is listed anew."""
    create(world, "two")
    until(lambda: blocked(world, "one", "two"))
    world.stop_api()
    disconnected(world)
    world.start_api("elsewhere.sock")
    world.lift("closed-two")
    create(world, "one")
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "later"}}
    assert world.api("POST", "/api/v1/namespaces", namespace)[0] == 201
    world.stop_api()
    with contextlib.closing(sqlite3.connect(world.dir / "db")) as database:
        (newest,) = database.execute(
            "SELECT max(rv) FROM history WHERE resource = ?", (KEY,)
        ).fetchone()
        assert newest
        database.execute("DELETE FROM history WHERE resource = ? AND rv <= ?", (KEY, newest))
        database.execute("INSERT OR REPLACE INTO floors VALUES (?, ?)", (KEY, newest))
        database.commit()
    assert blocked(world, "one", "two")
    world.start_api()
    until(lambda: blocked(world, "two", "one"))
    assert world.reaches("one", "two")
    connected(world)


def test_a_restored_backup(world: Faults) -> None:
    """Versions go back, objects are gone and back: what the API has now is what holds.

    A pod that runs though the backup has never heard of it keeps its network and its identity.
    """
    create(world, "two")
    until(lambda: blocked(world, "one", "two"))
    world.stop_api()
    backup = world.dir / "backup"
    backup.mkdir()
    for file in world.dir.glob("db*"):
        shutil.copy(file, backup)
    world.start_api()
    connected(world)
    world.lift("closed-two")
    create(world, "one")
    world.add("three")
    until(lambda: blocked(world, "two", "one"))
    assert world.reaches("one", "two")
    for number in range(30):  # so that the versions that come back are behind
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"n{number}"}}
        assert world.api("POST", "/api/v1/namespaces", body)[0] == 201
    identity = world.ask("GET", "/v1/endpoint/container-id:three")[1]["identity"]["id"]
    world.stop_api()
    for file in world.dir.glob("db*"):
        file.unlink()
    for file in backup.iterdir():
        shutil.copy(file, world.dir)
    world.start_api()
    until(lambda: blocked(world, "one", "two"))
    until(lambda: world.reaches("two", "one", 0.3))
    assert world.reaches("three", "one")
    connected(world)

    def kept() -> bool:
        return world.api("GET", f"/apis/cilium.io/v2/ciliumidentities/{identity}")[0] == 200

    until(kept)
    until(lambda: world.ask("GET", "/v1/healthz")[1]["state"] == "Ok")
