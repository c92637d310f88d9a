"""The example as a plain ASGI application, which knows nothing of the lifespan: the middleware does.

uvicorn --workers 2 with_asgi:application
"""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import parse_qs

import colocache
import users
from colocache.asgi import CacheMiddleware

cache = colocache.Cache("example-asgi")


@cache.cached(ttl=300, tags=lambda user_id: (f"user:{user_id}",))
async def user(user_id: int) -> dict[str, Any] | None:
    """One user; read once in all workers together, until it is written."""
    return await asyncio.to_thread(users.read, user_id)


async def rename(user_id: int, name: str) -> bool:
    """Write, then invalidate, in this order; no worker shows the old name once the response begins."""
    found = await asyncio.to_thread(users.rename, user_id, name)
    await cache.ainvalidate_tags(f"user:{user_id}", wait="response")
    return found


async def form(receive: Any) -> dict[str, list[str]]:
    """The form in a request's body."""
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return parse_qs(body.decode())


async def answer(scope: dict[str, Any], receive: Any) -> tuple[int, dict[str, Any]]:
    """The status and the JSON of the answer to a request."""
    _, _, number = scope["path"].rpartition("/users/")
    user_id = int(number) if number.isdecimal() else 0
    if scope["method"] == "POST":
        name = (await form(receive)).get("name", [""])[0]
        if not name:
            return 400, {"error": "give a name, as in -d name=Ada"}
        await rename(user_id, name)
    found = await user(user_id)
    return (200, users.page(found)) if found else (404, {"error": "there is no such user"})


async def respond(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The application itself."""
    assert scope["type"] == "http"
    status, content = await answer(scope, receive)
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


application = CacheMiddleware(respond, cache)
