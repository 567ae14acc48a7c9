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
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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


class OwnPagesOnly:
    """Middleware that answers only under this machine's names, only this server's own pages, and in no frame.

    A page of a stranger's site whose name was re-pointed at 127.0.0.1 (DNS rebinding) could otherwise read the runs, and a
    page of another site or another port could open the WebSocket that drives the pages, or lay them under its own.
    Streamlit checks neither routes that are mounted beside its own nor its static files, lets every port of this machine in,
    and asks an outside service for this machine's address before it refuses another origin: so this comes before it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return

        async def unframed(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["Content-Security-Policy"] = "frame-ancestors 'none'"
            await send(message)

        error = _refusal(scope)
        if not error:
            await self.app(scope, receive, unframed)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await JSONResponse({"error": error}, status_code=403)(scope, receive, unframed)


def _refusal(scope: Scope) -> str:
    """Why a request is refused; empty if it is not.

    A browser writes Host and Origin itself, and sends an Origin with every WebSocket.
    """
    headers = Headers(scope=scope)
    host, origin = headers.get("host", ""), headers.get("origin")
    if not is_local_host(host):
        return "this server answers only requests to 127.0.0.1 or localhost."
    if origin == f"http://{host}" or (origin is None and scope["type"] == "http"):
        return ""
    return "this server answers only its own pages."


def is_local_host(header: str) -> bool:
    """Whether a Host header, with or without a port, names this machine."""
    host, _, port = header.rpartition(":") if not header.endswith("]") else (header, "", "")
    if not host:
        host, port = port, ""
    return host.lower() in LOCAL_HOSTS and (not port or port.isdigit())


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
