"""Make the test's pods, wait until every node knows them, and take them away again."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fimbria.connectivity import places
from fimbria.connectivity.cluster import NAMESPACES, NODES, PODS, ConnectivityError, Spot
from fimbria.sources.errors import is_already_exists, is_forbidden, is_not_found

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

    from fimbria.connectivity.cluster import Cluster
    from fimbria.connectivity.model import Document

INTERVAL = 0.05
TIMEOUT = 120.0


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait for a condition; ConnectivityError with `what` if it takes longer than TIMEOUT."""
    try:
        async with asyncio.timeout(TIMEOUT):
            # Agents and API servers have no common event to wait for.
            while not await condition():  # noqa: ASYNC110 - what is waited for has no event
                await asyncio.sleep(INTERVAL)
    except TimeoutError as error:
        raise ConnectivityError(f"after {TIMEOUT:.0f} s still waiting for {what}") from error


@asynccontextmanager
async def deployed(
    cluster: Cluster, namespace: str, image: str, *, keep: bool
) -> AsyncGenerator[dict[str, Spot]]:
    """Deploy the pods and yield all places by name; remove them in the end unless `keep`."""
    await remove(cluster, namespace)
    nodes = await usable_nodes(cluster)
    try:
        for document in places.namespaces(namespace):
            await cluster.api.create(NAMESPACES, document)
        documents = pod_documents(cluster, namespace, nodes, image)
        await asyncio.gather(*(_create(cluster, document) for document in documents))
        spots = await _wait_for_pods(cluster, documents, nodes)
        await _wait_until_known(cluster, spots)
        yield spots
    finally:
        if not keep:
            await remove(cluster, namespace)


async def usable_nodes(cluster: Cluster) -> list[tuple[str, tuple[str, ...]]]:
    """Return name and addresses of the first two nodes that have an agent."""
    page = await cluster.api.list(NODES)
    with_agent = {agent.node for agent in cluster.agents}
    found = [
        (str(node["metadata"]["name"]), _node_addresses(node))
        for node in page.items
        if node["metadata"]["name"] in with_agent and not node.get("spec", {}).get("unschedulable")
    ]
    if not found:
        raise ConnectivityError("no node has an agent: is the cluster up?")
    return sorted(found)[:2]


def pod_documents(
    cluster: Cluster, namespace: str, nodes: Sequence[tuple[str, Any]], image: str
) -> list[Document]:
    """Return the pods to create; those of a second node only if there is one."""
    documents = [
        places.pod(place, namespace, nodes[place.node][0], image)
        for place in places.PLACES
        if place.node < len(nodes)
    ]
    if cluster.host_pods:
        documents += [
            places.host_pod(name, namespace, nodes[index][0], image)
            for name, index in places.HOSTS.items()
            if index < len(nodes)
        ]
    return documents


async def remove(cluster: Cluster, namespace: str) -> None:
    """Delete the test's namespaces and wait until they are gone."""
    names = (namespace, places.other_namespace(namespace))
    for name in names:
        try:
            await cluster.api.delete(NAMESPACES, name)
        except Exception as error:
            if not is_not_found(error):
                raise

    async def gone() -> bool:
        page = await cluster.api.list(NAMESPACES)
        return not {one["metadata"]["name"] for one in page.items} & set(names)

    await until(gone, f"the namespaces {' and '.join(names)} to go")


async def _create(cluster: Cluster, document: Document) -> None:
    """Create a pod; a new namespace may have to get its service account first."""

    async def created() -> bool:
        try:
            await cluster.api.create(PODS, document, document["metadata"]["namespace"])
        except Exception as error:
            if is_already_exists(error):
                return True
            if not is_forbidden(error):
                raise
            return False
        return True

    await until(created, f"pod {document['metadata']['name']} to be accepted")


async def _wait_for_pods(
    cluster: Cluster, documents: Sequence[Document], nodes: Sequence[tuple[str, tuple[str, ...]]]
) -> dict[str, Spot]:
    """Wait until all pods are ready; return the places, nodes included."""
    pending: list[str] = []
    spots: dict[str, Spot] = {}

    async def ready() -> bool:
        spots.clear()
        pending.clear()
        for name in {document["metadata"]["namespace"] for document in documents}:
            page = await cluster.api.list(PODS, name)
            for pod in page.items:
                if _is_ready(pod):
                    spots[pod["metadata"]["name"]] = _spot(pod)
                else:
                    pending.append(f"{name}/{pod['metadata']['name']}")
        return len(spots) == len(documents)

    try:
        await until(ready, "the pods to be ready")
    except ConnectivityError as error:
        raise ConnectivityError(f"{error}: {', '.join(sorted(pending))}") from error
    for name, index in places.HOSTS.items():
        if index < len(nodes):
            node, addresses = nodes[index]
            namespace = spots[name].namespace if name in spots else ""
            spots[name] = Spot(name, node, addresses, namespace)
    return spots


async def _wait_until_known(cluster: Cluster, spots: dict[str, Spot]) -> None:
    """Wait until every node knows every pod's address as a pod."""
    wanted = {address for spot in spots.values() if spot.pod for address in spot.addresses}

    async def known() -> bool:
        for agent in cluster.agents:
            rows = await agent.addresses()
            there = {str(row["cidr"]).partition("/")[0] for row in rows if row["identity"] > 255}
            if not wanted <= there:
                return False
        return True

    await until(known, "every node to know every pod")


def _node_addresses(node: Document) -> tuple[str, ...]:
    listed: list[Document] = node.get("status", {}).get("addresses") or []
    return tuple(one["address"] for one in listed if one["type"] == "InternalIP")


def _is_ready(pod: Document) -> bool:
    conditions: list[Document] = pod.get("status", {}).get("conditions") or []
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions) and bool(
        pod["status"].get("podIP")
    )


def _spot(pod: Document) -> Spot:
    meta, status = pod["metadata"], pod["status"]
    pairs: list[Document] = status.get("podIPs") or [{"ip": status["podIP"]}]
    listed = tuple(str(one["ip"]) for one in pairs)
    return Spot(meta["name"], pod["spec"]["nodeName"], listed, meta["namespace"], meta["name"])
