"""The calls that are interrupted: each public one, in a thread and in a task, of a process that has joined or not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

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


def _decorated(cache: Cache, key: str) -> Any:
    @cache.cached(key=lambda: key)
    def load() -> str:
        return "value"

    return load()


def _near(cache: Cache, key: str) -> Any:
    return [cache.get(key) for _ in range(3)]


def _many(key: str) -> dict[str, str]:
    return {key: "value", **{f"{key} {number}": "value" for number in range(3)}}


OPERATIONS: Final[dict[str, Operation]] = {
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
    "cached": Operation(_decorated),
    "set": Operation(lambda cache, key: cache.set(key, 1, tags=("t",))),
    "set_many": Operation(lambda cache, key: cache.set_many(_many(key))),
    "get and set": Operation(_get_and_set),
    "add": Operation(lambda cache, key: cache.add(key, 1)),
    "cas": Operation(_compare_and_set, before="put"),
    "incr": Operation(lambda cache, key: cache.incr(key, initial=0)),
    "touch": Operation(lambda cache, key: cache.touch(key, 60), before="put"),
    "invalidate": Operation(lambda cache, key: cache.invalidate(key, strict=True), before="put"),
    "invalidate_tags": Operation(lambda cache, key: cache.invalidate_tags("t", strict=True)),
    "clear": Operation(lambda cache, key: cache.namespace("other").clear(strict=True)),
    "namespace": Operation(lambda cache, key: cache.namespace(key).get(key)),
    "stats": Operation(lambda cache, key: (cache.stats(), cache.members(), cache.hosts())),
    "aget": Operation(lambda cache, key: cache.aget(key), is_async=True),
    "aget_or_load": Operation(lambda cache, key: cache.aget_or_load(key, avalue), is_async=True),
    "aget_or_load, awaited": Operation(lambda cache, key: cache.aget_or_load(key, avalue), is_async=True, awaited=True),
    "aget_or_load, waiting": Operation(
        lambda cache, key: cache.aget_or_load(key, avalue), is_async=True, before="lead"
    ),
    "aset": Operation(lambda cache, key: cache.aset(key, 1, tags=("t",)), is_async=True),
    "acas": Operation(_acompare_and_set, is_async=True, before="put"),
    "ainvalidate": Operation(lambda cache, key: cache.ainvalidate(key, strict=True), is_async=True, before="put"),
    "leave": Operation(lambda cache, key: cache.leave(), joins=True, before="start"),
    "start, joining": Operation(lambda cache, key: cache.start(), joins=True),
    "get, joining": Operation(lambda cache, key: cache.get(key), joins=True),
    "get_or_load, joining": Operation(lambda cache, key: cache.get_or_load(key, value), joins=True),
    "aget_or_load, joining": Operation(lambda cache, key: cache.aget_or_load(key, avalue), is_async=True, joins=True),
}
