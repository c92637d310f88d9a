"""The calls that are interrupted: each public one, in a thread and in a task, of a process that has joined or not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from colocache.errors import ClosedError
from colocache.scope import Scope

if TYPE_CHECKING:
    from colocache import Cache

LARGE: Final = b"x" * (1 << 20)


class Failure(Exception):
    """What a loader raises."""


@dataclass(frozen=True)
class Operation:
    """A call, of a cache and a key."""

    call: Callable[[Cache, str], Any]
    is_async: bool = False
    before: str = ""  # what is done first: others "put" the key, or "lead" its load; this process joins, "start"
    awaited: bool = False  # others wait for the load before it ends
    joins: bool = False  # the process has not joined; one that is to leave joins before
    closes: bool = False  # afterwards the cache cannot be used any more
    may_raise: tuple[type[BaseException], ...] = ()


#: What is called by each loader.
on_load: list[Callable[[], None]] = []


def value() -> str:
    """Load."""
    for each in on_load:
        each()
    return "value"


async def avalue() -> str:
    """Load."""
    await asyncio.sleep(0)
    return value()


def fail() -> str:
    """Load in vain."""
    raise Failure


def _compare_and_set(cache: Cache, key: str) -> None:
    got = cache.gets(key)
    if got is not None:
        cache.cas(key, 2, got[1], tags=("t",))


async def _acompare_and_set(cache: Cache, key: str) -> None:
    got = await cache.agets(key)
    if got is not None:
        await cache.acas(key, 2, got[1], tags=("t",))


def _get_and_set(cache: Cache, key: str) -> None:
    pages = cache.namespace("pages", fence=True)
    if pages.get(key) is None:
        pages.set(key, 1, tags=("t",))


async def _aget_and_set(cache: Cache, key: str) -> None:
    pages = cache.namespace("pages", fence=True)
    if await pages.aget(key) is None:
        await pages.aset(key, 1, tags=("t",))


def _copied(cache: Cache, key: str) -> None:
    lists = cache.namespace("lists", copy=True)
    lists.get_or_load(key, lambda: [1])
    lists.get(key)


def _decorated(cache: Cache, key: str) -> None:
    @cache.cached(key=lambda: key)
    def load() -> str:
        return "value"

    load()
    load.cache_info()


def _invalidated(cache: Cache, key: str) -> None:
    @cache.cached(key=lambda: key)
    def load() -> str:
        return "value"

    load.refresh()
    load.invalidate()
    load.cache_clear()


async def _adecorated(cache: Cache, key: str) -> None:
    @cache.cached(key=lambda: key)
    async def load() -> str:
        return await avalue()

    await load()
    load.cache_info()


async def _ainvalidated(cache: Cache, key: str) -> None:
    @cache.cached(key=lambda: key)
    async def load() -> str:
        return await avalue()

    await load.refresh()
    await load.invalidate()
    await load.cache_clear()


def _request(cache: Cache, key: str) -> None:
    scope = Scope(cache)
    with scope:
        cache.get(key)
        cache.invalidate(key, wait="response")
    scope.settle()
    cache.catch_up(scope.position() or "", 0.0)


async def _arequest(cache: Cache, key: str) -> None:
    scope = Scope(cache)
    with scope:
        await cache.aget(key)
        await cache.ainvalidate(key, wait="response")
    await scope.asettle()
    await cache.acatch_up(scope.position() or "", 0.0)


def _catch_up(cache: Cache, key: str) -> None:
    cache.invalidate(key)
    cache.catch_up(cache.position())


async def _acatch_up(cache: Cache, key: str) -> None:
    await cache.ainvalidate(key)
    await cache.acatch_up(cache.position())


def _near(cache: Cache, key: str) -> None:
    for _ in range(3):
        cache.get(key)


async def _anear(cache: Cache, key: str) -> None:
    for _ in range(3):
        await cache.aget(key)


def _look(cache: Cache, key: str) -> None:
    cache.info(key)
    list(cache.keys())
    list(cache.entries())
    cache.hot_keys(3)


def _audited(cache: Cache, key: str) -> None:
    cache.audit_within(contextlib.nullcontext)

    @cache.cached(key=lambda: key, audit=True)
    def load() -> str:
        return "value"

    load()
    load()
    cache.audits()


def _many(key: str) -> dict[str, str]:
    return {key: "value", **{f"{key} {number}": "value" for number in range(3)}}


_SYNC: Final[dict[str, Operation]] = {
    "get": Operation(lambda cache, key: cache.get(key)),
    "get, found": Operation(_near, before="put"),
    "get_many": Operation(lambda cache, key: cache.get_many(_many(key)), before="put"),
    "get_or_load": Operation(lambda cache, key: cache.get_or_load(key, value)),
    "get_or_load, tagged": Operation(lambda cache, key: cache.get_or_load(key, value, tags=("t",))),
    "get_or_load, found": Operation(lambda cache, key: cache.get_or_load(key, value), before="put"),
    "get_or_load, awaited": Operation(lambda cache, key: cache.get_or_load(key, value), awaited=True),
    "get_or_load, waiting": Operation(lambda cache, key: cache.get_or_load(key, value), before="lead"),
    "get_or_load, failing": Operation(lambda cache, key: cache.get_or_load(key, fail), may_raise=(Failure,)),
    "get_or_load, large": Operation(lambda cache, key: cache.get_or_load(key, lambda: LARGE)),
    "copies": Operation(_copied),
    "cached": Operation(_decorated),
    "cached, invalidated": Operation(_invalidated),
    "set": Operation(lambda cache, key: cache.set(key, 1, tags=("t",))),
    "set, for all": Operation(lambda cache, key: cache.set(key, 1, wait="all")),
    "set_many": Operation(lambda cache, key: cache.set_many(_many(key))),
    "get and set": Operation(_get_and_set),
    "add": Operation(lambda cache, key: cache.add(key, 1)),
    "cas": Operation(_compare_and_set, before="put"),
    "incr": Operation(lambda cache, key: cache.incr(key, initial=0)),
    "decr": Operation(lambda cache, key: cache.decr(key), before="put"),
    "touch": Operation(lambda cache, key: cache.touch(key, 60), before="put"),
    "invalidate": Operation(lambda cache, key: cache.invalidate(key, strict=True), before="put"),
    "delete": Operation(lambda cache, key: cache.delete(key), before="put"),
    "invalidate_tags": Operation(lambda cache, key: cache.invalidate_tags("t", strict=True)),
    "clear": Operation(lambda cache, key: cache.namespace("other").clear(strict=True)),
    "a request": Operation(_request, before="put"),
    "catch_up": Operation(_catch_up),
    "namespace": Operation(lambda cache, key: cache.namespace(key).get(key)),
    "stats": Operation(lambda cache, key: (cache.stats(), cache.members(), cache.hosts())),
    "group_stats": Operation(lambda cache, key: cache.group_stats()),
    "looks": Operation(_look, before="put"),
    "audits": Operation(_audited),
    "start": Operation(lambda cache, key: cache.start()),
}

_ASYNC: Final[dict[str, Operation]] = {
    "aget": Operation(lambda cache, key: cache.aget(key), is_async=True),
    "aget, found": Operation(_anear, is_async=True, before="put"),
    "aget_many": Operation(lambda cache, key: cache.aget_many(_many(key)), is_async=True, before="put"),
    "aget_or_load": Operation(lambda cache, key: cache.aget_or_load(key, avalue), is_async=True),
    "aget_or_load, awaited": Operation(lambda cache, key: cache.aget_or_load(key, avalue), is_async=True, awaited=True),
    "aget_or_load, waiting": Operation(
        lambda cache, key: cache.aget_or_load(key, avalue), is_async=True, before="lead"
    ),
    "aget_or_load, failing": Operation(
        lambda cache, key: cache.aget_or_load(key, fail), is_async=True, may_raise=(Failure,)
    ),
    "acached": Operation(_adecorated, is_async=True),
    "acached, invalidated": Operation(_ainvalidated, is_async=True),
    "aset": Operation(lambda cache, key: cache.aset(key, 1, tags=("t",)), is_async=True),
    "aset_many": Operation(lambda cache, key: cache.aset_many(_many(key)), is_async=True),
    "aget and aset": Operation(_aget_and_set, is_async=True),
    "aadd": Operation(lambda cache, key: cache.aadd(key, 1), is_async=True),
    "acas": Operation(_acompare_and_set, is_async=True, before="put"),
    "aincr": Operation(lambda cache, key: cache.aincr(key, initial=0), is_async=True),
    "adecr": Operation(lambda cache, key: cache.adecr(key), is_async=True, before="put"),
    "atouch": Operation(lambda cache, key: cache.atouch(key, 60), is_async=True, before="put"),
    "ainvalidate": Operation(lambda cache, key: cache.ainvalidate(key, strict=True), is_async=True, before="put"),
    "adelete": Operation(lambda cache, key: cache.adelete(key), is_async=True, before="put"),
    "ainvalidate_tags": Operation(lambda cache, key: cache.ainvalidate_tags("t", strict=True), is_async=True),
    "aclear": Operation(lambda cache, key: cache.namespace("other").aclear(strict=True), is_async=True),
    "a request, async": Operation(_arequest, is_async=True, before="put"),
    "acatch_up": Operation(_acatch_up, is_async=True),
    "agroup_stats": Operation(lambda cache, key: cache.agroup_stats(), is_async=True),
}

_FIRST: Final = (
    "start", "get", "get_many", "get_or_load", "cached", "set", "incr", "invalidate", "a request", "aget_or_load",
    "aset", "acached",
)  # fmt: skip

OPERATIONS: Final[dict[str, Operation]] = {
    **_SYNC,
    **_ASYNC,
    **{f"{name}, joining": replace((_SYNC | _ASYNC)[name], joins=True, before="") for name in _FIRST},
    "leave": Operation(lambda cache, key: cache.leave(), joins=True, before="start"),
    "close": Operation(
        lambda cache, key: cache.close(), joins=True, before="start", closes=True, may_raise=(ClosedError,)
    ),
}
