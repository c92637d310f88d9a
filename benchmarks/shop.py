"""The application that `application.py` runs under gunicorn: pages of products over SQLite, with any of several caches.

    GET  /product/17    the product, and what it is compared with; costs a few milliseconds of SQL
    POST /product/17    changes the price, commits, has the cache forget the page, and answers with the new version
    GET  /ready         who this worker is, and of how many members it knows

A page has a version, which each change of its product increments. Every answer names in a header the worker that gave
it, and the number of pages that this worker has read from the database so far.

SHOP_CACHE names the cache, SHOP_DATABASE the file, and SHOP_REDIS and SHOP_MEMCACHED the sockets.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol
from wsgiref.types import StartResponse, WSGIEnvironment

PRODUCTS, CATEGORIES = 10_000, 10
TTL = 60  # s, if a write drops the page in all processes
LOCAL_TTL = 1.0  # s, if nothing else ends what the other processes hold

SCHEMA = """
CREATE TABLE product (id INTEGER PRIMARY KEY, name TEXT NOT NULL, category INTEGER NOT NULL, price INTEGER NOT NULL,
                      about TEXT NOT NULL, version INTEGER NOT NULL);
CREATE INDEX by_category ON product (category);
"""
ONE = "SELECT id, name, category, price, about, version FROM product WHERE id = ?"
NEAREST = "SELECT id, name, price FROM product WHERE category = ? ORDER BY abs(price - ?), id LIMIT 10"
CHANGE = "UPDATE product SET version = version + 1, price = ? WHERE id = ? RETURNING version"

Page = dict[str, Any]


def build(path: Path) -> None:
    """Make the database."""
    with sqlite3.connect(path) as database:
        database.executescript(f"PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; {SCHEMA}")
        rows = ((n, f"product {n}", n % CATEGORIES, 7919 * n % 10007, "a text about it " * 40) for n in range(PRODUCTS))
        database.executemany("INSERT INTO product VALUES (?, ?, ?, ?, ?, 0)", rows)
    database.close()


class Database:
    """This worker's connection. It counts the pages that it reads."""

    def __init__(self, path: str) -> None:
        self.pages = 0
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA busy_timeout = 10000")
        self._connection.execute("PRAGMA synchronous = NORMAL")

    def page(self, number: int) -> Page:
        """Read a page: the product, and the products of its category that cost about as much."""
        self.pages += 1
        row = self._connection.execute(ONE, (number,)).fetchone()
        page = dict(zip(("id", "name", "category", "price", "about", "version"), row, strict=True))
        page["nearest"] = [list(row) for row in self._connection.execute(NEAREST, (page["category"], page["price"]))]
        return page

    def change(self, number: int, price: int) -> int:
        """Change the price; return the product's new version. Committed on return."""
        [(version,)] = self._connection.execute(CHANGE, (price, number)).fetchall()
        return int(version)


# --- The caches


class Shelf(Protocol):
    """What the application needs from a cache."""

    def get_or_load(self, key: str, load: Callable[[], Page]) -> Page:
        """Return the page of a key."""

    def drop(self, key: str) -> None:
        """Drop a page that has changed in the database."""

    def members(self) -> int:
        """Return how many workers this one knows; 0 if the cache does not know any."""


class Nothing:
    """No cache."""

    def get_or_load(self, key: str, load: Callable[[], Page]) -> Page:
        return load()

    def drop(self, key: str) -> None:
        pass

    def members(self) -> int:
        return 0


class PerProcess(Nothing):
    """cachetools.TTLCache in each worker. A write reaches only the cache of its own worker."""

    def __init__(self) -> None:
        from cachetools import TTLCache

        self._cache: Any = TTLCache(10_000, LOCAL_TTL)
        self._lock = threading.Lock()

    def get_or_load(self, key: str, load: Callable[[], Page]) -> Page:
        with self._lock:
            page = self._cache.get(key)
        if page is None:
            page = load()
            with self._lock:
                self._cache[key] = page
        return page  # type: ignore[no-any-return]

    def drop(self, key: str) -> None:
        with self._lock:
            self._cache.pop(key, None)


class Served(Nothing):
    """A cache in a server. A read looks, loads and stores; a write deletes."""

    def __init__(self) -> None:
        from colocache import MsgpackCodec

        self._codec = MsgpackCodec()

    def get_or_load(self, key: str, load: Callable[[], Page]) -> Page:
        found = self._get(key)
        if found is not None:
            return self._codec.decode(found)  # type: ignore[return-value]
        page = load()
        self._set(key, self._codec.encode(page))
        return page

    def _get(self, key: str) -> bytes | None:
        raise NotImplementedError

    def _set(self, key: str, payload: bytes) -> None:
        raise NotImplementedError


class Redis(Served):
    """Redis, by redis-py, over its Unix socket."""

    def __init__(self, path: str | None = None) -> None:
        import redis

        super().__init__()
        self._client: Any = redis.Redis(unix_socket_path=path or os.environ["SHOP_REDIS"])

    def _get(self, key: str) -> bytes | None:
        return self._client.get(key)  # type: ignore[no-any-return]

    def _set(self, key: str, payload: bytes) -> None:
        self._client.set(key, payload, ex=TTL)

    def drop(self, key: str) -> None:
        self._client.delete(key)


class Memcached(Served):
    """Memcached, by pylibmc, over its Unix socket."""

    def __init__(self, path: str | None = None) -> None:
        import pylibmc

        super().__init__()
        self._client: Any = pylibmc.Client([path or os.environ["SHOP_MEMCACHED"]], binary=False)

    def _get(self, key: str) -> bytes | None:
        return self._client.get(key)  # type: ignore[no-any-return]

    def _set(self, key: str, payload: bytes) -> None:
        self._client.set(key, payload, time=TTL)

    def drop(self, key: str) -> None:
        self._client.delete(key)


class Colocache:
    """colocache. A write returns when no worker serves the old page."""

    def __init__(self) -> None:
        import colocache

        self._cache = colocache.Cache("shop", ttl=TTL)
        self._cache.start()

    def get_or_load(self, key: str, load: Callable[[], Page]) -> Page:
        return self._cache.get_or_load(key, load)

    def drop(self, key: str) -> None:
        self._cache.invalidate(key)

    def members(self) -> int:
        return len(self._cache.members())


SHELVES: dict[str, Callable[[], Shelf]] = {
    "no cache": Nothing,
    "TTLCache per process": PerProcess,
    "Redis": Redis,
    "Memcached": Memcached,
    "colocache": Colocache,
}


# --- The application


class Shop:
    """The WSGI application of one worker."""

    def __init__(self) -> None:
        self._database = Database(os.environ["SHOP_DATABASE"])
        self._shelf = SHELVES[os.environ["SHOP_CACHE"]]()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        body = json.dumps(self._answer(environ["REQUEST_METHOD"], environ["PATH_INFO"])).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body))),
                   ("X-Reads", f"{os.getpid()} {self._database.pages}")]  # fmt: skip
        start_response("200 OK", headers)
        return [body]

    def _answer(self, method: str, path: str) -> Page:
        if path == "/ready":
            return {"pid": os.getpid(), "members": self._shelf.members(), "version": 0}
        number = int(path.rpartition("/")[2])
        if method == "GET":
            return self._shelf.get_or_load(path, lambda: self._database.page(number))
        version = self._database.change(number, number % 10007)
        self._shelf.drop(path)
        return {"version": version}


def application() -> Shop:
    """Return the application, for gunicorn: ``benchmarks.shop:application()``."""
    return Shop()
