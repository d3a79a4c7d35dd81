"""What kube-controller-manager does for a kube-apiserver, as far as a lab needs it.

The embedded server does the same within its transactions: a namespace gets its default service
account, a namespace that is to go is emptied and then let go, and what belonged to a deleted owner
is deleted. Here it is one look at everything each second, which a lab's few objects allow.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from fimbria.apiserver.resources import BY_KIND, RESOURCES
from fimbria.sources.errors import KubeError, KubeUnreachable
from fimbria.sources.resources import Resource

if TYPE_CHECKING:
    from fimbria.sources.kube import KubeClient

Document = dict[str, Any]
PERIOD = 1.0

KINDS: dict[tuple[str, str], Resource[Document]] = {
    key: Resource(row.group, row.version, row.plural, row.kind, row.namespaced, dict)
    for key, row in BY_KIND.items()
}
NAMESPACES, ACCOUNTS = KINDS["v1", "Namespace"], KINDS["v1", "ServiceAccount"]
DEPENDENTS = (
    KINDS["apps/v1", "ReplicaSet"],
    KINDS["v1", "Pod"],
    KINDS["v1", "Endpoints"],
    KINDS["discovery.k8s.io/v1", "EndpointSlice"],
    KINDS["cilium.io/v2", "CiliumEndpoint"],
    KINDS["cilium.io/v2", "CiliumNode"],
)
"""Kinds whose objects have owners here."""

log = logging.getLogger(__name__)


class Housekeeper:
    """Looks after one API server."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            try:
                await self.look()
            except (KubeError, KubeUnreachable) as error:
                log.warning("housekeeping: %s", error)
            await asyncio.sleep(PERIOD)

    async def look(self) -> None:
        """Look at everything once. Raises KubeError and KubeUnreachable."""
        await self._namespaces()
        await self._garbage()

    async def _namespaces(self) -> None:
        accounts = (await self._client.list(ACCOUNTS)).items
        provided = {a["metadata"]["namespace"] for a in accounts if _name(a) == "default"}
        for space in (await self._client.list(NAMESPACES)).items:
            if space.get("status", {}).get("phase") == "Terminating":
                await self._empty(space)
            elif _name(space) not in provided:
                await self._tolerate(
                    "POST", ACCOUNTS.path(_name(space)), {"metadata": {"name": "default"}}
                )

    async def _empty(self, space: Document) -> None:
        """Delete a namespace's contents, and let it go once nothing is left."""
        left = False
        for row in RESOURCES:
            if row.namespaced and row.kind != "Event":
                kind = KINDS[row.api_version, row.kind]
                for one in (await self._client.list(kind, _name(space))).items:
                    left = True
                    if "deletionTimestamp" not in one["metadata"]:
                        await self._delete(kind, one)
        if not left:
            header = {"apiVersion": "v1", "kind": "Namespace"}  # items of lists do not have them
            body: Document = space | header | {"spec": {"finalizers": []}}
            await self._tolerate("PUT", f"{NAMESPACES.path(None, _name(space))}/finalize", body)

    async def _garbage(self) -> None:
        """Delete what has owners, none of which exists any more.

        Dependents are listed first: an owner was there before them, so one that is not in the
        later list has been deleted since.
        """
        owned: list[tuple[Resource[Document], Document, set[str]]] = []
        owners: dict[str, tuple[str, str]] = {}
        for kind in DEPENDENTS:
            for one in (await self._client.list(kind)).items:
                found: list[Document] = one["metadata"].get("ownerReferences") or []
                if found and "deletionTimestamp" not in one["metadata"]:
                    owned.append((kind, one, {owner["uid"] for owner in found}))
                    owners |= {
                        owner["uid"]: (owner["apiVersion"], owner["kind"]) for owner in found
                    }
        # Of owners of a kind that we do not know nothing is known, so they count as alive.
        alive = {uid for uid, key in owners.items() if key not in KINDS}
        for key in {key for key in owners.values() if key in KINDS}:
            alive |= {o["metadata"]["uid"] for o in (await self._client.list(KINDS[key])).items}
        for kind, one, uids in owned:
            if not uids & alive:
                await self._delete(kind, one)

    async def _delete(self, kind: Resource[Document], one: Document) -> None:
        meta = one["metadata"]
        path = kind.path(meta.get("namespace"), meta["name"])
        body = {"preconditions": {"uid": meta["uid"]}, "propagationPolicy": "Background"}
        await self._tolerate("DELETE", path, body)

    async def _tolerate(self, method: str, path: str, body: Document) -> None:
        """A request whose object may have changed or gone meanwhile; the next look tells."""
        try:
            await self._client.request(method, path, body=body)
        except KubeError as error:
            if error.status not in (404, 409):
                raise


def _name(document: Document) -> str:
    return str(document["metadata"]["name"])
