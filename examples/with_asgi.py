"""The example on plain ASGI. The application takes no part in the lifespan, but the middleware does.

uvicorn --workers 2 with_asgi:application
"""

from __future__ import annotations

import asyncio
from typing import Any

import colocache
import users
from colocache.asgi import CacheMiddleware

cache = colocache.Cache("example-asgi")


@cache.cached(ttl=300, tags=lambda user_id: (f"user:{user_id}",))
async def user(user_id: int) -> dict[str, Any] | None:
    """Return a user. All workers together read it once, until it is written."""
    return await asyncio.to_thread(users.read, user_id)


async def rename(user_id: int, name: str) -> None:
    """Write first, then invalidate. When the response begins, no worker shows the old name."""
    await asyncio.to_thread(users.rename, user_id, name)
    await cache.ainvalidate_tags(f"user:{user_id}")


async def respond(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answer a request."""
    assert scope["type"] == "http"
    user_id, name = users.id_in(scope["path"]), ""
    is_write = scope["method"] == "POST"
    if is_write and (name := users.name_in((await receive())["body"])):  # the form is short, so it comes in one part
        await rename(user_id, name)
    status, body = users.NO_NAME if is_write and not name else users.answer(await user(user_id))
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


application = CacheMiddleware(respond, cache)
