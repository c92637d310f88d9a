"""For FastAPI and Starlette: the cache as a dependency, and in the lifespan. Users import `colocache.fastapi`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from starlette.requests import HTTPConnection

from . import Cache
from .middleware import KEY

__all__ = ["get_cache", "lifespan"]

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]
WholeLifespan = Callable[[Any], AbstractAsyncContextManager[dict[str, Any]]]


def get_cache(connection: HTTPConnection) -> Cache:
    """Return the cache of the application, in a request or a websocket: ``Annotated[Cache, Depends(get_cache)]``.

    It is put there by `colocache.asgi.CacheMiddleware`, or by `lifespan`. RuntimeError if neither is in use.
    """
    cache = connection.scope.get("state", {}).get(KEY)
    if not isinstance(cache, Cache):
        raise RuntimeError(
            "the application has no cache: app.add_middleware(colocache.asgi.CacheMiddleware, cache=cache), or make it "
            "with lifespan=colocache.fastapi.lifespan(cache)"
        )
    return cache


def lifespan(cache: Cache, inner: Lifespan | None = None) -> WholeLifespan:
    """Return a lifespan for ``FastAPI(lifespan=…)`` that has the cache join its group first, and leave it last.

    In between runs ``inner``, the application's own; the cache is in its state, as ``request.state.colocache``. Raises
    what keeps the cache from joining its group, so that the server does not start. Not needed where `CacheMiddleware`
    is in use, which does this, too, but starts in any case.
    """
    if not isinstance(cache, Cache):
        raise TypeError(f"cache is a colocache.Cache, not {type(cache).__name__}: {cache!r:.60}")

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
