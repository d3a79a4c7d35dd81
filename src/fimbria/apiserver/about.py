"""What clients ask about the server itself: version, discovery, OpenAPI."""

from __future__ import annotations

from aiohttp import web

from fimbria.apiserver import discovery, openapi
from fimbria.apiserver.entry import encode
from fimbria.apiserver.errors import no_such_path
from fimbria.apiserver.wire import json_response

_AGGREGATED = "application/json;g=apidiscovery.k8s.io;v={};as=APIGroupDiscoveryList"


def answer(request: web.BaseRequest) -> web.Response | None:
    """The answer to such a question; None if the path is one of resources. Raises 404."""
    match request.path.strip("/").split("/"):
        case ["version"]:
            document = discovery.VERSION
        case ["openapi", "v2"]:
            return _openapi_v2(request)
        case ["openapi", "v3"]:
            document = openapi.v3_index()
        case ["openapi", "v3", *path]:
            body = openapi.v3("/".join(path))
            if body is None:
                raise no_such_path(request.path)
            return json_response(body)
        case [("api" | "apis") as root]:
            return _discover(request, core=root == "api")
        case ["apis", group]:
            document = discovery.api_group(group)
        case ["api", version]:
            document = discovery.api_resource_list("", version)
        case ["apis", group, version]:
            document = discovery.api_resource_list(group, version)
        case ["api" | "apis", *_]:
            return None
        case _:
            raise no_such_path(request.path)
    if document is None:
        raise no_such_path(request.path)
    return json_response(encode(document))


def _openapi_v2(request: web.BaseRequest) -> web.Response:
    if "protobuf" in request.headers.get("Accept", ""):
        headers = {"Content-Type": openapi.PROTOBUF}
        return web.Response(body=openapi.v2_protobuf(), headers=headers)
    return json_response(openapi.v2_json())


def _discover(request: web.BaseRequest, *, core: bool) -> web.Response:
    accept = request.headers.get("Accept", "")
    if "as=APIGroupDiscoveryList" in accept:
        version = "v2" if "v=v2;" in accept or "v=v2," in accept else "v2beta1"
        document = discovery.aggregated(core, version)
        headers = {"Content-Type": _AGGREGATED.format(version)}
        return web.Response(body=encode(document), headers=headers)
    return json_response(encode(discovery.api_versions() if core else discovery.api_group_list()))
