"""What create, update and delete mean: the API's semantics between HTTP and the store.

Every public method is one transaction without `await`: it reads the newest state, decides, and
changes the store or raises `ApiError`. What depends on an object (its dependents by owner
reference, a namespace's contents) goes in the same transaction, so that a crash cannot leave half
of it behind. With `dry_run` everything happens but the change. Callers wait for
`store.committed()` before they answer.
"""

from __future__ import annotations

import secrets
import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from fimbria.apiserver import errors, kinds
from fimbria.apiserver.cells import last_seen
from fimbria.apiserver.defaults import apply_defaults
from fimbria.apiserver.entry import Entry, Object, encode
from fimbria.apiserver.options import DeleteOptions
from fimbria.apiserver.resources import BY_KEY, Resource
from fimbria.apiserver.validation import check

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.apiserver.store import Store

NAMESPACES = BY_KEY["namespaces"]
PODS = BY_KEY["pods"]
SERVICE_ACCOUNTS = BY_KEY["serviceaccounts"]
EVENTS = BY_KEY["events"]
CRDS = BY_KEY["customresourcedefinitions.apiextensions.k8s.io"]
EVENT_SECONDS = 3600.0
"""How long Events are kept, as in Kubernetes."""
PERMANENT_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
# The kubelet registers its node with the status.
_BORN_WITH_STATUS = ("Node",)
_SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
                 "generation", "generateName", "namespace", "name")  # fmt: skip


