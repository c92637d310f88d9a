"""FastAPI and Starlette: the dependency and the lifespan, with real caches and Starlette's test client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

import colocache
from colocache import Cache
from colocache.asgi import CacheMiddleware
from colocache.fastapi import get_cache, lifespan

CacheDep = Annotated[Cache, Depends(get_cache)]


def with_routes(app: FastAPI) -> FastAPI:
    """Return an application that depends on the cache."""

    @app.get("/sync")
    def sync(cache: CacheDep) -> Any:
        return cache.get_or_load("sync", lambda: "loaded")

    @app.get("/async")
    async def asynchronous(cache: CacheDep) -> Any:
        return await cache.aget_or_load("async", lambda: "loaded")

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, cache: CacheDep) -> None:
        await websocket.accept()
        await websocket.send_text(str(await cache.aget("sync")))
        await websocket.close()

    return app


def use(client: TestClient) -> None:
    """Request all routes."""
    assert client.get("/sync").json() == "loaded"
    assert client.get("/async").json() == "loaded"
    with client.websocket_connect("/socket") as websocket:
        assert websocket.receive_text() == "loaded"


def test_the_middleware_gives_the_cache_to_a_dependency(cache: Cache) -> None:
    app = with_routes(FastAPI())
    app.add_middleware(CacheMiddleware, cache=cache)
    with TestClient(app) as client:
        use(client)
        assert len(cache.members()) == 1
    assert cache.members() == []


def test_the_lifespan_gives_the_cache_to_a_dependency(cache: Cache) -> None:
    with TestClient(with_routes(FastAPI(lifespan=lifespan(cache)))) as client:
        assert len(cache.members()) == 1
        use(client)
    assert cache.members() == []


def test_the_applications_own_lifespan_runs_between_and_its_state_is_kept(cache: Cache) -> None:
    happened: list[str] = []

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, Any]]:
        happened.append(f"started with {len(cache.members())} member")
        yield {"own": 7}
        happened.append(f"stopped with {len(cache.members())} member")

    async def page(request: Request) -> JSONResponse:
        same = get_cache(request) is request.state.colocache is cache
        return JSONResponse([same, request.state.own])

    with TestClient(Starlette(routes=[Route("/", page)], lifespan=lifespan(cache, own))) as client:
        assert client.get("/").json() == [True, 7]
    assert happened == ["started with 1 member", "stopped with 1 member"]
    assert cache.members() == []


def test_a_lifespan_that_raises_closes_the_cache(cache: Cache) -> None:
    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[None]:
        raise KeyError("no database")
        yield

    with pytest.raises(KeyError, match="no database"), TestClient(FastAPI(lifespan=lifespan(cache, own))):
        pass
    assert cache.members() == []


def test_a_cache_that_cannot_join_keeps_the_server_from_starting(new_cache: Any, tmp_path: Any) -> None:
    place = tmp_path / "file"
    place.write_text("not a directory")
    app = FastAPI(lifespan=lifespan(new_cache(directory=str(place))))
    with pytest.raises(colocache.ConfigError, match="not a directory"), TestClient(app):
        pass


def test_the_middleware_and_the_lifespan_together_do_no_harm(cache: Cache) -> None:
    app = with_routes(FastAPI(lifespan=lifespan(cache)))
    app.add_middleware(CacheMiddleware, cache=cache)
    with TestClient(app) as client:
        use(client)
    assert cache.members() == []


def test_a_dependency_without_a_cache_says_what_to_do() -> None:
    with pytest.raises(RuntimeError, match="the application has no cache: "):
        TestClient(with_routes(FastAPI())).get("/sync")


def test_anything_but_a_cache_is_refused() -> None:
    with pytest.raises(TypeError, match="not str: 'shop'"):
        lifespan("shop")  # type: ignore[arg-type]


def test_a_request_waits_for_what_it_invalidates_anywhere(cache: Cache, until: Any) -> None:
    app = FastAPI()
    app.add_middleware(CacheMiddleware, cache=cache, debug_header=True)

    @app.post("/sync")
    def sync() -> bool:
        return cache.invalidate("key", wait="response").complete

    @app.post("/async")
    async def asynchronous(tasks: BackgroundTasks) -> None:
        await cache.ainvalidate("key", wait="response")
        tasks.add_task(cache.ainvalidate, "key", wait="response")

    @app.post("/stream")
    async def stream() -> StreamingResponse:
        async def chunks() -> AsyncIterator[str]:
            yield "one"
            await cache.ainvalidate("key", wait="response")
            yield "two"

        return StreamingResponse(chunks())

    with TestClient(app) as client:
        before = cache.stats().invalidations
        for path in ("/sync", "/async", "/stream"):
            answer = client.post(path)
            assert answer.status_code == 200
            assert ("invalidations=1" in answer.headers["server-timing"]) is (path != "/stream")
        assert cache.stats().invalidations >= before + 3
        assert cache.stats().incomplete == 0
