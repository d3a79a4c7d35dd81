"""What create and update mean: the API's semantics between HTTP and the store.

Every public method, here and in `removal.py`, is one transaction without `await`: it reads the
newest state, decides, and changes the store or raises `ApiError`. With `dry_run` everything happens
but the change. Callers wait for `store.committed()` before they answer.
"""

from __future__ import annotations

import secrets
import uuid
from typing import Any, cast

from fimbria.apiserver import errors, kinds
from fimbria.apiserver.defaults import apply_defaults
from fimbria.apiserver.entry import Object, encode
from fimbria.apiserver.removal import NAMESPACES, PERMANENT_NAMESPACES, Remover, is_gone
from fimbria.apiserver.resources import BY_KEY, Resource
from fimbria.apiserver.validation import check

SERVICE_ACCOUNTS = BY_KEY["serviceaccounts"]
CRDS = BY_KEY["customresourcedefinitions.apiextensions.k8s.io"]

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
# The kubelet registers its node with the status.
_BORN_WITH_STATUS = ("Node",)
_SERVER_OWNED = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds",
                 "generation", "generateName", "namespace", "name")  # fmt: skip


class Registry(Remover):
    """The API's objects with the API's rules."""

    def seed(self) -> None:
        """Create what every cluster has from the start."""
        for name in PERMANENT_NAMESPACES:
            if not self.store.get(NAMESPACES, "", name):
                self.create(NAMESPACES, "", {"metadata": {"name": name}})
        for document in kinds.definitions():
            if not self.store.get(CRDS, "", document["metadata"]["name"]):
                self.create(CRDS, "", document)

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
        if document.get("apiVersion") in [f"{resource.group}/{old}" for old in resource.older]:
            document["apiVersion"] = resource.api_version
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
        if is_gone(document) and resource is not NAMESPACES:
            return self._remove(resource, document)
        entry = self.store.put(resource, document)
        if is_gone(document):
            self._finish(entry)
        return entry.raw


def _desired(document: Object) -> dict[str, Any]:
    return {k: v for k, v in document.items() if k not in ("metadata", "status")}
