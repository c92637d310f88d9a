"""The operations in whose middle a process forks. Each is given a key that nobody has used before."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from colocache import Cache

Operation: TypeAlias = Callable[[Cache, str], object]


def _in_a_loop(work: Callable[[Cache, str], Coroutine[Any, Any, object]]) -> Operation:
    return lambda cache, key: asyncio.run(work(cache, key))


def _load(cache: Cache, key: str) -> None:
    assert cache.get_or_load(key, lambda: 1, tags=("t",)) == 1


async def _aload(cache: Cache, key: str) -> None:
    async def load() -> int:
        return 1

    assert await cache.aget_or_load(key, load) == 1


def _get_and_set(cache: Cache, key: str) -> None:
    pages = cache.namespace("pages", fence=True)
    if pages.get(key) is None:
        pages.set(key, 1)


def _compare_and_set(cache: Cache, key: str) -> None:
    cache.set(key, 1)
    got = cache.gets(key)
    if got is not None:
        cache.cas(key, 2, got[1])


def _count(cache: Cache, key: str) -> None:
    cache.incr(key, initial=0)
    cache.decr(key)


async def _acount(cache: Cache, key: str) -> None:
    await cache.aincr(key, initial=0)


def _touch(cache: Cache, key: str) -> None:
    cache.add(key, 1)
    cache.touch(key, 60)


def _call(cache: Cache, key: str) -> None:
    @cache.namespace("functions").cached(name="made")
    def made(key: str) -> str:
        return key

    made(key)
    made(key)
    made.invalidate(key)


def _come_and_go(cache: Cache, key: str) -> None:
    cache._member.leave()
    cache.start()


def _look(cache: Cache, key: str) -> None:
    cache.stats()
    cache.members()
    cache.hosts()
    cache.get(key)


OPERATIONS: dict[str, Operation] = {
    "get_or_load": _load,
    "aget_or_load": _in_a_loop(_aload),
    "get": lambda cache, key: [cache.get(key), cache.set(key, 1), cache.get(key)],
    "aget": _in_a_loop(lambda cache, key: cache.aget(key)),
    "set": lambda cache, key: [cache.set(key, number, tags=("t",)) for number in range(2)],
    "aset": _in_a_loop(lambda cache, key: cache.aset(key, 1)),
    "many": lambda cache, key: [cache.set_many({key: 1, "other": 2}), cache.get_many([key, "other", "none"])],
    "get_and_set": _get_and_set,
    "invalidate": lambda cache, key: cache.invalidate(key, "k3"),
    "ainvalidate": _in_a_loop(lambda cache, key: cache.ainvalidate(key)),
    "invalidate_tags": lambda cache, key: cache.invalidate_tags("t"),
    "clear": lambda cache, key: cache.namespace("pages").clear(),
    "count": _count,
    "acount": _in_a_loop(_acount),
    "compare_and_set": _compare_and_set,
    "touch": _touch,
    "call": _call,
    "come_and_go": _come_and_go,
    "look": _look,
}
