"""The example as a plain WSGI application.

gunicorn --workers 2 with_wsgi:application
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs
from wsgiref.types import StartResponse, WSGIEnvironment

import colocache
import users
from colocache.wsgi import CacheMiddleware

cache = colocache.Cache("example-wsgi")


@cache.cached(ttl=300, tags=lambda user_id: (f"user:{user_id}",))
def user(user_id: int) -> dict[str, Any] | None:
    """One user; read once in all workers together, until it is written."""
    return users.read(user_id)


def rename(user_id: int, name: str) -> bool:
    """Write, then invalidate, in this order; no worker shows the old name once the response begins."""
    found = users.rename(user_id, name)
    cache.invalidate_tags(f"user:{user_id}", wait="response")
    return found


def form(environ: WSGIEnvironment) -> dict[str, list[str]]:
    """The form in a request's body."""
    return parse_qs(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)).decode())


def answer(environ: WSGIEnvironment) -> tuple[str, dict[str, Any]]:
    """The status and the JSON of the answer to a request."""
    _, _, number = environ["PATH_INFO"].rpartition("/users/")
    user_id = int(number) if number.isdecimal() else 0
    if environ["REQUEST_METHOD"] == "POST":
        name = form(environ).get("name", [""])[0]
        if not name:
            return "400 Bad Request", {"error": "give a name, as in -d name=Ada"}
        rename(user_id, name)
    found = user(user_id)
    return ("200 OK", users.page(found)) if found else ("404 Not Found", {"error": "there is no such user"})


def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The application itself."""
    status, content = answer(environ)
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(content).encode()]


application = CacheMiddleware(respond, cache)
