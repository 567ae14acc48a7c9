"""JSON routes behind the feature card: what one feature is, where it fires, and the columns of the feature table.

    GET /api/runs/STORE/RUN/features                   density, max, dead and evidence of every feature
    GET /api/runs/STORE/RUN/features/F                 one feature with its evidence
    GET /api/runs/STORE/RUN/features/F/examples?which=top&context=24

An error is ``{"error": "..."}`` with the message a person would read anywhere else in the tool. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.workspace import find_run, open_evidence, open_index
from interp.browse.features import FeatureCard, FeatureTable, example_payload, feature_payload, table_payload
from interp.errors import InputError
from interp.index.reader import Example
from interp.runs.record import Run

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a page on this machine reaches the server."""


def routes() -> list[Route]:
    """The routes, to be mounted beside the Streamlit pages."""
    base = "/api/runs/{store}/{run}/features"
    return [
        Route(base, _answering(_table)),
        Route(base + "/{feature}", _answering(_feature)),
        Route(base + "/{feature}/examples", _answering(_examples)),
    ]


class LocalHostOnly:
    """Middleware that refuses requests whose Host header is not this machine.

    A page of a stranger's site whose name was re-pointed at 127.0.0.1 (DNS rebinding) could otherwise read the runs.
    Streamlit's own ``server.allowedHosts`` covers neither routes that are mounted beside its own nor its static files.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or is_local_host(_host(scope)):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            error = "this server answers only requests to 127.0.0.1 or localhost."
            await JSONResponse({"error": error}, status_code=403)(scope, receive, send)


def is_local_host(header: str) -> bool:
    """Whether a Host header, with or without a port, names this machine."""
    host, _, port = header.rpartition(":") if not header.endswith("]") else (header, "", "")
    if not host:
        host, port = port, ""
    return host.lower() in LOCAL_HOSTS and (not port or port.isdigit())


def _host(scope: Scope) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == b"host"), "")


def _answering(build: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """An endpoint that runs ``build`` off the event loop and turns an InputError into a JSON error."""

    async def endpoint(request: Request) -> JSONResponse:
        try:
            return JSONResponse(await run_in_threadpool(build, request), headers={"Cache-Control": "no-store"})
        except InputError as error:
            return JSONResponse({"error": str(error)}, status_code=404)

    return endpoint


def _table(request: Request) -> FeatureTable:
    run = _run(request)
    return table_payload(open_index(run), open_evidence(run))


def _feature(request: Request) -> FeatureCard:
    run = _run(request)
    return feature_payload(open_index(run), request.path_params["feature"], run, open_evidence(run))


def _examples(request: Request) -> list[Example]:
    query = request.query_params
    index = open_index(_run(request))
    return example_payload(index, request.path_params["feature"], query.get("which", "top"), query.get("context", "24"))


def _run(request: Request) -> Run:
    return find_run(f"{request.path_params['store']}/{request.path_params['run']}")
