"""The ways to read a key that a process holds, which `hit.py` compares. All have the same values under the same keys.

Packages are imported where they are used. If one is not installed, the others can still be compared.
"""

from __future__ import annotations

import asyncio
import functools
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from time import monotonic
from typing import Any

import colocache
from benchmarks.group import MEMORY
from benchmarks.servers import Servers

KEYS = [f"user:{number}" for number in range(1000)]
VALUES = {key: f"the profile of {key}, which is a text of no great length" for key in KEYS}
TTL = 300  # seconds
SIZE = 10_000  # entries, of every bounded cache
BY_HAND = "dict and clock, by hand"  # the least that a ttl costs in Python: no bound, no lock, no other process
PACKAGES = ("cachetools", "cachebox", "theine", "dogpile.cache", "django", "diskcache", "aiocache", "cashews",
            "async-lru", "redis", "hiredis")  # fmt: skip

Read = tuple[str, dict[str, Any]]  # a statement that reads `key`, and what its names mean
Decorate = Callable[[Callable[..., Any]], Callable[..., Any]]


class Stage:
    """What contenders need. It ends with the ``with`` block."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Stage:
        self.directory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench"))
        self.memory = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench", dir=MEMORY))
        self.cache = self._stack.enter_context(colocache.Cache("bench", directory=f"{self.memory}/c", ttl=TTL))
        self.runner = self._stack.enter_context(asyncio.Runner())
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @functools.cached_property
    def servers(self) -> Servers:
        """A Redis of this benchmark's own, started at the first use. Raises MissingServer."""
        return self._stack.enter_context(Servers(memcached=False))

    def closing(self, resource: Any) -> Any:
        """Return a resource that is closed at the end."""
        self._stack.callback(resource.close)
        return resource


def filled(cache: Any) -> Any:
    """Return a mapping with all values."""
    for key, value in VALUES.items():
        cache[key] = value
    return cache


# --- Mappings: each function gives the statement that reads a key


def dict_get(stage: Stage) -> Read:
    return "get(key)", {"get": dict(VALUES).get}


def get_by_hand(stage: Stage) -> Read:
    held, ends = dict(VALUES), dict.fromkeys(KEYS, monotonic() + TTL)

    def get(key: str) -> str | None:
        value = held.get(key)
        return value if value is not None and monotonic() < ends[key] else None

    return "get(key)", {"get": get}


def colocache_get(stage: Stage) -> Read:
    stage.cache.set_many(VALUES)
    return "get(key)", {"get": stage.cache.get}


def colocache_get_or_load(stage: Stage) -> Read:
    stage.cache.set_many(VALUES)
    return "read(key, load)", {"read": stage.cache.get_or_load, "load": lambda: None}


def cachetools_get(stage: Stage) -> Read:
    import cachetools

    return "get(key)", {"get": filled(cachetools.TTLCache(SIZE, TTL)).get}


def cachetools_locked(stage: Stage) -> Read:
    _, names = cachetools_get(stage)
    return "with lock: get(key)", {"lock": threading.Lock(), **names}


def cachetools_item(stage: Stage) -> Read:
    import cachetools

    return "with lock: cache[key]", {"lock": threading.Lock(), "cache": filled(cachetools.TTLCache(SIZE, TTL))}


def cachebox_get(stage: Stage) -> Read:
    import cachebox

    return "get(key)", {"get": filled(cachebox.TTLCache(SIZE, TTL)).get}


def theine_get(stage: Stage) -> Read:
    import theine

    cache = stage.closing(theine.Cache(SIZE))
    for key, value in VALUES.items():
        cache.set(key, value, timedelta(seconds=TTL))
    return "get(key)", {"get": cache.get}


def dogpile_get(stage: Stage) -> Read:
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.memory", expiration_time=TTL)
    region.set_multi(VALUES)
    return "get(key)", {"get": region.get}