class Registry:
    """The API's objects with the API's rules."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        """`now` gives the time as seconds since the epoch."""
        self.store = store
        self._now = now

    def seed(self) -> None:
        """Create what every cluster has from the start."""
        for name in PERMANENT_NAMESPACES:
            if not self.store.get(NAMESPACES, "", name):
                self.create(NAMESPACES, "", {"metadata": {"name": name}})
        for document in kinds.definitions():
            if not self.store.get(CRDS, "", document["metadata"]["name"]):
                self.create(CRDS, "", document)

    def find(self, resource: Resource, namespace: str, name: str) -> Entry:
        """The newest version. Raises 404."""
        if entry := self.store.get(resource, namespace, name):
            return entry
        raise errors.not_found(resource.key, name)

    # Create ------------------------------------------------------------------

    def create(
        self, resource: Resource, namespace: str, document: Object, *, dry_run: bool = False
    ) -> bytes:
        """Create an object from what a client sent; the JSON of the result."""
        metadata = self._identify(resource, namespace, document)
        if metadata.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        if namespace:
            self._open_namespace(resource, namespace, metadata)
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            metadata.pop(name, None)
        if not metadata.get("name"):
            if not (prefix := metadata.get("generateName")):
                text = "Required value: name or generateName is required"
                causes = [errors.cause("FieldValueRequired", "metadata.name", text)]
                raise errors.invalid(resource.kind, resource.group, "", causes)
            suffix = "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))
            metadata["name"] = str(prefix) + suffix
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = self.timestamp()
        if resource.generation:
            metadata["generation"] = 1
        if resource.status and resource.kind not in _BORN_WITH_STATUS:
            document.pop("status", None)
        self._complete(resource, document)
        if self.store.get(resource, namespace, metadata["name"]):
            raise errors.already_exists(resource.key, metadata["name"])
        if resource.kind == "Service":
            kinds.assign_cluster_ip(document, self.store.entries(resource))
        if resource is CRDS:
            kinds.require_built_in(document)
        if dry_run:
            return encode(document)
        entry = self.store.put(resource, document)
        if resource is NAMESPACES:
            account = {"metadata": {"name": "default"}}
            self.create(SERVICE_ACCOUNTS, entry.name, account)
        return entry.raw

    def _open_namespace(self, resource: Resource, namespace: str, metadata: Object) -> None:
        space = self.store.get(NAMESPACES, "", namespace)
        if not space:
            raise errors.not_found("namespaces", namespace)
        if space.fields.get("status.phase") == "Terminating":
            why = f"unable to create new content in namespace {namespace} because it is being terminated"  # noqa: E501 - the text that clients match
            raise errors.forbidden(resource.key, metadata.get("name") or "", why)

    def _identify(self, resource: Resource, namespace: str, document: Any) -> Object:
        """Check apiVersion, kind and namespace against the path; the object's metadata."""
        if not isinstance(document, dict):
            raise errors.bad_request("the result is not an object")
        document = cast("Object", document)
        for field, wanted in (("apiVersion", resource.api_version), ("kind", resource.kind)):
            if document.setdefault(field, wanted) != wanted:
                raise errors.bad_request(
                    f"{field} {document[field]!r} does not match the path's {wanted!r}"
                )
        metadata = document.setdefault("metadata", {})
        if not isinstance(metadata, dict):
            raise errors.bad_request("metadata must be an object")
        if not resource.namespaced:
            metadata.pop("namespace", None)  # pyright: ignore[reportUnknownMemberType] - decoded JSON
        elif metadata.setdefault("namespace", namespace) != namespace:  # pyright: ignore[reportUnknownMemberType] - decoded JSON
            raise errors.bad_request(
                "the namespace of the provided object does not match the namespace of the request"
            )
        metadata.pop("managedFields", None)  # pyright: ignore[reportUnknownMemberType] - decoded JSON
        return document["metadata"]

    def _complete(self, resource: Resource, document: Object) -> None:
        """Drop nulls, check shapes and rules, fill in defaults; in place."""
        kinds.drop_nulls(document)
        name = document["metadata"].get("name", "")
        if causes := check(resource, document):
            raise errors.invalid(resource.kind, resource.group, str(name), causes)
        apply_defaults(resource.kind, document)

    # Update ------------------------------------------------------------------

    def update(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        document: Object,
        *,
        status: bool = False,
        dry_run: bool = False,
    ) -> bytes:
        """Replace an object (or, with `status`, its status only); the JSON of the result."""
        entry = self.find(resource, namespace, name)
        current = entry.decode()
        before: Object = current["metadata"]
        metadata = self._identify(resource, namespace, document)
        if metadata.setdefault("name", name) != name:
            raise errors.bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({name})"  # noqa: E501 - the text that clients match
            )
        version = metadata.get("resourceVersion") or before["resourceVersion"]
        if version != before["resourceVersion"]:
            raise errors.conflict(resource.key, name, errors.MODIFIED)
        if (metadata.get("uid") or before["uid"]) != before["uid"]:
            why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {before['uid']}"  # noqa: E501 - the text that clients match
            raise errors.conflict(resource.key, name, why)
        if status:
            document = {**current, "status": document.get("status")}
        else:
            if resource.status:
                document["status"] = current.get("status")
            for field in _SERVER_OWNED:
                if field in before:
                    metadata[field] = before[field]
                else:
                    metadata.pop(field, None)
            metadata["resourceVersion"] = before["resourceVersion"]
        kinds.carry_over(resource.kind, current, document)
        self._complete(resource, document)
        if causes := kinds.immutable(resource.kind, current, document):
            raise errors.invalid(resource.kind, resource.group, name, causes)
        if document == current:
            return entry.raw
        if resource.generation and _desired(document) != _desired(current):
            document["metadata"]["generation"] = before.get("generation", 0) + 1
        if dry_run:
            return encode(document)
        if _gone(document) and resource is not NAMESPACES:
            return self._remove(resource, document)
        entry = self.store.put(resource, document)
        if _gone(document):
            self._finish(entry)
        return entry.raw

    # Delete ------------------------------------------------------------------

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
            if not _gone(document) or resource is NAMESPACES:
                if resource.generation:
                    metadata["generation"] = metadata.get("generation", 0) + 1
                entry = self.store.put(resource, document)
        elif not _gone(document):
            return entry.raw, False
        if resource is NAMESPACES:
            return self._empty(entry)
        if _gone(document):
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
        if not self.store.population(space.name) and _gone(document):
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


def _desired(document: Object) -> dict[str, Any]:
    return {k: v for k, v in document.items() if k not in ("metadata", "status")}


def _gone(document: Object) -> bool:
    """Whether nothing holds a deleted object back any more."""
    metadata = document["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and metadata.get("deletionGracePeriodSeconds", 0) == 0
    )
