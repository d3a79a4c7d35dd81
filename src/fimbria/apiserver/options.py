"""Query parameters and option bodies, parsed once into frozen values.

Names and meanings are those of meta/v1 ListOptions and DeleteOptions. Parameters that only tune a
full Kubernetes (fieldManager, fieldValidation, resourceVersionMatch, pretty) are accepted and not
looked at.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from fimbria.apiserver import errors
from fimbria.apiserver.entry import field_at

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fimbria.apiserver.entry import Entry


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What a list or watch asks for. `start` is the (namespace, name) that a page begins after."""

    labels: str = ""
    fields: str = ""
    watch: bool = False
    version: int | None = None
    exact: bool = False
    bookmarks: bool = False
    initial_events: bool = False
    timeout: float | None = None
    limit: int = 0
    start: tuple[str, str] = ("", "")


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a delete asks for; `grace` in seconds."""

    grace: int | None = None
    orphan: bool = False
    dry_run: bool = False
    uid: str | None = None
    version: str | None = None

    def check(self, plural: str, name: str, entry: Entry) -> None:
        """Raise 409 if the preconditions do not hold."""
        for what, wanted, found in (
            ("UID", self.uid, entry.uid),
            ("ResourceVersion", self.version, str(entry.rv)),
        ):
            if wanted not in (None, found):
                why = f"Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"  # noqa: E501 - the text that clients match
                raise errors.conflict(plural, name, why)


def list_options(query: Mapping[str, str]) -> ListOptions:
    """Parse a query string. Raises 400 naming the parameter."""
    version, start = _number(query, "resourceVersion"), ("", "")
    exact = query.get("resourceVersionMatch") == "Exact" and bool(version)
    if token := query.get("continue"):
        version, start = _parse_token(token)
        exact = True
    timeout = _number(query, "timeoutSeconds")
    return ListOptions(
        query.get("labelSelector", ""),
        query.get("fieldSelector", ""),
        _flag(query, "watch"),
        version,
        exact,
        _flag(query, "allowWatchBookmarks"),
        _flag(query, "sendInitialEvents"),
        float(timeout) if timeout else None,
        _number(query, "limit") or 0,
        start,
    )


def delete_options(query: Mapping[str, str], body: Mapping[str, Any]) -> DeleteOptions:
    """Parse a delete's query and body (a DeleteOptions document or nothing). Raises 400."""
    grace = body.get("gracePeriodSeconds", _number(query, "gracePeriodSeconds"))
    if grace is not None and (not isinstance(grace, int) or isinstance(grace, bool) or grace < 0):
        raise errors.bad_request("gracePeriodSeconds must be a whole number of seconds")
    policy = body.get("propagationPolicy", query.get("propagationPolicy"))
    orphan = policy == "Orphan" or body.get("orphanDependents") is True
    return DeleteOptions(
        grace,
        orphan,
        dry_run(query) or bool(body.get("dryRun")),
        field_at(body, "preconditions.uid"),
        field_at(body, "preconditions.resourceVersion"),
    )


def dry_run(query: Mapping[str, str]) -> bool:
    """Whether the request asks for dryRun=All. Raises 400 for anything else."""
    value = query.get("dryRun", "")
    if value not in ("", "All"):
        raise errors.bad_request(f'dryRun: unsupported value "{value}": supported: All')
    return value == "All"


def continue_token(version: int, after: Entry) -> str:
    """An opaque token for the page after an entry, at a resource version."""
    token = msgspec.json.encode([version, after.namespace, after.name])
    return base64.urlsafe_b64encode(token).decode()


def _parse_token(token: str) -> tuple[int, tuple[str, str]]:
    try:
        plain = base64.urlsafe_b64decode(token)
        version, namespace, name = msgspec.json.decode(plain, type=tuple[int, str, str])
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        raise errors.bad_request("continue: not a token of this server") from None
    return version, (namespace, name)


def _flag(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "") in ("1", "true", "True", "t")


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name, "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise errors.bad_request(f"{name}: {text!r} is not a whole number")
    return int(text)
