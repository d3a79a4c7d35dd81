"""Deleting, and what follows from it.

An object with finalizers or, for pods on a node, with a time of grace stays, marked, until nothing
holds it back. What depends on a deleted object (its dependents by owner reference, a namespace's
contents) goes in the same transaction, so that a crash cannot leave half of it behind.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from fimbria.apiserver import errors
from fimbria.apiserver.cells import last_seen
from fimbria.apiserver.options import DeleteOptions
from fimbria.apiserver.resources import BY_KEY, Resource

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.apiserver.entry import Entry, Object
    from fimbria.apiserver.store import Store

EVENTS = BY_KEY["events"]
NAMESPACES = BY_KEY["namespaces"]
PODS = BY_KEY["pods"]
EVENT_SECONDS = 3600.0
"""How long Events are kept, as in Kubernetes."""
PERMANENT_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")


class Remover:
    """The store with the rules of removal."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        """`now` gives the time as seconds since the epoch."""
        self.store = store
        self._now = now

    def find(self, resource: Resource, namespace: str, name: str) -> Entry:
        """The newest version. Raises 404."""
        if entry := self.store.get(resource, namespace, name):
            return entry
        raise errors.not_found(resource.key, name)

    def delete(
        self, resource: Resource, namespace: str, name: str, options: DeleteOptions
    ) -> tuple[bytes, bool]:
        """Delete an object, now or as soon as its finalizers and its grace allow.

        Returns the JSON of its last state, and True if it is gone.
        """
        entry = self.find(resource, namespace, name)
        document = entry.decode()
        metadata = document["metadata"]
        options.check(resource.key, name, entry)
        if resource is NAMESPACES and name in PERMANENT_NAMESPACES:
            raise errors.forbidden("namespaces", name, "this namespace may not be deleted")
        grace = 0
        if resource is PODS and document["spec"].get("nodeName"):
            finished = document.get("status", {}).get("phase") in ("Succeeded", "Failed")
            wanted = document["spec"].get("terminationGracePeriodSeconds", 30)
            grace = 0 if finished else wanted if options.grace is None else options.grace
        if options.dry_run:
            return entry.raw, not grace
        if "deletionTimestamp" not in metadata or grace < metadata["deletionGracePeriodSeconds"]:
            metadata["deletionTimestamp"] = self.timestamp(grace)
            metadata["deletionGracePeriodSeconds"] = grace
            if resource is NAMESPACES:
                document["status"]["phase"] = "Terminating"
            if options.orphan:
                self._orphan(entry)
            if not is_gone(document) or resource is NAMESPACES:
                if resource.generation:
                    metadata["generation"] = metadata.get("generation", 0) + 1
                entry = self.store.put(resource, document)
        elif not is_gone(document):
            return entry.raw, False
        if resource is NAMESPACES:
            return self._empty(entry)
        if is_gone(document):
            return self._remove(resource, document), True
        return entry.raw, False

    def _remove(self, resource: Resource, document: Object) -> bytes:
        entry = self.store.remove(resource, document)
        for dependent in self.store.owned_by(entry.uid):
            self._collect(dependent, entry.uid)
        if entry.namespace:
            space = self.store.get(NAMESPACES, "", entry.namespace)
            if space and space.fields.get("status.phase") == "Terminating":
                self._finish(space)
        return entry.raw

    def _collect(self, dependent: Entry, uid: str) -> None:
        """Delete what belonged to the deleted owner, unless it has another one."""
        if not self.store.get(dependent.resource, dependent.namespace, dependent.name):
            return
        if set(dependent.owners) == {uid}:
            self._delete_entry(dependent)
        else:
            self._disown(dependent, uid)

    def _orphan(self, owner: Entry) -> None:
        for dependent in self.store.owned_by(owner.uid):
            self._disown(dependent, owner.uid)

    def _disown(self, dependent: Entry, uid: str) -> None:
        document = dependent.decode()
        owners = document["metadata"]["ownerReferences"]
        document["metadata"]["ownerReferences"] = [o for o in owners if o["uid"] != uid]
        self.store.put(dependent.resource, document)

    def _delete_entry(self, entry: Entry) -> None:
        self.delete(entry.resource, entry.namespace, entry.name, DeleteOptions())

    def _empty(self, space: Entry) -> tuple[bytes, bool]:
        """Delete a namespace's contents, and the namespace once nothing is left in it."""
        for resource in BY_KEY.values():
            for entry in self.store.entries(resource, space.name) if resource.namespaced else ():
                if self.store.get(resource, entry.namespace, entry.name):
                    self._delete_entry(entry)
        if current := self.store.get(NAMESPACES, "", space.name):
            self._finish(current)
        return space.raw, self.store.get(NAMESPACES, "", space.name) is None

    def _finish(self, space: Entry) -> None:
        """Remove a namespace that is to go, if nothing is left in it."""
        document = space.decode()
        if not self.store.population(space.name) and is_gone(document):
            document["spec"]["finalizers"] = []
            self.store.remove(NAMESPACES, document)

    def expire_events(self) -> None:
        """Delete the Events that nobody has written to for EVENT_SECONDS."""
        oldest = self.timestamp(-EVENT_SECONDS)
        for entry in self.store.entries(EVENTS):
            document = entry.decode()
            # Times in this form sort as texts do.
            if max(document["metadata"]["creationTimestamp"], last_seen(document) or "") < oldest:
                self._delete_entry(entry)

    def timestamp(self, later: float = 0) -> str:
        """The time as the API writes it (RFC 3339, whole seconds), `later` seconds from now."""
        moment = datetime.fromtimestamp(self._now() + later, UTC)
        return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def is_gone(document: Object) -> bool:
    """Whether nothing holds a deleted object back any more."""
    metadata = document["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and metadata.get("deletionGracePeriodSeconds", 0) == 0
    )
