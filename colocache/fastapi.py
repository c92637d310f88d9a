"""For FastAPI and Starlette: the cache as a dependency, and in the lifespan."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.requests import HTTPConnection

from . import Cache
from .middleware import KEY, checked_cache

__all__ = ["get_cache", "lifespan"]

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]
WholeLifespan = Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]


def get_cache(connection: HTTPConnection) -> Cache:
    """Return the cache of the application, in a request or a websocket: ``Annotated[Cache, Depends(get_cache)]``.

    Raise RuntimeError if the application uses no `colocache.asgi.CacheMiddleware` and no `lifespan`.
    """
    cache = connection.scope.get("state", {}).get(KEY)
    if not isinstance(cache, Cache):
        raise RuntimeError(
            "the application has no cache: app.add_middleware(colocache.asgi.CacheMiddleware, cache=cache), or make it "
            "with lifespan=colocache.fastapi.lifespan(cache)"
        )
    return cache


def lifespan(cache: Cache, inner: Lifespan | None = None) -> WholeLifespan:
    """Return a lifespan for ``FastAPI(lifespan=…)``: the cache joins its group first, and leaves it last.

    In between runs ``inner``, the application's own lifespan. The cache is in the state, as
    ``request.state.colocache``. If the cache cannot join its group, the lifespan raises, and the server does not start.

    An application with `CacheMiddleware` does not need this. The middleware does the same, but lets the server start in
    any case.
    """
    checked_cache(cache)

    @asynccontextmanager
    async def whole(app: Any) -> AsyncIterator[dict[str, Any]]:
        await asyncio.to_thread(cache.start)
        try:
            if inner is None:
                yield {KEY: cache}
            else:
                async with inner(app) as state:
                    yield {**(state or {}), KEY: cache}
        finally:
            await asyncio.to_thread(cache.leave)

    return whole
