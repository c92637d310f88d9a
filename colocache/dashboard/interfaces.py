"""The dashboard as a WSGI and as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from ..interruptions import raise_if_from_handler
from .application import LARGEST, Application, Request

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApplication = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


def as_wsgi(application: Application) -> WSGIApplication:
    """Return an application of WSGI."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers = {name[5:].replace("_", "-").lower(): str(environ[name]) for name in environ if name[:5] == "HTTP_"}
        headers["content-type"] = str(environ.get("CONTENT_TYPE") or "")
        method = str(environ["REQUEST_METHOD"])
        response = application.answer(
            Request(
                method, _decoded(environ.get("SCRIPT_NAME", "")).rstrip("/"), _decoded(environ.get("PATH_INFO", "")),
                str(environ.get("QUERY_STRING", "")), headers, environ.get("wsgi.url_scheme") == "https",
                _body(environ) if method == "POST" else b"",
            )
        )  # fmt: skip
        start_response(response.line, response.headers)
        return [response.body]

    return answer


def _decoded(text: object) -> str:
    return str(text).encode("latin-1", "replace").decode("utf-8", "replace")


def _body(environ: WSGIEnvironment) -> bytes:
    try:
        length = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError as error:
        raise_if_from_handler(error)
        length = 0
    body: bytes = environ["wsgi.input"].read(min(max(length, 0), LARGEST + 1))
    return body


def as_asgi(application: Application) -> ASGIApplication:
    """Return an application of ASGI. What takes time is done in a thread, so that the event loop goes on."""

    async def answer(scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            raise RuntimeError(f"the dashboard of colocache is asked for by HTTP, and not by {scope['type']!r}")
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        root, path = str(scope.get("root_path") or "").rstrip("/"), str(scope["path"])
        if root and path.startswith(root):  # by the specification the path has the root in it; not all servers know
            path = path[len(root) :]
        body = await _received(receive) if scope["method"] == "POST" else b""
        request = Request(
            scope["method"], root, path, scope.get("query_string", b"").decode("latin-1"), headers,
            scope.get("scheme") == "https", body,
        )  # fmt: skip
        response = await asyncio.to_thread(application.answer, request)
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
        await send({"type": "http.response.start", "status": response.status, "headers": raw})
        await send({"type": "http.response.body", "body": response.body})

    return answer


async def _received(receive: Receive) -> bytes:
    body = b""
    while len(body) <= LARGEST:
        message = await receive()
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body"):
            break
    return body[: LARGEST + 1]


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
