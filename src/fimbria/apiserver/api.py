"""HTTP: from a request to the registry and back.

`Api.handle` is the only entry. It authenticates, answers the paths that are about the server
itself, and dispatches the rest by method and subresource (`subresources.py`). Writes are
transactions of the registry; the answer goes out when they are on disk. Lists are joins of stored
bytes; watches are in `watch.py`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from fimbria.apiserver import (
    about,
    errors,
    reviews,
    subresources,
    tables,
    watch,
)
from fimbria.apiserver.entry import Entry, Object, encode
from fimbria.apiserver.errors import ApiError
from fimbria.apiserver.options import (
    ListOptions,
    continue_token,
    delete_options,
    dry_run,
    list_options,
)
from fimbria.apiserver.routes import Target, parse
from fimbria.apiserver.selectors import Matcher, matcher
from fimbria.apiserver.wire import (
    JSON,
    json_response,
    read_object,
    read_patch,
    wanted_form,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fimbria.apiserver.auth import Authenticator
    from fimbria.apiserver.registry import Registry

MAX_BODY = 3 * 1024 * 1024
"""Bytes of a request body, as in Kubernetes."""

_HEALTH = frozenset({"healthz", "livez", "readyz"})
log = logging.getLogger(__name__)


class Api:
    """The API over the objects of one store."""

    def __init__(self, objects: Registry, auth: Authenticator, now: Callable[[], float]) -> None:
        """`now` gives the time as seconds since the epoch (for ages in tables)."""
        self._objects = objects
        self._store = objects.store
        self._auth = auth
        self._now = now

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; failures become Status documents."""
        try:
            return await self._dispatch(request)
        except ApiError as error:
            return json_response(encode(error.status()), error.code)
        except web.HTTPRequestEntityTooLarge:
            error = ApiError(413, "RequestEntityTooLarge", f"the limit is {MAX_BODY} bytes")
            return json_response(encode(error.status()), 413)
        except RecursionError:
            error = errors.bad_request("the document is nested too deeply")
            return json_response(encode(error.status()), 400)
        except Exception as failure:
            log.exception("%s %s", request.method, request.path)
            error = ApiError(500, "InternalError", f"Internal error: {failure!r}")
            return json_response(encode(error.status()), 500)

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        head = request.path.strip("/").partition("/")[0]
        if head in _HEALTH:
            return web.Response(text="ok")
        user = self._auth.user(request)
        if answer := about.answer(request):
            return answer
        target = parse(request.path)
        if target.review:
            if request.method != "POST":
                raise errors.method_not_allowed(request.method, request.path)
            document = reviews.answer(target.resource, await read_object(request), user)
            return json_response(encode(document), 201)
        response = await self._resource(request, target)
        if isinstance(response, web.Response) and isinstance(response.body, bytes):
            response.body = target.as_asked(response.body)
        return response

    async def _resource(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        if target.subresource not in ("", "status"):
            return await self._subresource(request, target)
        if target.subresource and not target.resource.status:
            raise errors.no_such_path(request.path)
        match request.method, bool(target.name):
            case "GET" | "HEAD", False:
                return await self._list(request, target)
            case "GET" | "HEAD", True:
                return await self._get(request, target)
            case "POST", False:
                return await self._create(request, target)
            case "PUT", True:
                document = await read_object(request)
                return await self._write(request, target, lambda _: document)
            case "PATCH", True:
                return await self._write(
                    request, target, await read_patch(request, target.resource)
                )
            case "DELETE", True if not target.subresource:
                return await self._delete(request, target)
            case "DELETE", False:
                return await self._delete_collection(request, target)
            case _:
                raise errors.method_not_allowed(request.method, request.path)

    # Reading -----------------------------------------------------------------

    async def _get(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        if "watch" in request.query and list_options(request.query).watch:
            raise errors.bad_request("watch lists, with a fieldSelector metadata.name=NAME")
        entry = self._objects.find(target.resource, target.namespace, target.name)
        await self._store.committed(entry.rv)
        return json_response(self._render(request, target)(entry))

    async def _list(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        options = list_options(request.query)
        match = matcher(target.resource, options.labels, options.fields)
        if options.watch:
            return await self._watch(request, target, options, match)
        store, resource = self._store, target.resource
        version = store.revision
        if options.exact and options.version:
            version = options.version
        entries = store.entries(resource, target.namespace, version, options.start)
        await store.committed(min(version, store.revision))
        if match:
            entries = [entry for entry in entries if match(entry)]
        metadata: Object = {"resourceVersion": str(version)}
        if options.limit and len(entries) > options.limit:
            metadata["remainingItemCount"] = len(entries) - options.limit
            entries = entries[: options.limit]
            metadata["continue"] = continue_token(version, entries[-1])
        form = wanted_form(request)
        if form == "Table":
            include = request.query.get("includeObject", "Metadata")
            return json_response(
                encode(tables.table(resource, entries, metadata, include, self._now()))
            )
        kind, api_version = f"{resource.kind}List", resource.api_version
        items = [entry.raw for entry in entries]
        if form == "PartialObjectMetadata":
            kind, api_version = "PartialObjectMetadataList", "meta.k8s.io/v1"
            items = [encode(tables.partial(entry.decode())) for entry in entries]
        opening = encode({"kind": kind, "apiVersion": api_version, "metadata": metadata})
        return json_response(b'%s,"items":[%s]}\n' % (opening[:-1], b",".join(items)))

    async def _watch(
        self,
        request: web.BaseRequest,
        target: Target,
        options: ListOptions,
        match: Matcher | None,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": JSON})
        response.enable_chunked_encoding()
        await response.prepare(request)
        render = self._render(request, target)
        chunks = watch.stream(
            self._store, target.resource, target.namespace, options, match, render
        )
        try:
            async for chunk in chunks:
                await response.write(chunk)
            await response.write_eof()
        except ConnectionResetError:
            log.debug("watch of %s: the client went away", target.resource.key)
        return response

    def _render(self, request: web.BaseRequest, target: Target) -> watch.Render:
        """How the client wants single objects."""
        match wanted_form(request):
            case "Table":
                include = request.query.get("includeObject", "Metadata")

                def as_table(entry: Entry) -> bytes:
                    metadata = {"resourceVersion": str(entry.rv)}
                    return encode(
                        tables.table(target.resource, [entry], metadata, include, self._now())
                    )

                return as_table
            case "PartialObjectMetadata":
                return lambda entry: encode(tables.partial(entry.decode()))
            case _:
                return lambda entry: target.as_asked(entry.raw)

    # Writing -----------------------------------------------------------------

    async def _create(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        document = await read_object(request)
        namespace = target.namespace
        if target.resource.namespaced and not namespace:
            raise errors.bad_request("an object of this kind is created in a namespace")
        dry = dry_run(request.query)
        body = self._objects.create(target.resource, namespace, document, dry_run=dry)
        await self._store.committed()
        return json_response(body, 201)

    async def _write(
        self, request: web.BaseRequest, target: Target, change: Callable[[Object], Any]
    ) -> web.StreamResponse:
        """Update with what `change` makes of the current object."""
        current = self._objects.find(target.resource, target.namespace, target.name).decode()
        document = change(current)
        body = self._objects.update(
            target.resource,
            target.namespace,
            target.name,
            document,
            status=target.subresource == "status",
            dry_run=dry_run(request.query),
        )
        await self._store.committed()
        return json_response(body)

    async def _delete(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        options = delete_options(request.query, await read_object(request, optional=True))
        entry = self._objects.find(target.resource, target.namespace, target.name)
        body, gone = self._objects.delete(target.resource, target.namespace, target.name, options)
        await self._store.committed()
        if not gone:
            return json_response(body)
        details = {"name": entry.name, "group": target.resource.group,
                   "kind": target.resource.plural, "uid": entry.uid}  # fmt: skip
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success",
                  "details": details}  # fmt: skip
        return json_response(encode(status))

    async def _delete_collection(
        self, request: web.BaseRequest, target: Target
    ) -> web.StreamResponse:
        options = delete_options(request.query, await read_object(request, optional=True))
        selection = list_options(request.query)
        match = matcher(target.resource, selection.labels, selection.fields)
        bodies: list[bytes] = []
        for entry in self._store.entries(target.resource, target.namespace):
            if self._store.get(target.resource, entry.namespace, entry.name) is None:
                continue
            if match is None or match(entry):
                bodies.append(
                    self._objects.delete(target.resource, entry.namespace, entry.name, options)[0]
                )
        await self._store.committed()
        opening = encode(
            {
                "kind": f"{target.resource.kind}List",
                "apiVersion": target.resource.api_version,
                "metadata": {"resourceVersion": str(self._store.revision)},
            }
        )
        return json_response(b'%s,"items":[%s]}\n' % (opening[:-1], b",".join(bodies)))

    async def _subresource(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        change = None
        if request.method == "PATCH":
            change = await read_patch(request, target.resource)
        elif request.method in ("PUT", "POST"):
            document = await read_object(request, optional=request.method == "POST")

            def replace(_: Object) -> Any:
                return document

            change = replace
        code, body = subresources.serve(
            self._objects, target, request.method, change, dry_run(request.query)
        )
        await self._store.committed()
        return json_response(body, code)