def django_get(stage: Stage) -> Read:
    from django.conf import settings
    from django.core.cache.backends.locmem import LocMemCache

    if not settings.configured:
        settings.configure()
    cache = LocMemCache("bench", {"TIMEOUT": TTL, "OPTIONS": {"MAX_ENTRIES": SIZE}})
    cache.set_many(VALUES)
    return "get(key)", {"get": cache.get}


def diskcache_get(stage: Stage) -> Read:
    import diskcache

    cache = stage.closing(diskcache.Cache(f"{stage.directory}/diskcache"))
    for key, value in VALUES.items():
        cache.set(key, value, expire=TTL)
    return "get(key)", {"get": cache.get}


def redis_get(stage: Stage) -> Read:
    import redis
    from redis.cache import CacheConfig
    from redis.connection import CacheProxyConnection

    # It asks for 7.4, although servers have tracked keys since 6.0. Over a Unix socket it silently caches nothing.
    CacheProxyConnection.MIN_ALLOWED_VERSION = "6.0.0"
    client = stage.closing(redis.Redis(
        host=stage.servers.host, port=stage.servers.redis_port, protocol=3, decode_responses=True,
        cache_config=CacheConfig(max_size=SIZE),
    ))  # fmt: skip
    for key, value in VALUES.items():
        client.set(key, value, ex=TTL)
    return "get(key)", {"get": client.get}


MAPPINGS: dict[str, Callable[[Stage], Read]] = {
    "dict": dict_get,
    BY_HAND: get_by_hand,
    "colocache get": colocache_get,
    "colocache get_or_load": colocache_get_or_load,
    "cachetools TTLCache, no lock": cachetools_get,
    "cachetools TTLCache, locked": cachetools_locked,
    "cachetools TTLCache[key], locked": cachetools_item,
    "cachebox TTLCache": cachebox_get,
    "theine": theine_get,
    "dogpile memory": dogpile_get,
    "Django LocMem": django_get,
    "diskcache": diskcache_get,
    "redis-py client-side cache": redis_get,
}


# --- Functions: each contender is a decorator, and each shape says how the decorated function is called


def lru_cache(stage: Stage) -> Decorate:
    return functools.lru_cache(SIZE)


def cached_by_hand(stage: Stage) -> Decorate:
    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        held: dict[Any, tuple[Any, float]] = {}

        def call(*args: Any, **kwargs: Any) -> Any:
            key = (args, tuple(kwargs.items())) if kwargs else args
            entry = held.get(key)
            if entry is None or monotonic() >= entry[1]:
                entry = held[key] = (function(*args, **kwargs), monotonic() + TTL)
            return entry[0]

        return functools.update_wrapper(call, function)

    return decorate


def colocache_cached(stage: Stage) -> Decorate:
    return stage.cache.cached(ttl=TTL)


def cachetools_cached(stage: Stage) -> Decorate:
    import cachetools

    return cachetools.cached(cachetools.TTLCache(SIZE, TTL), lock=threading.RLock())


def cachebox_cached(stage: Stage) -> Decorate:
    import cachebox

    return cachebox.cached(cachebox.TTLCache(SIZE, TTL))


def theine_memoize(stage: Stage) -> Decorate:
    import theine

    return theine.Memoize(SIZE, timedelta(seconds=TTL))


def dogpile_cached(stage: Stage) -> Decorate:
    from dogpile.cache import make_region
    from dogpile.cache.util import kwarg_function_key_generator

    region = make_region(function_key_generator=kwarg_function_key_generator)  # the default knows no keywords
    return region.configure("dogpile.cache.memory", expiration_time=TTL).cache_on_arguments()


def diskcache_memoize(stage: Stage) -> Decorate:
    import diskcache

    return stage.closing(diskcache.Cache(tempfile.mkdtemp(dir=stage.directory))).memoize(expire=TTL)


DECORATORS: dict[str, Callable[[Stage], Decorate]] = {
    "functools.lru_cache": lru_cache,
    BY_HAND: cached_by_hand,
    "colocache cached": colocache_cached,
    "cachetools cached, TTLCache, RLock": cachetools_cached,
    "cachebox cached, TTLCache": cachebox_cached,
    "theine Memoize": theine_memoize,
    "dogpile memory": dogpile_cached,
    "diskcache memoize": diskcache_memoize,
}


