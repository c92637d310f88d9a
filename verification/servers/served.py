"""The application that the matrix of servers serves: a few routes around one cache, in the forms that servers take.

    /who              this process, and how many of the group it knows
    /read/KEY         the value of a key: the version of the source, and a mark of the load
    /invalidate/KEY   have all processes drop it; what the receipt says
    /keep/KEY/VALUE   have the cache keep a value that no source has, as of a session
    /kept/KEY         what it has kept
    /count/KEY        count one up
    /raise            an error that nobody catches

Every answer names its process. What a test has to know, and cannot ask for over HTTP, stands in files of the directory
``SERVERS_DIR``: ``version`` is the source of truth; ``asked`` and ``loads`` get a line "KEY PID" for each question and
each load; and while there is a file ``hold-KEY``, loads of that key wait.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

import reloaded  # noqa: F401  (a module of the test's own, for servers that watch their files)

import colocache
from colocache.asgi import CacheMiddleware as AsyncCacheMiddleware
from colocache.wsgi import CacheMiddleware

HERE = Path(os.environ["SERVERS_DIR"])
PAUSE = 0.005  # s between two looks for a file; and for so long a worker is deaf, so that others get a turn

cache = colocache.Cache("servers")  # starts nothing


# --- The source


def note(name: str, key: str) -> None:
    """Add a line to a file: one write to a file that is appended to is never torn."""
    descriptor = os.open(HERE / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, f"{key} {os.getpid()}\n".encode())
    finally:
        os.close(descriptor)


def source(key: str) -> dict[str, Any]:
    """Read the source; the mark tells this load from all others."""
    note("loads", key)
    return {"version": int((HERE / "version").read_text()), "mark": uuid.uuid4().hex}


def load(key: str) -> dict[str, Any]:
    """Read the source, slowly if need be."""
    value = source(key)
    while (HERE / f"hold-{key}").exists():
        time.sleep(PAUSE)
    return value


async def aload(key: str) -> dict[str, Any]:
    """The twin of `load`."""
    value = source(key)
    while (HERE / f"hold-{key}").exists():
        await asyncio.sleep(PAUSE)
    return value


# --- The routes


def who() -> dict[str, Any]:
    """What this process knows of the group; it joins, if it has not yet."""
    cache.start()
    return {"processes": cache.stats().processes}


def read(key: str) -> dict[str, Any]:
    """The value of a key."""
    note("asked", key)
    return cache.get_or_load(key, partial(load, key))


async def aread(key: str) -> dict[str, Any]:
    """The twin of `read`."""
    note("asked", key)
    return await cache.aget_or_load(key, partial(aload, key))


def invalidate(key: str) -> dict[str, Any]:
    """Have all processes drop a key."""
    return {"complete": cache.invalidate(key).complete}


async def ainvalidate(key: str) -> dict[str, Any]:
    """The twin of `invalidate`."""
    return {"complete": (await cache.ainvalidate(key)).complete}


def keep(key: str, value: str) -> dict[str, Any]:
    """Have the cache keep a value."""
    return {"kept": cache.set(f"kept {key}", value)}


def kept(key: str) -> dict[str, Any]:
    """What the cache has kept."""
    return {"value": cache.get(f"kept {key}")}


def count(key: str) -> dict[str, Any]:
    """Count one up."""
    return {"number": cache.incr(f"counted {key}", initial=0)}


async def awho() -> dict[str, Any]:
    """The twin of `who`."""
    return await asyncio.to_thread(who)


def fail() -> Any:
    """An application's own fault."""
    raise LookupError("this route always raises")


ROUTES: dict[str, Callable[..., dict[str, Any]]] = {
    "who": who,
    "read": read,
    "invalidate": invalidate,
    "keep": keep,
    "kept": kept,
    "count": count,
    "raise": fail,
}
ASYNC_ROUTES: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
    "who": awho,
    "read": aread,
    "invalidate": ainvalidate,
    "raise": fail,
}


def route(routes: dict[str, Callable[..., Any]], path: str) -> Any:
    """Carry out what a path asks for. KeyError if there is no such route."""
    time.sleep(PAUSE)  # in an event loop, too: deaf is deaf
    name, *rest = path.strip("/").split("/")
    return routes[name](*rest)


def answer(path: str) -> dict[str, Any]:
    """The answer to a request, for every sync form of this application."""
    return {**route(ROUTES, path), "pid": os.getpid()}


# --- The forms


def wsgi(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """The WSGI form, without the middleware."""
    body = json.dumps(answer(environ["PATH_INFO"])).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


async def asgi(scope: Any, receive: Any, send: Any) -> None:
    """The ASGI form, without the middleware; it knows no lifespan."""
    if scope["type"] != "http":
        raise ValueError(f"this application serves HTTP, not {scope['type']}")
    content = {**await route(ASYNC_ROUTES, scope["path"]), "pid": os.getpid()}
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})


application = CacheMiddleware(wsgi, cache)
async_application = AsyncCacheMiddleware(asgi, cache)
