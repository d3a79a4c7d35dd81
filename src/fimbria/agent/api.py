"""The agent's unix socket: HTTP and JSON for the CNI plugin and the command line.

Routes only: what they show is put together in `views`, what they do is done by `lifecycle`. Every
error is `{"error", "field", "hint"}` with a fitting status; a CNI error is the specification's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from fimbria.agent import cniresult
from fimbria.agent.cniresult import LATEST, CniError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fimbria.agent.cni import Cni
    from fimbria.agent.monitor import Monitor
    from fimbria.agent.views import Views

BODY_LIMIT = 8 << 20
SOCKET_MODE = 0o660

log = logging.getLogger(__name__)


class ApiError(Exception):
    """An answer that is an error: HTTP status, what is wrong, which field, what to do."""

    def __init__(self, status: int, error: str, field: str = "", hint: str = "") -> None:
        super().__init__(error)
        self.status = status
        self.error = error
        self.field = field
        self.hint = hint


class Api:
    """The routes. `monitor` is None until the datapath is up."""

    def __init__(self, views: Views, cni: Cni) -> None:
        self.monitor: Monitor | None = None
        self._views = views
        self._cni = cni

    def application(self) -> web.Application:
        """Return the HTTP application."""
        app = web.Application(client_max_size=BODY_LIMIT, middlewares=[_errors])
        views = self._views
        plain: dict[str, Callable[[], Any]] = {
            "/v1/healthz": views.status,
            "/v1/config": views.config,
            "/v1/endpoint": views.endpoints,
            "/v1/identity": views.identities,
            "/v1/ip": views.addresses,
            "/v1/cluster/nodes": views.nodes,
            "/v1/policy": views.policies,
            "/v1/policy/selectors": views.selectors,
            "/v1/map": views.maps,
            "/v1/controllers": views.controllers,
            "/v1/metrics": views.metrics,
        }
        for path, view in plain.items():
            app.router.add_get(path, _answer(view))
        named: dict[str, Callable[[str], Any]] = {
            "/v1/endpoint/{name:.+}/config": views.endpoint_config,
            "/v1/endpoint/{name:.+}": views.endpoint,
            "/v1/identity/{name}": views.identity,
            "/v1/rule/{name}": views.rule,
            "/v1/map/{name}": views.map,
        }
        # Fixed paths were added first and win over these.
        for path, view in named.items():
            app.router.add_get(path, _answer_named(view))
        app.router.add_patch("/v1/endpoint/{name:.+}/config", self._configure)
        app.router.add_get("/v1/policy/wait", self._wait)
        app.router.add_post("/v1/policy/resolve", self._resolve)
        app.router.add_put("/v1/policy/objects", self._apply)
        app.router.add_put("/v1/policy/trial", self._try)
        app.router.add_post("/v1/policy/trial/confirm", self._confirm)
        app.router.add_delete("/v1/policy/trial", self._roll_back)
        app.router.add_get("/v1/monitor", self._monitor)
        app.router.add_post("/v1/cni", self._cni_call)
        return app

    async def _wait(self, request: web.Request) -> web.Response:
        revision = _number(request, "revision", 0)
        await self._views.realised(revision)
        return _json({"revision": revision})

    async def _configure(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        return _json(await self._views.configure(name, await _body(request)))

    async def _resolve(self, request: web.Request) -> web.Response:
        return _json(self._views.resolve(await _body(request)))

    async def _apply(self, request: web.Request) -> web.Response:
        return _json(await self._views.trials.apply(await _body(request)))

    async def _try(self, request: web.Request) -> web.Response:
        return _json(await self._views.trials.begin(await _body(request)))

    async def _confirm(self, _: web.Request) -> web.Response:
        return _json(await self._views.trials.confirm())

    async def _roll_back(self, _: web.Request) -> web.Response:
        return _json(await self._views.trials.rollback())

    async def _monitor(self, request: web.Request) -> web.StreamResponse:
        monitor = self.monitor
        if monitor is None:
            raise ApiError(503, "the datapath is not up yet", hint="see fimbria status")
        last, follow = _number(request, "last", 0), _number(request, "follow", 0)
        response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        await response.prepare(request)
        with monitor.follow() as follower:
            if last:
                await self._send(response, monitor.last(last))
            while follow:
                await self._send(response, await follower.batch())
                if follower.lost:
                    lost, follower.lost = follower.lost, 0
                    line = msgspec.json.encode({"type": "lost", "count": lost})
                    await response.write(line + b"\n")
        return response

    async def _send(self, response: web.StreamResponse, events: list[Any]) -> None:
        step = 256  # so that a burst does not hold up everybody else
        for start in range(0, len(events), step):
            lines = [
                msgspec.json.encode(self._views.event(event))
                for event in events[start : start + step]
            ]
            await response.write(b"\n".join([*lines, b""]))
            await asyncio.sleep(0)

    async def _cni_call(self, request: web.Request) -> web.Response:
        version, call = LATEST, None
        try:
            body = await _body(request)
            call = cniresult.parse(body)
            version = call.version
            answer = await self._cni.handle(call)
        except ApiError as error:
            failure = CniError(6, error.error)
            return _json(failure.document(version), 400)
        except CniError as error:
            if call is None or call.command != "STATUS":  # asked all the time while we start
                log.warning("CNI: %s %s", error.message, error.details)
            return _json(error.document(version), error.status)
        except Exception as error:
            log.exception("CNI request failed")
            failure = CniError(999, f"the agent failed: {type(error).__name__}: {error}")
            return _json(failure.document(version), 500)
        return _json(answer)


async def listen(app: web.Application, path: Path) -> web.AppRunner:
    """Serve `app` on a unix socket (mode 0660) that takes the place of an old one at once."""
    check_place(path)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    site = web.UnixSite(runner, str(temporary))
    await site.start()
    temporary.chmod(SOCKET_MODE)
    # A name that always leads to a socket: clients meet the old one or the new one, never none.
    temporary.rename(path)
    return runner


def check_place(path: Path) -> None:
    """Raise OSError if there is something at `path` that is no socket."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise OSError(f"{path} is there and no socket: remove it or choose another --socket-path")


@web.middleware
async def _errors(request: web.Request, handler: Any) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return _json({"error": error.error, "field": error.field, "hint": error.hint}, error.status)
    except web.HTTPException as error:
        hint = "paths begin with /v1; see docs" if error.status == 404 else ""
        return _json({"error": error.reason, "field": "", "hint": hint}, error.status)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:
        log.exception("%s %s failed", request.method, request.path)
        text = f"the agent failed: {type(error).__name__}: {error}"
        return _json({"error": text, "field": "", "hint": "see the agent's log"}, 500)


def _answer(view: Callable[[], Any]) -> Any:
    async def handler(_: web.Request) -> web.Response:
        return _json(view())

    return handler


def _answer_named(view: Callable[[str], Any]) -> Any:
    async def handler(request: web.Request) -> web.Response:
        return _json(view(request.match_info["name"]))

    return handler


async def _body(request: web.Request) -> Any:
    try:
        return msgspec.json.decode(await request.read())
    except msgspec.DecodeError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, "")
    if not text:
        return default
    if not text.isdecimal():
        raise ApiError(400, f"{text!r} is no number", field=name)
    return int(text)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(value), status=status, content_type="application/json"
    )
