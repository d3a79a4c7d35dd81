"""What clients rely on when they create, read, change and delete objects."""

from __future__ import annotations

import asyncio
from typing import Any

CILIUM = "cilium.io/v2"
MERGE = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"


def config(name: str, **data: str) -> dict[str, Any]:
    return {"metadata": {"name": name}, "data": data}


def pod(name: str, **spec: Any) -> dict[str, Any]:
    spec = {"containers": [{"name": "app", "image": "app:1"}], **spec}
    return {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def policy(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": CILIUM, "kind": "CiliumNetworkPolicy", "metadata": {"name": name},
            "spec": {"endpointSelector": {}, **spec}}  # fmt: skip


async def test_create_fills_in_what_the_server_owns(api) -> None:
    """A created object has uid, creation time, version and namespace, and can be read back."""
    made = await api.ok("POST", api.path("configmaps"), config("a", x="1"))
    metadata = made["metadata"]
    assert metadata["namespace"] == api.namespace
    assert metadata["uid"]
    assert metadata["creationTimestamp"].endswith("Z")
    assert int(metadata["resourceVersion"]) > 0
    read = await api.ok("GET", api.path("configmaps/a"))
    assert (read["kind"], read["apiVersion"], read["data"]) == ("ConfigMap", "v1", {"x": "1"})


async def test_errors_have_reasons(api) -> None:
    """Failures are Status objects with the code and reason that clients test for."""
    await api.ok("POST", api.path("configmaps"), config("a"))
    again = await api("POST", api.path("configmaps"), config("a"))
    assert (again.code, again.body["reason"]) == (409, "AlreadyExists")
    missing = await api("GET", api.path("configmaps/b"))
    assert (missing.code, missing.body["reason"]) == (404, "NotFound")
    assert missing.body["details"]["name"] == "b"
    nowhere = await api("POST", "/api/v1/namespaces/not-there/configmaps", config("a"))
    assert (nowhere.code, nowhere.body["reason"]) == (404, "NotFound")
    bad = await api("POST", api.path("configmaps"), config("Not_A_Name"))
    assert (bad.code, bad.body["reason"]) == (422, "Invalid")
    assert bad.body["details"]["causes"][0]["field"] == "metadata.name"
    broken = await api("POST", api.path("configmaps"), b"{")
    assert (broken.code, broken.body["reason"]) == (400, "BadRequest")


async def test_stale_writes_conflict(api) -> None:
    """An update with an old resourceVersion is refused; without one it wins."""
    first = await api.ok("POST", api.path("configmaps"), config("a", x="1"))
    await api.ok("PUT", api.path("configmaps/a"), {**first, "data": {"x": "2"}})
    stale = await api("PUT", api.path("configmaps/a"), {**first, "data": {"x": "3"}})
    assert (stale.code, stale.body["reason"]) == (409, "Conflict")
    patch = {"metadata": {"resourceVersion": first["metadata"]["resourceVersion"]}, "data": {}}
    assert (await api("PATCH", api.path("configmaps/a"), patch, content=MERGE)).code == 409
    await api.ok("PUT", api.path("configmaps/a"), config("a", x="4"))


async def test_a_write_without_change_keeps_the_version(api) -> None:
    """Writing what is there already is no event."""
    made = await api.ok("POST", api.path("configmaps"), config("a", x="1"))
    same = await api.ok("PUT", api.path("configmaps/a"), made)
    assert same["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_generate_name(api) -> None:
    """generateName gives different names with the prefix."""
    body = {"metadata": {"generateName": "some-"}}
    names = {
        (await api.ok("POST", api.path("configmaps"), body))["metadata"]["name"] for _ in range(5)
    }
    assert len(names) == 5
    assert all(name.startswith("some-") and len(name) == 10 for name in names)


async def test_patch_types(api) -> None:
    """JSON, merge and strategic merge patches do what their specifications say."""
    containers = [{"name": "a", "image": "a:1"}, {"name": "b", "image": "b:1"}]
    await api.ok("POST", api.path("pods"), pod("p", containers=containers))
    path = api.path("pods/p")
    change = {"spec": {"containers": [{"name": "b", "image": "b:2"}]}}
    patched = await api.ok("PATCH", path, change, content=STRATEGIC)
    assert [c["image"] for c in patched["spec"]["containers"]] == ["a:1", "b:2"]
    labels = {"metadata": {"labels": {"app": None, "x": "y"}}}
    patched = await api.ok("PATCH", path, labels, content=MERGE)
    assert patched["metadata"]["labels"] == {"x": "y"}
    operations = [{"op": "test", "path": "/metadata/labels/x", "value": "y"},
                  {"op": "add", "path": "/metadata/labels/z~1z", "value": "w"}]  # fmt: skip
    patched = await api.ok("PATCH", path, operations, content=JSON_PATCH)
    assert patched["metadata"]["labels"] == {"x": "y", "z/z": "w"}
    wrong = [{"op": "test", "path": "/kind", "value": "No"}]
    failed = await api("PATCH", path, wrong, content=JSON_PATCH)
    assert failed.code == 422
    assert (await api("PATCH", path, {}, content="text/plain")).code == 415


async def test_custom_resources_take_no_strategic_patch(api) -> None:
    """Custom resources refuse strategic merge patches with 415."""
    await api.ok("POST", api.path("ciliumnetworkpolicies", CILIUM), policy("p"))
    path = api.path("ciliumnetworkpolicies/p", CILIUM)
    assert (await api("PATCH", path, {}, content=STRATEGIC)).code == 415


async def test_status_and_spec_are_written_apart(api) -> None:
    """The main path leaves the status alone, /status the spec; the generation counts specs."""
    path = api.path("ciliumnetworkpolicies", CILIUM)
    made = await api.ok("POST", path, {**policy("p"), "status": {"lost": True}})
    assert "status" not in made
    assert made["metadata"]["generation"] == 1
    both = {**made, "spec": {"endpointSelector": {"matchLabels": {"a": "b"}}}, "status": {"x": 1}}
    stated = await api.ok("PUT", f"{path}/p/status", both)
    assert stated["status"] == {"x": 1}
    assert stated["spec"] == made["spec"]
    assert stated["metadata"]["generation"] == 1
    both["metadata"] = stated["metadata"]
    both["status"] = {"x": 2}
    changed = await api.ok("PUT", f"{path}/p", both)
    assert changed["status"] == {"x": 1}
    assert changed["spec"]["endpointSelector"] == {"matchLabels": {"a": "b"}}
    assert changed["metadata"]["generation"] == 2


async def test_a_kind_without_the_subresource_has_no_status_path(api) -> None:
    """CiliumEndpoint keeps its status on the main path."""
    path = api.path("ciliumendpoints", CILIUM)
    made = await api.ok("POST", path, {"metadata": {"name": "e"}, "status": {"id": 7}} | {
        "apiVersion": CILIUM, "kind": "CiliumEndpoint"})  # fmt: skip
    assert made["status"] == {"id": 7}
    assert (await api("GET", f"{path}/e/status")).code == 404


async def test_finalizers_hold_an_object_back(api) -> None:
    """A deleted object with finalizers stays, marked, until the last one is taken away."""
    body = config("a")
    body["metadata"]["finalizers"] = ["example.com/one"]
    await api.ok("POST", api.path("configmaps"), body)
    marked = await api.ok("DELETE", api.path("configmaps/a"))
    assert marked["metadata"]["deletionTimestamp"]
    still = await api.ok("GET", api.path("configmaps/a"))
    again = await api.ok("DELETE", api.path("configmaps/a"))
    assert again["metadata"]["deletionTimestamp"] == still["metadata"]["deletionTimestamp"]
    release = {"metadata": {"finalizers": None}}
    await api.ok("PATCH", api.path("configmaps/a"), release, content=MERGE)
    assert (await api("GET", api.path("configmaps/a"))).code == 404


async def test_delete_preconditions(api) -> None:
    """A delete with another uid or version is refused."""
    await api.ok("POST", api.path("configmaps"), config("a"))
    wrong = {"preconditions": {"uid": "11111111-2222-3333-4444-555555555555"}}
    refused = await api("DELETE", api.path("configmaps/a"), wrong)
    assert (refused.code, refused.body["reason"]) == (409, "Conflict")
    gone = await api.ok("DELETE", api.path("configmaps/a"))
    assert gone["status"] == "Success"


async def test_pods_on_a_node_end_gracefully(api) -> None:
    """A pod with a node is marked with its grace; the kubelet's delete with 0 removes it."""
    await api.ok("POST", api.path("pods"), pod("p", nodeName="n", terminationGracePeriodSeconds=7))
    marked = await api.ok("DELETE", api.path("pods/p"))
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 7
    assert (await api("GET", api.path("pods/p"))).code == 200
    await api.ok("DELETE", api.path("pods/p"), {"gracePeriodSeconds": 0})
    assert (await api("GET", api.path("pods/p"))).code == 404
    await api.ok("POST", api.path("pods"), pod("q"))
    await api.ok("DELETE", api.path("pods/q"))
    assert (await api("GET", api.path("pods/q"))).code == 404


async def test_binding_gives_a_pod_its_node(api) -> None:
    """pods/binding sets the node once."""
    await api.ok("POST", api.path("pods"), pod("p"))
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"},
               "target": {"apiVersion": "v1", "kind": "Node", "name": "n1"}}  # fmt: skip
    await api.ok("POST", api.path("pods/p/binding"), binding)
    assert (await api.ok("GET", api.path("pods/p")))["spec"]["nodeName"] == "n1"
    assert (await api("POST", api.path("pods/p/binding"), binding)).code == 409


async def test_scale_subresource(api) -> None:
    """deployments/scale reads and writes the replicas and nothing else."""
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": pod("x")["spec"]}
    spec = {"replicas": 2, "selector": {"matchLabels": labels}, "template": template}
    path = api.path("deployments", "apps/v1")
    await api.ok("POST", path, {"metadata": {"name": "web"}, "spec": spec})
    scale = await api.ok("GET", f"{path}/web/scale")
    assert (scale["kind"], scale["spec"]["replicas"]) == ("Scale", 2)
    assert scale["status"]["selector"] == "app=web"
    await api.ok("PATCH", f"{path}/web/scale", {"spec": {"replicas": 5}}, content=MERGE)
    assert (await api.ok("GET", f"{path}/web"))["spec"]["replicas"] == 5


async def test_dry_run_changes_nothing(api) -> None:
    """dryRun=All answers as if, and nothing is there afterwards."""
    made = await api.ok("POST", api.path("configmaps"), config("a"), dryRun="All")
    assert made["metadata"]["uid"]
    assert (await api("GET", api.path("configmaps/a"))).code == 404
    await api.ok("POST", api.path("configmaps"), config("a", x="1"))
    change, path = {"data": {"x": "2"}}, api.path("configmaps/a")
    patched = await api.ok("PATCH", path, change, content=MERGE, dryRun="All")
    assert patched["data"] == {"x": "2"}
    await api.ok("DELETE", api.path("configmaps/a"), dryRun="All")
    assert (await api.ok("GET", api.path("configmaps/a")))["data"] == {"x": "1"}


async def test_defaults_that_clients_rely_on(api) -> None:
    """Pods, Services and NetworkPolicies come back complete."""
    made = await api.ok("POST", api.path("pods"), pod("p"))
    assert made["spec"]["restartPolicy"] == "Always"
    assert made["spec"]["dnsPolicy"] == "ClusterFirst"
    assert made["status"]["phase"] == "Pending"
    service = {"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}}
    spec = (await api.ok("POST", api.path("services"), service))["spec"]
    assert spec["ports"] == [{"port": 80, "targetPort": 80, "protocol": "TCP"}]
    assert (spec["type"], spec["clusterIPs"]) == ("ClusterIP", [spec["clusterIP"]])
    path = api.path("networkpolicies", "networking.k8s.io/v1")
    spec = {"podSelector": {}, "egress": [{}]}
    made = await api.ok("POST", path, {"metadata": {"name": "n"}, "spec": spec})
    assert made["spec"]["policyTypes"] == ["Ingress", "Egress"]


async def test_namespaces_take_their_contents_with_them(api) -> None:
    """Deleting a namespace deletes what is in it; a Terminating one takes nothing new."""
    name = f"{api.namespace}-x"
    await api.ok("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
    held = {"metadata": {"name": "held", "finalizers": ["example.com/x"]}}
    await api.ok("POST", f"/api/v1/namespaces/{name}/configmaps", held)
    await api.ok("DELETE", f"/api/v1/namespaces/{name}")
    space = await api.ok("GET", f"/api/v1/namespaces/{name}")
    assert space["status"]["phase"] == "Terminating"
    refused = await api("POST", f"/api/v1/namespaces/{name}/configmaps", config("new"))
    assert (refused.code, refused.body["reason"]) == (403, "Forbidden")
    if api.server.real:
        return  # the namespace controller is another program there
    path = f"/api/v1/namespaces/{name}/configmaps/held"
    await api.ok("PATCH", path, {"metadata": {"finalizers": None}}, content=MERGE)
    assert (await api("GET", f"/api/v1/namespaces/{name}")).code == 404


async def test_dependents_go_with_their_owner(api) -> None:
    """What names a deleted object as its owner is deleted."""
    if api.server.real:
        return  # the garbage collector is another program there
    owner = await api.ok("POST", api.path("configmaps"), config("owner"))
    reference = {"apiVersion": "v1", "kind": "ConfigMap", "name": "owner",
                 "uid": owner["metadata"]["uid"]}  # fmt: skip
    for name, owners in (("a", [reference]), ("b", [reference, {**reference, "uid": "other"}])):
        body = config(name)
        body["metadata"]["ownerReferences"] = owners
        await api.ok("POST", api.path("configmaps"), body)
    await api.ok("DELETE", api.path("configmaps/owner"))
    assert (await api("GET", api.path("configmaps/a"))).code == 404
    left = await api.ok("GET", api.path("configmaps/b"))
    assert [o["uid"] for o in left["metadata"]["ownerReferences"]] == ["other"]


async def test_concurrent_writers_all_win_once(api) -> None:
    """Writers that retry on conflict lose no increment."""
    await api.ok("POST", api.path("configmaps"), config("n", count="0"))

    async def increment() -> None:
        while True:
            current = await api.ok("GET", api.path("configmaps/n"))
            current["data"]["count"] = str(int(current["data"]["count"]) + 1)
            if (await api("PUT", api.path("configmaps/n"), current)).code == 200:
                return

    await asyncio.gather(*(increment() for _ in range(10)))
    assert (await api.ok("GET", api.path("configmaps/n")))["data"] == {"count": "10"}


async def test_nobody_comes_in_without_a_token(api) -> None:
    """A request without a valid bearer token is 401."""
    async with api.session.get(
        api.server.url + "/api/v1/namespaces", headers={"Authorization": "Bearer wrong-token"}
    ) as response:
        assert response.status == 401
        assert (await response.json())["reason"] == "Unauthorized"
