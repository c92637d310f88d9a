"""The example on plain WSGI.

gunicorn --workers 2 with_wsgi:application
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import colocache
import users
from colocache.wsgi import CacheMiddleware

cache = colocache.Cache("example-wsgi")


@cache.cached(ttl=300, tags=lambda user_id: (f"user:{user_id}",))
def user(user_id: int) -> dict[str, Any] | None:
    """Return a user. All workers together read it once, until it is written."""
    return users.read(user_id)


def rename(user_id: int, name: str) -> None:
    """Write first, then invalidate. When the response begins, no worker shows the old name."""
    users.rename(user_id, name)
    cache.invalidate_tags(f"user:{user_id}")


def respond(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """Answer a request."""
    user_id, name = users.id_in(environ["PATH_INFO"]), ""
    is_write = environ["REQUEST_METHOD"] == "POST"
    if is_write and (name := users.name_in(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"] or 0)))):
        rename(user_id, name)
    status, body = users.NO_NAME if is_write and not name else users.answer(user(user_id))
    start_response(f"{status} {HTTPStatus(status).phrase}", [("Content-Type", "application/json")])
    return [body]


application = CacheMiddleware(respond, cache)
