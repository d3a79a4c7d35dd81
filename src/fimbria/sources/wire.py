"""The envelope of the Kubernetes API: lists, watch events, Status objects, error answers.

Objects stay raw JSON here, so that one that is malformed does not spoil the list it stands in.
"""

from __future__ import annotations

import msgspec

from fimbria.sources.errors import KubeError


class ListMeta(msgspec.Struct, rename="camel"):
    """A list's version, and the token that its next page is asked with."""

    resource_version: str = ""
    continue_: str = msgspec.field(default="", name="continue")


class RawList(msgspec.Struct):
    """A list whose items are not decoded yet."""

    metadata: ListMeta = msgspec.field(default_factory=ListMeta)
    items: list[msgspec.Raw] | None = None


class RawEvent(msgspec.Struct):
    """A line of a watch whose object is not decoded yet."""

    type: str
    object: msgspec.Raw


class Version(msgspec.Struct, rename="camel"):
    """Which object, and which version of it."""

    name: str = ""
    namespace: str = ""
    resource_version: str = ""


class Head(msgspec.Struct):
    """The part that every object has."""

    metadata: Version = msgspec.field(default_factory=Version)


class Status(msgspec.Struct):
    """The body of an error answer."""

    reason: str | None = None
    message: str | None = None
    code: int | None = None


def query(**parameters: str | int | None) -> dict[str, str]:
    """Return the parameters that have a value, as text."""

    return {key: str(value) for key, value in parameters.items() if value}


def with_subresource(path: str, subresource: str) -> str:
    """Return the path of an object's subresource, of the object itself for ""."""

    return f"{path}/{subresource}" if subresource else path


def head(raw: msgspec.Raw | bytes) -> Version:
    """Return what can be read of an object's metadata; empty if nothing can."""

    try:
        return msgspec.json.decode(raw, type=Head).metadata
    except msgspec.DecodeError:
        return Version()


def name_of(raw: msgspec.Raw | bytes) -> str:
    """Return namespace/name of an object for a message about it."""

    meta = head(raw)
    return "/".join(part for part in (meta.namespace, meta.name) if part) or "(without a name)"


def error_of(status: int, body: bytes, where: str) -> KubeError:
    """Return the error that an answer's body describes; `status` 0: take its code."""

    try:
        answer = msgspec.json.decode(body, type=Status)
    except msgspec.DecodeError:
        text = body.decode(errors="replace").strip()[:200]
        return KubeError(status or 500, "", text or f"HTTP {status}", where)
    code = status or answer.code or 500
    return KubeError(code, answer.reason or "", answer.message or f"HTTP {code}", where)
