"""Sending what became of policies: few requests, nothing lost, one bad object holds up no other."""

from __future__ import annotations

import copy
from typing import Any, cast

import pytest

from fimbria.agent.held import Held
from fimbria.agent.publish import PolicyStatusPublisher
from fimbria.model.policy import PolicyKey
from fimbria.sources.errors import KubeError, KubeUnreachable
from fimbria.sources.resources import CILIUM_NETWORK_POLICIES, EVENTS, Resource


class Api:
    """Keeps policies and events; `fails` are raised once each, by name and verb."""

    def __init__(self, *names: str) -> None:
        self.objects: dict[str, dict[str, Any]] = {
            name: {"metadata": {"name": name, "namespace": "x", "uid": name, "generation": 1,
                                "resourceVersion": "1"}}
            for name in names
        }  # fmt: skip
        self.events: list[str] = []
        self.requests: list[tuple[str, str]] = []
        self.fails: dict[tuple[str, str], Exception] = {}

    def _note(self, verb: str, name: str) -> None:
        self.requests.append((verb, name))
        if (error := self.fails.pop((verb, name), None)) is not None:
            raise error

    async def get(self, resource: Resource[Any], name: str, namespace: str) -> Any:
        self._note("get", name)
        if name not in self.objects:
            raise KubeError(404, "NotFound", "gone")
        return copy.deepcopy(self.objects[name])

    async def patch(
        self, resource: Resource[Any], name: str, body: Any, namespace: str, *, subresource: str
    ) -> None:
        self._note("patch", name)
        document = self.objects[name]
        assert subresource == "status"
        assert body["metadata"]["resourceVersion"] == document["metadata"]["resourceVersion"]
        document["status"] = body["status"]

    async def create(self, resource: Resource[Any], body: Any, namespace: str) -> None:
        assert resource is EVENTS
        self.events.append(body["message"])

    def held(self, name: str, *, error: str = "", withheld: str = "") -> Held:
        document = copy.deepcopy(self.objects[name])
        key = PolicyKey("CiliumNetworkPolicy", "x", name)
        return Held(key, CILIUM_NETWORK_POLICIES, document, error=error, withheld=withheld)

    def message(self, name: str) -> str:
        return self.objects[name]["status"]["conditions"][0]["message"]


@pytest.fixture
def api() -> Api:
    return Api("a", "b")


@pytest.fixture
def publisher(api: Api) -> PolicyStatusPublisher:
    return PolicyStatusPublisher(cast("Any", api), "one", lambda: 1000.0)


async def test_what_stands_there_already_costs_nothing(
    api: Api, publisher: PolicyStatusPublisher
) -> None:
    """An agent that starts finds the conditions in its list, and asks for nothing."""
    publisher.report(api.held("a"))
    await publisher.run()
    assert api.requests == [("get", "a"), ("patch", "a")]
    api.requests.clear()
    publisher.report(api.held("a"))
    await publisher.run()
    assert api.requests == []


async def test_the_second_node_writes_nothing(api: Api, publisher: PolicyStatusPublisher) -> None:
    """A node whose list is older looks once, and sees that another node was first."""
    other = PolicyStatusPublisher(cast("Any", api), "two", lambda: 2000.0)
    old = api.held("a")
    publisher.report(api.held("a"))
    await publisher.run()
    api.requests.clear()
    other.report(old)
    await other.run()
    assert api.requests == [("get", "a")]


async def test_a_conflict_is_looked_at_again(api: Api, publisher: PolicyStatusPublisher) -> None:
    """Somebody wrote in between: read and decide anew."""
    api.fails["patch", "a"] = KubeError(409, "Conflict", "the object has been modified")
    publisher.report(api.held("a", error="spec.x: no such field"))
    await publisher.run()
    assert api.message("a") == "spec.x: no such field"
    assert api.events == ["spec.x: no such field"]


async def test_one_failure_holds_up_no_other(api: Api, publisher: PolicyStatusPublisher) -> None:
    """What failed stays pending, the others are sent; an object that is gone is forgotten."""
    gone = api.held("a")
    del api.objects["a"]
    publisher.report(gone)
    api.objects["c"] = copy.deepcopy(api.objects["b"])
    api.objects["c"]["metadata"]["name"] = "c"
    for name in "bc":
        publisher.report(api.held(name))
    api.fails["get", "b"] = KubeError(403, "Forbidden", "not allowed")
    with pytest.raises(KubeError, match="not allowed"):
        await publisher.run()
    assert "status" in api.objects["c"]
    await publisher.run()
    assert "status" in api.objects["b"]
    api.requests.clear()
    await publisher.run()
    assert api.requests == []


async def test_without_an_api_everything_stays_pending(
    api: Api, publisher: PolicyStatusPublisher
) -> None:
    """The first failure to reach it is enough; nothing more is tried, nothing is lost."""
    for name in "ab":
        publisher.report(api.held(name))
    api.fails["get", "a"] = KubeUnreachable("no answer")
    with pytest.raises(KubeUnreachable):
        await publisher.run()
    assert api.requests == [("get", "a")]
    await publisher.run()
    assert all("status" in one for one in api.objects.values())


async def test_what_is_told_meanwhile_is_sent(api: Api, publisher: PolicyStatusPublisher) -> None:
    """A judgement that changes while the one before is sent is sent after it."""
    held = api.held("a", withheld="too large")
    publisher.report(held)
    plain = api.patch

    async def patch(*words: Any, **more: Any) -> None:
        await plain(*words, **more)
        if held.withheld:
            held.withheld = ""
            held.document = copy.deepcopy(api.objects["a"])
            publisher.report(held)

    setattr(api, "patch", patch)  # noqa: B010 - a method
    await publisher.run()
    assert len(api.objects["a"]["status"]["conditions"]) == 2
    await publisher.run()
    assert len(api.objects["a"]["status"]["conditions"]) == 1
    assert api.events == ["one: too large"]


async def test_an_older_generation_is_not_written(
    api: Api, publisher: PolicyStatusPublisher
) -> None:
    """What is about a version that is no longer the object's is left to the watch."""
    old = api.held("a", error="spec.x: no such field")
    api.objects["a"]["metadata"]["generation"] = 2
    publisher.report(old)
    await publisher.run()
    assert api.requests == [("get", "a")]
