"""Policies that somebody hands to the agent, written to the API with the agent's own account.

An object that is there already gets the new spec, labels and annotations, and keeps everything
else; nothing is ever removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fimbria.agent.api import ApiError
from fimbria.agent.watches import POLICY_KINDS
from fimbria.model.policy import FORCE_ANNOTATION, PolicyError
from fimbria.sources.errors import (
    KubeError,
    KubeUnreachable,
    is_already_exists,
    is_conflict,
    is_forbidden,
    is_not_found,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fimbria.model.policy import Policy, PolicyKey
    from fimbria.sources.kube import KubeClient
    from fimbria.sources.resources import Document

RESOURCES = {resource.kind: resource for resource in POLICY_KINDS}
TRIES = 3


def documents_of(body: Any) -> list[Document]:
    """Return the `documents` of a request, forced if it says so; ApiError 400.

    `{"documents": [policy, …], "force": false}`
    """
    if not isinstance(body, dict):
        raise ApiError(400, "expected an object with documents")
    request = cast("dict[str, Any]", body)
    given = request.get("documents")
    if not isinstance(given, list) or not given:
        raise ApiError(400, "expected a list of policies", "documents")
    documents = [_policy(one, index) for index, one in enumerate(cast("list[Any]", given))]
    if request.get("force"):
        documents = [_forced(one) for one in documents]
    return documents


def _policy(given: Any, index: int) -> Document:
    field = f"documents[{index}]"
    if not isinstance(given, dict):
        raise ApiError(400, "expected an object", field)
    document = cast("Document", given)
    if document.get("kind") not in RESOURCES:
        raise ApiError(
            400,
            f"{document.get('kind')!r} is no policy",
            f"{field}.kind",
            f"there are {', '.join(sorted(RESOURCES))}; use kubectl for other kinds",
        )
    if not isinstance(document.get("metadata"), dict):
        raise ApiError(400, "expected an object", f"{field}.metadata")
    return document


def _forced(document: Document) -> Document:
    metadata = cast("dict[str, Any]", document["metadata"])
    given = cast("dict[str, Any]", metadata.get("annotations") or {})
    annotations = {**given, FORCE_ANNOTATION: "true"}
    return {**document, "metadata": {**metadata, "annotations": annotations}}


def parsed(
    documents: Sequence[Document], parse: Callable[[Document, str], Policy]
) -> dict[PolicyKey, Policy]:
    """Return the policies; ApiError 400 for what has no name, 422 for what cannot be enforced."""
    found: dict[PolicyKey, Policy] = {}
    for document in documents:
        try:
            policy = parse(document, str(document["kind"]))
        except PolicyError as error:
            raise ApiError(400, error.reason, error.path) from error
        if policy.refusal is not None:
            path, reason = policy.refusal
            raise ApiError(422, f"{policy.key}: {reason}", path, "see fimbria policy validate")
        if policy.key in found:
            raise ApiError(400, f"{policy.key} is in it twice", "documents")
        found[policy.key] = policy
    return found


async def write(client: KubeClient, policies: dict[PolicyKey, Policy]) -> list[Document]:
    """Create or update each policy's object.

    Returns what was done, `{kind, namespace, name, result}`. Raises ApiError, naming what was
    written before, if the API does not take one of them.
    """
    done: list[Document] = []
    for key, policy in policies.items():
        try:
            result = await _write(client, key, dict(policy.document))
        except (KubeError, KubeUnreachable) as error:
            before = ", ".join(f"{one['kind']} {one['name']}" for one in done)
            text = f"{key}: {error}" + (f"; written before: {before}" if before else "")
            hint = "try again"
            if is_forbidden(error):
                hint = "the agent's account may not write policies: use kubectl apply"
            raise ApiError(502, text, hint=hint) from error
        done.append(
            {"kind": key.kind, "namespace": key.namespace, "name": key.name, "result": result}
        )
    return done


async def _write(client: KubeClient, key: PolicyKey, document: Document) -> str:
    resource, namespace = RESOURCES[key.kind], key.namespace or None
    for last in range(TRIES, 0, -1):
        try:
            current = await client.get(resource, key.name, namespace)
            if _same(current, document):
                return "unchanged"
            body = _merged(current, document)
            await client.update(resource, key.name, body, namespace)
            return "configured"
        except KubeError as error:
            if is_conflict(error) and last > 1:
                continue
            if not is_not_found(error):
                raise
        try:
            await client.create(resource, document, namespace)
            return "created"
        except KubeError as error:
            if not is_already_exists(error) or last == 1:
                raise
    raise AssertionError("the last try returns or raises")


def _merged(current: Document, wanted: Document) -> Document:
    metadata = cast("dict[str, Any]", wanted["metadata"])
    kept: dict[str, Any] = dict(current["metadata"])
    for name in ("labels", "annotations"):
        if name in metadata:
            kept[name] = metadata[name]
    body = {k: v for k, v in current.items() if k not in ("spec", "specs")}
    return {**body, **wanted, "metadata": kept}


def _same(current: Document, wanted: Document) -> bool:
    merged = _merged(current, wanted)
    return all(current.get(name) == merged.get(name) for name in ("metadata", "spec", "specs"))
