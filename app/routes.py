"""JSON routes behind the feature card: what one feature is, where it fires, and the columns of the feature table.

    GET /api/runs/STORE/RUN/features                   density, max, dead and evidence of every feature
    GET /api/runs/STORE/RUN/features/F                 one feature with its evidence
    GET /api/runs/STORE/RUN/features/F/examples?which=top&context=24
    GET /api/runs/STORE/RUN/features/F/ablation?sequence=7      what taking it out changes there; loads the model, as do
    POST /api/runs/STORE/RUN/features/F/text                    where it fires in the text that is sent
    POST /api/runs/STORE/RUN/features/F/text/ablation           and what taking it out changes in it
    GET /api/runs/STORE/RUN/features/F/card.html                its card as one file, and card.json
    GET /api/runs/STORE/RUN/features/F/vector.safetensors       its directions; loads torch
    GET /api/runs/STORE/RUN/features/F/snippet?which=top&context=24        Python that shows the same; with ?text=, of a text
    POST /api/runs/STORE/RUN/prompt                             the codes of the text that is sent; loads the model
    GET /api/snippet/PAGE?run=STORE/RUN&...                     Python that shows what another page does at that address
    GET /api/runs/STORE/RUN/labels                              labels, notes and bookmarks as a file

An error is ``{"error": "..."}`` with the message a person would read anywhere else in the tool. Nothing here writes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.workspace import find_run, open_evidence, open_index
from interp.browse.features import (
    FeatureCard,
    FeatureTable,
    check_feature,
    example_payload,
    feature_payload,
    plain_number,
    table_payload,
)
from interp.browse.shared_card import card_html, card_json, file_name, shared_card
from interp.browse.snippets import card_snippet, page_snippet, text_snippet
from interp.errors import InputError
from interp.index.reader import Example
from interp.runs.label_file import labels_json
from interp.runs.record import Run

if TYPE_CHECKING:
    from interp.browse.prompt import PromptPayload

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
"""Names under which a page on this machine reaches the server."""


def routes() -> list[Route]:
    """The routes, to be mounted beside the Streamlit pages."""
    base = "/api/runs/{store}/{run}/features"
    return [
        Route(base, _answering(_table)),
        Route(base + "/{feature}", _answering(_feature)),
        Route(base + "/{feature}/examples", _answering(_examples)),
        Route(base + "/{feature}/ablation", _answering(_ablation)),
        Route(base + "/{feature}/text", _answering(_text), methods=["POST"]),
        Route(base + "/{feature}/text/ablation", _answering(_text_ablation), methods=["POST"]),
        Route(base + "/{feature}/card.html", _answering(_card_html)),
        Route(base + "/{feature}/card.json", _answering(_card_json)),
        Route(base + "/{feature}/vector.safetensors", _answering(_vector)),
        Route(base + "/{feature}/snippet", _answering(_snippet)),
        Route("/api/snippet/{page}", _answering(_page_snippet)),
        Route("/api/runs/{store}/{run}/prompt", _answering(_prompt), methods=["POST"]),
        Route("/api/runs/{store}/{run}/labels", _answering(_labels)),
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


class Download(NamedTuple):
    """A file to keep."""

    name: str
    """Plain letters, digits, dots, dashes and underscores."""
    media_type: str
    content: str | bytes


def _answering(build: Callable[[Request], Any]) -> Callable[[Request], Any]:
    """An endpoint that runs ``build`` off the event loop and turns an InputError into a JSON error.

    What ``build`` returns is sent as JSON, but a ``Download`` as a file to keep: no browser opens it as a page of this server.
    """

    async def endpoint(request: Request) -> Response:
        try:
            request.state.text = (await request.body()).decode(errors="replace")
            found = await run_in_threadpool(build, request)
            if not isinstance(found, Download):
                return JSONResponse(found, headers={"Cache-Control": "no-store"})
            headers = {
                "Cache-Control": "no-store",
                "Content-Disposition": f'attachment; filename="{found.name}"',
                "X-Content-Type-Options": "nosniff",
            }
            return Response(found.content, media_type=found.media_type, headers=headers)
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


class Changes(TypedDict):
    """What taking a feature out of the model does to the log-probability of the token after each one, in nats."""

    changes: list[float | None]


def _ablation(request: Request) -> Changes:
    from app import on_demand  # deferred: loads torch, which browsing does without

    run, feature = _run(request), _number(request)
    sequence = plain_number(request.query_params.get("sequence", ""))
    if sequence is None:
        raise InputError("give the number of a sequence of the store: ?sequence=7")
    return Changes(changes=on_demand.changes_of_sequence(run, _name(request), feature, sequence))


def _text(request: Request) -> Example:
    from app import on_demand  # deferred: loads torch, which browsing does without

    return on_demand.typed_text(_run(request), _name(request), _number(request), request.state.text)


def _text_ablation(request: Request) -> Changes:
    from app import on_demand  # deferred: loads torch, which browsing does without

    run, feature = _run(request), _number(request)
    return Changes(changes=on_demand.changes_of_typed_text(run, _name(request), feature, request.state.text))


def _prompt(request: Request) -> PromptPayload:
    from app import on_demand  # deferred: loads torch, which browsing does without

    return on_demand.payload_of_text(_run(request), _name(request), request.state.text)


def _card_html(request: Request) -> Download:
    run, feature = _run(request), _number(request)
    page = card_html(shared_card(open_index(run), run, open_evidence(run), feature))
    return Download(file_name(run, f"feature-{feature}.html"), "text/html; charset=utf-8", page)


def _card_json(request: Request) -> Download:
    run, feature = _run(request), _number(request)
    card = card_json(shared_card(open_index(run), run, open_evidence(run), feature))
    return Download(file_name(run, f"feature-{feature}.json"), "application/json", card)


def _vector(request: Request) -> Download:
    from app import on_demand  # deferred: loads torch, which browsing does without

    run, feature = _run(request), _number(request)
    name = file_name(run, f"feature-{feature}.safetensors")
    return Download(name, "application/octet-stream", on_demand.feature_vector(run, feature))


class Snippet(TypedDict):
    """Python for a notebook."""

    text: str


def _snippet(request: Request) -> Snippet:
    run, feature, query = _run(request), _number(request), request.query_params
    path = run.path.resolve()
    if "text" in query:
        return Snippet(text=text_snippet(path, feature, query["text"]))
    return Snippet(text=card_snippet(path, feature, query.get("which", "top"), query.get("context", "24")))


def _page_snippet(request: Request) -> Snippet:
    run = find_run(request.query_params.get("run", ""))
    return Snippet(text=page_snippet(run.path.resolve(), request.path_params["page"], request.query_params))


def _labels(request: Request) -> Download:
    run = _run(request)
    return Download(file_name(run, "labels.json"), "application/json", labels_json(run))


def _number(request: Request) -> int:
    return check_feature(open_index(_run(request)), request.path_params["feature"])


def _run(request: Request) -> Run:
    return find_run(_name(request))


def _name(request: Request) -> str:
    return f"{request.path_params['store']}/{request.path_params['run']}"