def no_argument(decorate: Decorate) -> Read:
    @decorate
    def no_argument() -> str:
        return VALUES[KEYS[0]]

    return "f()", {"f": no_argument}


def one_argument(decorate: Decorate) -> Read:
    @decorate
    def one_argument(x: str) -> str:
        return VALUES[x]

    return "f(key)", {"f": one_argument}


def two_arguments(decorate: Decorate) -> Read:
    @decorate
    def two_arguments(x: str, y: int) -> str:
        return VALUES[x]

    return "f(key, 7)", {"f": two_arguments}


def by_keyword(decorate: Decorate) -> Read:
    @decorate
    def by_keyword(x: str) -> str:
        return VALUES[x]

    return "f(x=key)", {"f": by_keyword}


def with_default(decorate: Decorate) -> Read:
    @decorate
    def with_default(x: str, y: int = 7) -> str:
        return VALUES[x]

    return "f(key)", {"f": with_default}


class Thing:
    """An object with a cached method. Some contenders key it by its text, some by its pickle, others by its hash."""

    def __cache_key__(self) -> str:
        return "the only one"

    def __reduce__(self) -> tuple[type[Thing], tuple[()]]:
        return Thing, ()


def of_a_method(decorate: Decorate) -> Read:
    class Subject(Thing):
        @decorate
        def method(self, x: str) -> str:
            return VALUES[x]

    return "thing.method(key)", {"thing": Subject()}


SHAPES: dict[str, Callable[[Decorate], Read]] = {
    "no argument": no_argument,
    "one argument": one_argument,
    "two arguments": two_arguments,
    "keyword": by_keyword,
    "default": with_default,
    "method": of_a_method,
}


# --- Awaited


def awaitable(decorate: Decorate) -> Read:
    @decorate
    async def awaitable(x: str) -> str:
        return VALUES[x]

    return "await f(key)", {"f": awaitable}


def empty_await(stage: Stage) -> Read:
    async def nothing() -> None:
        pass

    return "await nothing()", {"nothing": nothing}


def colocache_aget(stage: Stage) -> Read:
    stage.cache.set_many(VALUES)
    return "await get(key)", {"get": stage.cache.aget}


def async_lru(stage: Stage) -> Read:
    from async_lru import alru_cache

    return awaitable(alru_cache(SIZE, ttl=TTL))


def aiocache_get(stage: Stage) -> Read:
    from aiocache import SimpleMemoryCache

    cache = SimpleMemoryCache(ttl=TTL)
    stage.runner.run(cache.multi_set(list(VALUES.items())))
    return "await get(key)", {"get": cache.get}


def aiocache_cached(stage: Stage) -> Read:
    from aiocache import cached

    return awaitable(cached(ttl=TTL))


def cashews_cache(stage: Stage) -> Any:
    from cashews import Cache

    cache = Cache()
    cache.setup(f"mem://?size={SIZE}")
    return cache


def cashews_get(stage: Stage) -> Read:
    cache = cashews_cache(stage)
    stage.runner.run(cache.set_many(VALUES, expire=TTL))
    return "await get(key)", {"get": cache.get}


AWAITED: dict[str, Callable[[Stage], Read]] = {
    "an empty await": empty_await,
    "colocache cached, not async": lambda stage: one_argument(colocache_cached(stage)),
    "colocache aget": colocache_aget,
    "colocache cached": lambda stage: awaitable(colocache_cached(stage)),
    "async-lru": async_lru,
    "cachebox cached, TTLCache": lambda stage: awaitable(cachebox_cached(stage)),
    "aiocache get": aiocache_get,
    "aiocache cached": aiocache_cached,
    "cashews get": cashews_get,
    "cashews cache": lambda stage: awaitable(cashews_cache(stage)(ttl=TTL)),
}
