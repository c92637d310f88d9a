"""What users see of an exception of theirs: it, and nothing of how the cache works inside."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from colocache import Cache, EventLoopError, RecursiveLoadError
from tests.conftest import NewCache

KINDS = [
    LookupError, KeyError, TypeError, ValueError, AttributeError, RuntimeError, TimeoutError, OSError, EventLoopError,
]  # fmt: skip

Call = Callable[..., Any]


class Codec:
    """Carries texts; raises what a test says."""

    name = "texts"

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def encode(self, value: object) -> bytes:
        if self.error is not None:
            raise self.error
        return str(value).encode()

    def decode(self, payload: bytes) -> object:
        if self.error is not None:
            raise self.error
        return payload.decode()


def shown(error: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions that a traceback shows beside its own."""
    above = error.__cause__ if error.__suppress_context__ or error.__cause__ else error.__context__
    if above is not None:
        yield above
        yield from shown(above)


def forget_the_last_time(error: BaseException) -> None:
    error.__context__ = error.__cause__ = None
    error.__suppress_context__ = False  # which it is as soon as a cause is set


def raised_by(call: Callable[[], Any], kind: type[BaseException]) -> BaseException:
    with pytest.raises(kind) as raised:
        call()
    return raised.value


@pytest.fixture
def codec() -> Codec:
    """The codec of the cache of a test."""
    return Codec()


@pytest.fixture
def cache(codec: Codec, new_cache: NewCache) -> Cache:
    cache = new_cache(codec=codec)
    cache.start()
    return cache


def keys(cache: Cache) -> list[str]:
    """Some keys that have no value: one that never had any, and others whose values were dropped in different ways."""
    for name in ("invalidated", "set and cleared"):
        cache.get_or_load(name, lambda: "warm", ttl=60)
    cache.invalidate("invalidated")
    cache.clear()
    cache.set("expired", "warm", ttl=1e-9)
    return ["new", "invalidated", "set and cleared", "expired"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_loader_raises_is_shown_alone(cache: Cache, call: Call, kind: type[Exception]) -> None:
    error = kind("broken")

    def loader() -> None:
        raise error

    for key in keys(cache):
        forget_the_last_time(error)
        assert raised_by(lambda key=key: call(cache, "get_or_load", key, loader), kind) is error
        assert not list(shown(error))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_decorated_function_its_key_or_its_tags_raise_is_shown_alone(
    cache: Cache, kind: type[Exception]
) -> None:
    error = kind("broken")

    def fail(*_: object) -> Any:
        raise error

    class Shop:
        def __cache_key__(self) -> str:
            raise error

        @cache.cached()
        def price(self, sku: int) -> int:
            return sku

    @cache.cached()
    def function(number: int) -> None:
        raise error

    @cache.cached()
    async def coroutine(number: int) -> None:
        raise error

    @cache.cached(key=fail)
    def with_key(number: int) -> int:
        return number

    @cache.cached(tags=fail)
    def with_tags(number: int) -> int:
        return number

    def awaited(awaitable: Any) -> Any:
        async def main() -> Any:
            return await awaitable()

        return asyncio.run(main())

    calls: list[Callable[[], Any]] = [
        lambda: function(1), lambda: function(number=1), lambda: function.refresh(1),
        lambda: awaited(lambda: coroutine(1)), lambda: awaited(lambda: coroutine.refresh(1)),
        lambda: with_key(1), lambda: with_key.refresh(1), lambda: with_key.invalidate(1), lambda: with_key.cache_key(1),
        lambda: with_tags(1), lambda: with_tags.refresh(1), lambda: Shop().price(1),
    ]  # fmt: skip
    for each in calls:
        forget_the_last_time(error)
        assert raised_by(each, kind) is error
        assert not list(shown(error))


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_codec_raises_is_shown_with_nothing_but_what_we_say_of_it(
    cache: Cache, codec: Codec, call: Call, kind: type[Exception]
) -> None:
    names = keys(cache)
    cache.set("counted", "value")
    counted = cache.gets("counted")
    assert counted is not None
    codec.error = kind("broken")
    for name in names:
        for method, arguments in [
            ("get_or_load", (name, lambda: "value")), ("set", (name, "value")), ("set_many", ({name: "value"},)),
            ("add", (name, "value")), ("cas", (name, "value", counted[1])),
        ]:  # fmt: skip
            forget_the_last_time(codec.error)
            error = raised_by(lambda m=method, a=arguments: call(cache, m, *a), kind)
            assert {id(each) for each in (error, *shown(error))} <= {id(error), id(codec.error)}, (method, error)
    codec.error = None
    cache.set("read", "value")
    codec.error = kind("broken")
    assert call(cache, "get", "read") in (None, "value"), "what cannot be read is not there"


def test_what_stops_a_generator_is_shown_alone(cache: Cache) -> None:
    for key in keys(cache):
        error = raised_by(lambda key=key: cache.get_or_load(key, lambda: next(iter(()))), StopIteration)
        assert not list(shown(error))


def test_our_own_exceptions_are_shown_alone(cache: Cache) -> None:
    def recursive() -> Any:
        return cache.get_or_load("k", recursive)

    async def on_a_loop() -> Any:
        return cache.get_or_load("nowhere", lambda: "never")

    calls: list[tuple[Callable[[], Any], type[Exception]]] = [
        (lambda: cache.get_or_load("k", recursive), RecursiveLoadError),
        (lambda: asyncio.run(on_a_loop()), EventLoopError),
        (lambda: cache.get(object()), TypeError),  # type: ignore[arg-type]
        (lambda: cache.get([]), TypeError),  # type: ignore[arg-type]
        (lambda: cache.get_or_load([], lambda: 1), TypeError),  # type: ignore[arg-type]
        (lambda: cache.get_or_load("k", lambda: 1, tags="text"), TypeError),
        (lambda: cache.get_or_load("k", lambda: 1, ttl="soon"), ValueError),
        (lambda: cache.invalidate("k", wait=-1), ValueError),
        (lambda: cache.cas("k", "value", b"none"), ValueError),
        (lambda: cache.incr("k", "many"), TypeError),  # type: ignore[arg-type]
    ]
    for each, kind in calls:
        assert not list(shown(raised_by(each, kind)))


@pytest.mark.parametrize("by", ["thread", "task"])
def test_what_a_loader_raises_keeps_nothing_alive(cache: Cache, by: str) -> None:
    """Once the exception is let go, the task of the load and the objects of the loader are gone."""
    gone: list[str] = []

    class Large:
        def __del__(self) -> None:
            gone.append("it")

    def loader() -> None:
        _large = Large()
        raise LookupError

    async def main() -> None:
        try:
            await cache.aget_or_load("k", loader)
        except LookupError:
            assert not gone
        assert gone

    cache.start()
    gc.disable()
    try:
        if by == "task":
            asyncio.run(main())
        else:
            try:
                cache.get_or_load("k", loader)
            except LookupError:
                assert not gone
            assert gone
    finally:
        gc.enable()
