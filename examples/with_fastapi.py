"""The example on FastAPI.

uvicorn --workers 2 with_fastapi:app
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Form, HTTPException

import colocache
import users
from colocache.asgi import CacheMiddleware
from colocache.fastapi import get_cache

cache = colocache.Cache("example-fastapi")
app = FastAPI()
app.add_middleware(CacheMiddleware, cache=cache)


@cache.cached(ttl=300, tags=lambda user_id: (f"user:{user_id}",))
def user(user_id: int) -> dict[str, Any] | None:
    """Return a user. All workers together read it once, until it is written."""
    return users.read(user_id)


@app.get("/users/{user_id}")
def show(user_id: int) -> dict[str, Any]:
    """Show a user. FastAPI runs this in a thread, so it may wait."""
    found = user(user_id)
    if found is None:
        raise HTTPException(404, "there is no such user")
    return users.page(found)


@app.post("/users/{user_id}")
def rename(
    user_id: int, name: Annotated[str, Form()], cache: Annotated[colocache.Cache, Depends(get_cache)]
) -> dict[str, Any]:
    """Write first, then invalidate. When the response begins, no worker shows the old name."""
    users.rename(user_id, name)
    cache.invalidate_tags(f"user:{user_id}")
    return show(user_id)
