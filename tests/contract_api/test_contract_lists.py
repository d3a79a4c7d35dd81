"""What clients rely on when they list, watch and discover."""

from __future__ import annotations

import asyncio
from typing import Any

TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def config(name: str, /, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


async def fill(api, *names: str) -> None:
    for name in names:
        await api.ok("POST", api.path("configmaps"), config(name, name=name))


def names(listing: dict[str, Any]) -> list[str]:
    found = [item["metadata"]["name"] for item in listing["items"]]
    return [name for name in found if name != "kube-root-ca.crt"]


async def test_list_is_sorted_and_has_a_version(api) -> None:
    """A list comes in the order of names with the version to watch from."""
    await fill(api, "b", "c", "a")
    listing = await api.ok("GET", api.path("configmaps"))
    assert listing["kind"] == "ConfigMapList"
    assert int(listing["metadata"]["resourceVersion"]) > 0
    assert names(listing) == ["a", "b", "c"]


async def test_selectors(api) -> None:
    """Label selectors in all their forms, and field selectors."""
    for name, labels in (("a", {"x": "1"}), ("b", {"x": "2", "y": "1"}), ("c", {})):
        await api.ok("POST", api.path("secrets"), config(name, **labels))
    for selector, wanted in (
        ("x", "ab"), ("!x", "c"), ("x=1", "a"), ("x==1", "a"), ("x!=1", "bc"),
        ("x in (1,2)", "ab"), ("x notin (1)", "bc"), ("x,y", "b"), ("x=2,y in (1, 3)", "b"),
        ("x>1", "b"), ("x=", ""),
    ):  # fmt: skip
        listing = await api.ok("GET", api.path("secrets"), labelSelector=selector)
        assert "".join(names(listing)) == wanted, selector
    listing = await api.ok("GET", api.path("secrets"), fieldSelector="metadata.name!=a")
    assert names(listing) == ["b", "c"]
    for field, text in (("labelSelector", "x in"), ("fieldSelector", "data.x=1")):
        answer = await api("GET", api.path("secrets"), **{field: text})
        assert (answer.code, answer.body["reason"]) == (400, "BadRequest")


async def test_pods_by_node(api) -> None:
    """The selector by which each node follows its own pods works for lists and watches."""
    spec = {"containers": [{"name": "a", "image": "a"}]}
    async with api.watch(api.path("pods"), fieldSelector="spec.nodeName=n1") as watch:
        for name, node in (("p", "n2"), ("q", "n1")):
            body = {"metadata": {"name": name}, "spec": {**spec, "nodeName": node}}
            await api.ok("POST", api.path("pods"), body)
        assert await watch.change() == ("ADDED", "q")
    listing = await api.ok("GET", api.path("pods"), fieldSelector="spec.nodeName=n1")
    assert names(listing) == ["q"]


async def test_pages_show_one_moment(api) -> None:
    """Pages of a list are of one version, whatever happens between them."""
    await fill(api, "a", "c", "e", "g")
    path, options = api.path("configmaps"), {"labelSelector": "name"}
    first = await api.ok("GET", path, limit="2", **options)
    assert names(first) == ["a", "c"]
    await fill(api, "d")
    await api.ok("DELETE", api.path("configmaps/e"))
    token = first["metadata"]["continue"]
    second = await api.ok("GET", path, limit="2", **options, **{"continue": token})
    assert names(second) == ["e", "g"]
    assert "continue" not in second["metadata"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


async def test_watch_tells_every_change_after_a_version(api) -> None:
    """A watch from a list's version loses nothing and repeats nothing."""
    await fill(api, "a")
    listing = await api.ok("GET", api.path("configmaps"))
    await fill(api, "b")
    version = listing["metadata"]["resourceVersion"]
    async with api.watch(api.path("configmaps"), resourceVersion=version) as watch:
        assert await watch.change() == ("ADDED", "b")
        await api.ok("PUT", api.path("configmaps/a"), {**config("a"), "data": {"x": "1"}})
        assert await watch.change() == ("MODIFIED", "a")
        await api.ok("DELETE", api.path("configmaps/a"))
        event = await watch.next()
        assert event["type"] == "DELETED"
        assert event["object"]["data"] == {"x": "1"}


async def test_watch_without_a_version_starts_with_what_is_there(api) -> None:
    """Such a watch sends the present objects as ADDED first."""
    await fill(api, "a", "b")
    async with api.watch(api.path("configmaps"), labelSelector="name") as watch:
        assert {await watch.change(), await watch.change()} == {("ADDED", "a"), ("ADDED", "b")}


async def test_watch_with_a_selector_sees_objects_come_and_go(api) -> None:
    """An object that enters or leaves the selection is ADDED or DELETED."""
    await fill(api, "a")
    async with api.watch(api.path("configmaps"), labelSelector="on=1") as watch:
        await api.ok("PUT", api.path("configmaps/a"), config("a", on="1"))
        assert await watch.change() == ("ADDED", "a")
        await api.ok("PUT", api.path("configmaps/a"), {**config("a", on="1"), "data": {"x": "y"}})
        assert await watch.change() == ("MODIFIED", "a")
        await api.ok("PUT", api.path("configmaps/a"), config("a"))
        assert await watch.change() == ("DELETED", "a")


async def test_watch_from_the_future_or_the_far_past_is_gone(api) -> None:
    """A version of another history is answered with 410, so that the client lists again."""
    if api.server.real:
        return  # it waits for a version from the future, and keeps minutes of history
    async with api.watch(api.path("configmaps"), resourceVersion="999999999") as watch:
        event = await watch.next()
    assert event["type"] == "ERROR"
    assert (event["object"]["code"], event["object"]["reason"]) == (410, "Expired")


async def test_watch_ends_at_its_timeout_with_a_bookmark(api) -> None:
    """timeoutSeconds ends a watch; with bookmarks, the last word is a version to go on from."""
    await fill(api, "a")
    listing = await api.ok("GET", api.path("configmaps"))
    query = {"resourceVersion": listing["metadata"]["resourceVersion"], "timeoutSeconds": "1"}
    async with api.watch(api.path("configmaps"), **query, allowWatchBookmarks="true") as watch:
        lines = (await watch.response.read()).splitlines()
    if not api.server.real:
        assert b'"BOOKMARK"' in lines[-1]


async def test_initial_events_end_with_a_bookmark(api) -> None:
    """sendInitialEvents: the present objects, then a bookmark that says that these were all."""
    await fill(api, "a")
    query = {"sendInitialEvents": "true", "allowWatchBookmarks": "true",
             "resourceVersionMatch": "NotOlderThan", "labelSelector": "name"}  # fmt: skip
    async with api.watch(api.path("configmaps"), **query) as watch:
        assert (await watch.next())["type"] == "ADDED"
        event = await watch.next()
    assert event["type"] == "BOOKMARK"
    assert event["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


async def test_many_watchers_see_the_same_order(api) -> None:
    """Every watcher gets every event, in the order of versions."""

    async def follow() -> list[str]:
        async with api.watch(api.path("configmaps"), labelSelector="name") as watch:
            return [(await watch.change())[1] for _ in range(30)]

    async with asyncio.TaskGroup() as tasks:
        followers = [tasks.create_task(follow()) for _ in range(8)]
        await fill(api, *(f"c{i:02}" for i in range(30)))
    wanted = [f"c{i:02}" for i in range(30)]
    assert [task.result() for task in followers] == [wanted] * 8


async def test_tables(api) -> None:
    """A Table has columns and rows with the objects' metadata."""
    await fill(api, "a")
    table = await api.ok("GET", api.path("configmaps"), accept=TABLE, labelSelector="name")
    assert table["kind"] == "Table"
    assert [c["name"] for c in table["columnDefinitions"]][:2] == ["Name", "Data"]
    (row,) = table["rows"]
    assert row["cells"][0] == "a"
    assert row["object"]["kind"] == "PartialObjectMetadata"
    assert row["object"]["metadata"]["name"] == "a"


async def test_delete_collection_takes_what_is_selected(api) -> None:
    """deletecollection deletes by selector."""
    await fill(api, "a", "b", "c")
    await api.ok("DELETE", api.path("configmaps"), labelSelector="name in (a,c)")
    assert names(await api.ok("GET", api.path("configmaps"), labelSelector="name")) == ["b"]


async def test_discovery_forms_agree(api) -> None:
    """Legacy and aggregated discovery name the same kinds of cilium.io."""
    legacy = await api.ok("GET", "/apis/cilium.io/v2")
    plain = {r["name"] for r in legacy["resources"] if "/" not in r["name"]}
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
    aggregated = await api.ok("GET", "/apis", accept=accept)
    (group,) = [g for g in aggregated["items"] if g["metadata"]["name"] == "cilium.io"]
    assert {r["resource"] for r in group["versions"][0]["resources"]} == plain
    assert {"ciliumnetworkpolicies", "ciliumendpoints", "ciliumidentities"} <= plain
    short = {r["name"]: r.get("shortNames") for r in legacy["resources"]}
    assert short["ciliumnetworkpolicies"] == ["cnp", "ciliumnp"]
    groups = await api.ok("GET", "/apis")
    assert "cilium.io" in {g["name"] for g in groups["groups"]}
    assert (await api.ok("GET", "/api"))["versions"] == ["v1"]
    assert (await api("GET", "/apis/cilium.io/v9")).code == 404
    assert (await api("GET", "/api/v1/nothings")).code == 404
    assert (await api.ok("GET", "/version"))["major"] == "1"
