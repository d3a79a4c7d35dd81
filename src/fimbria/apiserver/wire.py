"""Bodies on the wire: what clients send and in which form they want the answer.

Requests carry JSON or, from typed clients, protobuf; patches say in their content type which kind
of patch they are. Answers are JSON, as the object itself, as a table or as its metadata.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from fimbria.apiserver import errors, protobuf
from fimbria.apiserver.patch import json_patch, merge_patch
from fimbria.apiserver.strategic import strategic_merge

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.apiserver.entry import Object
    from fimbria.apiserver.resources import Resource

JSON = "application/json"
_PATCHES: dict[str, Callable[[Any, Any], Any]] = {
    "application/json-patch+json": json_patch,
    "application/merge-patch+json": merge_patch,
    "application/strategic-merge-patch+json": strategic_merge,
}


def json_response(body: bytes, code: int = 200) -> web.Response:
    """An answer with encoded JSON."""
    return web.Response(body=body, status=code, headers={"Content-Type": JSON})


def wanted_form(request: web.BaseRequest) -> str:
    """The first form in Accept that this server gives: Table, PartialObjectMetadata or ''."""
    for choice in request.headers.get("Accept", "").split(","):
        if "json" in choice or "*" in choice:
            if "as=Table" in choice and "v=v1" in choice.replace("v=v1beta1", ""):
                return "Table"
            if "as=PartialObjectMetadata" in choice:
                return "PartialObjectMetadata"
            if "as=" not in choice:
                return ""
    return ""


async def _decoded(request: web.BaseRequest) -> Any:
    try:
        return msgspec.json.decode(await request.read())
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise errors.bad_request(f"the body is not JSON: {error}") from None


async def read_object(request: web.BaseRequest, *, optional: bool = False) -> Object:
    """The body as an object; with `optional`, an empty one stands for {}."""
    if not request.body_exists or (optional and not await request.read()):
        if optional:
            return {}
        raise errors.bad_request("the body is missing")
    if request.content_type == protobuf.CONTENT_TYPE:
        return protobuf.decode(await request.read())
    if request.content_type not in (JSON, "application/octet-stream"):
        raise errors.unsupported_media(f"{request.content_type}: this server takes {JSON}")
    document = await _decoded(request)
    if not isinstance(document, dict):
        raise errors.bad_request("the body is not a JSON object")
    return document  # pyright: ignore[reportUnknownVariableType] - decoded JSON


async def read_patch(request: web.BaseRequest, resource: Resource) -> Callable[[Object], Any]:
    """The body as a function from the current object to the patched one."""
    form = request.content_type
    if form == "application/apply-patch+yaml":
        raise errors.unsupported_media(
            "server-side apply is not supported by the embedded API server; "
            "use kubectl apply without --server-side"
        )
    if form == "application/strategic-merge-patch+json" and not resource.strategic:
        raise errors.unsupported_media(
            f"{resource.kind} is a custom resource: use application/merge-patch+json"
        )
    function = _PATCHES.get(form)
    if function is None:
        raise errors.unsupported_media(f"{form}: patch types are {', '.join(_PATCHES)}")
    patch = await _decoded(request)
    return lambda current: function(current, patch)
