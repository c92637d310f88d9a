"""Django's cache interface, as Django documents it, on colocache: each method in both of its forms."""

from __future__ import annotations

import asyncio
import pickle
import threading
import warnings
from collections.abc import Callable
from datetime import timedelta
from sqlite3 import ProgrammingError
from typing import Any

import pytest

pytest.importorskip("tests.django.project")  # sets Django up

from asgiref.sync import sync_to_async
from django.core.cache import cache as proxy
from django.core.cache import caches
from django.core.cache.backends.base import CacheKeyWarning
from django.core.exceptions import ImproperlyConfigured
from django.db import connection

import colocache
from colocache import MISSING, Space
from colocache.django import ColocacheCache, cache_of
from tests.django.project import PATIENT

OTHER = {"OPTIONS": {"memory": "32MiB"}}  # another member of the group, as in another process

Call = Callable[..., Any]
Site = Callable[..., Any]


@pytest.fixture
def cache(site: Site) -> Any:
    return site()


def test_what_a_default_raises_is_shown_alone(cache: Any) -> None:
    error = LookupError("mine")

    def default() -> None:
        raise error

    with pytest.raises(LookupError) as raised:
        cache.get_or_set("k", default)
    assert raised.value is error
    assert error.__context__ is None
    assert error.__cause__ is None


@pytest.mark.parametrize("on_a_loop", [False, True])
def test_what_is_wrong_with_a_value_is_shown_without_how_the_backend_finds_out_where_it_is_called(
    cache: Any, on_a_loop: bool
) -> None:
    """It was "no running event loop … During handling of the above exception"."""

    async def main() -> None:
        cache.set("k", object())

    with pytest.raises(TypeError) as raised:
        asyncio.run(main()) if on_a_loop else cache.set("k", object())
    above: BaseException | None = raised.value
    while above is not None:
        assert isinstance(above, TypeError)
        above = above.__context__


# --- get, set, add, delete


def test_what_is_set_is_got_and_what_is_not_is_the_default(cache: Any, call: Call) -> None:
    assert call(cache, "get", "tea") is None
    assert call(cache, "get", "tea", "none") == "none"
    assert call(cache, "set", "tea", 4.5) is None
    assert call(cache, "get", "tea", "none") == 4.5
    assert call(cache, "set", "tea", 5) is None
    assert call(cache, "get", "tea") == 5


def test_none_is_a_value(cache: Any, call: Call) -> None:
    call(cache, "set", "nothing", None)
    assert call(cache, "get", "nothing", "default") is None
    assert call(cache, "has_key", "nothing") is True
    assert call(cache, "get_many", ["nothing"]) == {"nothing": None}
    assert call(cache, "add", "nothing", 1) is False
    assert call(cache, "get_or_set", "nothing", 1) is None


def test_add_stores_only_where_nothing_is(cache: Any, call: Call) -> None:
    assert call(cache, "add", "tea", 1) is True
    assert call(cache, "add", "tea", 2) is False
    assert call(cache, "get", "tea") == 1


def test_delete_says_whether_there_was_something(cache: Any, call: Call) -> None:
    call(cache, "set", "tea", 1)
    assert call(cache, "delete", "tea") is True
    assert call(cache, "get", "tea") is None
    assert call(cache, "delete", "tea") is False


def test_has_key_and_in(cache: Any, call: Call) -> None:
    assert call(cache, "has_key", "tea") is False
    assert "tea" not in cache
    call(cache, "set", "tea", 0)
    assert call(cache, "has_key", "tea") is True
    assert "tea" in cache


def test_clear_leaves_nothing_of_any_alias_and_spares_what_is_not_djangos(site: Site, call: Call) -> None:
    cache = site(prefixed={"KEY_PREFIX": "p"})
    own = cache_of()
    own.set("own", 1)
    call(cache, "set", "tea", 1)
    call(caches["prefixed"], "set", "tea", 2)
    assert call(cache, "clear") is None
    assert call(cache, "get", "tea") is None
    assert call(caches["prefixed"], "get", "tea") is None
    assert own.get("own") == 1


def test_closing_stops_nothing(cache: Any, call: Call) -> None:
    call(cache, "set", "tea", 1)
    call(cache, "close")
    caches.close_all()
    assert call(cache, "get", "tea") == 1
    assert len(cache.group.cache.members()) == 1


# --- Timeouts


@pytest.mark.parametrize("timeout", [0, -1, -0.5])
def test_what_has_expired_when_it_is_set_is_deleted(cache: Any, call: Call, timeout: float) -> None:
    call(cache, "set", "tea", 1)
    call(cache, "set", "tea", 2, timeout)
    assert call(cache, "get", "tea") is None
    call(cache, "set", "tea", 1)
    assert call(cache, "set_many", {"tea": 2, "cake": 3}, timeout) == []
    assert call(cache, "get_many", ["tea", "cake"]) == {}
    assert call(cache, "add", "tea", 1, timeout) is True
    assert call(cache, "get", "tea") is None
    call(cache, "set", "tea", 1)
    assert call(cache, "touch", "tea", timeout) is True
    assert call(cache, "get", "tea") is None
    assert call(cache, "touch", "tea", timeout) is False
    assert call(cache, "get_or_set", "tea", 7, timeout) == 7
    assert call(cache, "get", "tea") is None


@pytest.mark.parametrize("timeout", [None, 60, 0.5e12, float("inf"), timedelta(hours=1), "1h30m"])
def test_what_lives_long_is_there(cache: Any, call: Call, timeout: Any) -> None:
    call(cache, "set", "set", 1, timeout)
    call(cache, "set_many", {"set_many": 2}, timeout)
    call(cache, "add", "add", 3, timeout)
    call(cache, "get_or_set", "get_or_set", 4, timeout)
    found = {"set": 1, "set_many": 2, "add": 3, "get_or_set": 4}
    assert call(cache, "get_many", list(found)) == found
    assert call(cache, "touch", "set", timeout) is True
    assert call(cache, "get", "set") == 1


def test_what_lives_for_a_moment_is_gone_after_it(cache: Any, call: Call, until: Any) -> None:
    call(cache, "set", "set", 1, 0.05)
    call(cache, "set", "touched", 1)
    call(cache, "touch", "touched", 0.05)
    call(cache, "add", "add", 1, 0.05)
    until(lambda: not cache.get_many(["set", "touched", "add"]))


def test_the_default_timeout_is_that_of_the_alias(site: Site, call: Call) -> None:
    cache = site(
        default={"TIMEOUT": None}, zero={"TIMEOUT": 0, "KEY_PREFIX": "z"}, bad={"TIMEOUT": "soon", "KEY_PREFIX": "b"}
    )
    call(cache, "set", "tea", 1)
    call(caches["zero"], "set", "tea", 1)
    call(caches["bad"], "set", "tea", 1)
    assert call(cache, "get", "tea") == 1
    assert call(caches["zero"], "get", "tea") is None
    assert call(caches["bad"], "get", "tea") == 1  # as Django has it: 300
    assert cache._ttl(60) == 60 != caches["bad"]._ttl(None)


# --- Many


def test_many_are_set_got_and_deleted(cache: Any, call: Call) -> None:
    data = {f"key {number}".replace(" ", "-"): number for number in range(300)}
    assert call(cache, "set_many", data) == []
    assert call(cache, "get_many", list(data)) == data
    assert call(cache, "get_many", iter(["key-1", "missing", "key-2"])) == {"key-1": 1, "key-2": 2}
    assert call(cache, "delete_many", (key for key in ["key-1", "missing"])) is None
    assert call(cache, "get_many", ["key-1", "key-2"]) == {"key-2": 2}
    assert call(cache, "get_many", []) == {}
    assert call(cache, "set_many", {}) == []
    call(cache, "delete_many", [])


def test_set_many_names_those_that_are_not_stored(cache: Any, call: Call) -> None:
    too_large = "x" * 2**20
    assert call(cache, "set_many", {"small": 1, "large": too_large}) == ["large"]
    assert call(cache, "get_many", ["small", "large"]) == {"small": 1}


# --- Counting


def test_counters_count(cache: Any, call: Call) -> None:
    call(cache, "set", "number", 41)
    assert call(cache, "incr", "number") == 42
    assert call(cache, "incr", "number", 10) == 52
    assert call(cache, "decr", "number") == 51
    assert call(cache, "decr", "number", 60) == -9
    assert call(cache, "incr", "number", -1) == -10
    assert call(cache, "get", "number") == -10


def test_counting_what_is_not_there_or_no_number_raises_what_other_backends_raise(cache: Any, call: Call) -> None:
    for method in ("incr", "decr", "incr_version", "decr_version"):
        with pytest.raises(ValueError, match="'missing' not found"):
            call(cache, method, "missing")
    for value in ("x", None, 1.5):
        call(cache, "set", "text", value)
        with pytest.raises(TypeError, match="text"):
            call(cache, "incr", "text")
        with pytest.raises(TypeError, match="text"):
            call(cache, "decr", "text")


def test_an_error_shows_no_other_one_that_it_did_not_come_from(cache: Any, call: Call) -> None:
    def chain(error: BaseException | None) -> list[BaseException]:
        return [error, *chain(error.__context__)] if error is not None else []

    with pytest.raises(TypeError) as caught:
        call(cache, "set", "key", object())
    assert all(type(each) is TypeError for each in chain(caught.value))


def test_counting_keeps_the_expiry(cache: Any, call: Call, until: Any) -> None:
    call(cache, "set", "number", 1, 0.2)
    assert call(cache, "incr", "number") == 2
    until(lambda: cache.get("number") is None)


def test_counting_is_atomic_in_the_group(site: Site, crew: Any) -> None:
    site(other={"OPTIONS": {"memory": "32MiB"}})
    caches["default"].set("number", 0)

    def count() -> None:
        backends = [caches["default"], caches["other"]]
        for number in range(100):
            backends[number % 2].incr("number")

    crew.start(count, times=4)
    assert crew.join() == [None] * 4
    assert caches["other"].get("number") == 400
    assert cache_of("other") is not cache_of("default")


def test_one_of_many_adds_succeeds(site: Site, crew: Any) -> None:
    site(other={"OPTIONS": {"memory": "32MiB"}})
    crew.start(lambda: caches["default"].add("lock", 1), times=4)
    crew.start(lambda: caches["other"].add("lock", 1), times=4)
    assert sorted(crew.join()) == [False] * 7 + [True]


# --- Versions, prefixes, keys


def test_versions_are_apart(cache: Any, call: Call) -> None:
    call(cache, "set", "tea", 1)
    call(cache, "set", "tea", 2, version=2)
    assert [call(cache, "get", "tea", version=version) for version in (None, 1, 2, 3)] == [1, 1, 2, None]
    assert call(cache, "get_many", ["tea"], version=2) == {"tea": 2}
    assert call(cache, "has_key", "tea", version=3) is False
    assert call(cache, "incr", "tea", version=2) == 3
    assert call(cache, "add", "tea", 9, version=3) is True
    assert call(cache, "touch", "tea", version=4) is False
    assert call(cache, "delete", "tea", version=3) is True
    call(cache, "delete_many", ["tea"], version=2)
    assert [call(cache, "get", "tea", version=version) for version in (1, 2, 3)] == [1, None, None]
    assert call(cache, "get_or_set", "tea", 5, version=2) == 5
    assert call(cache, "set_many", {"tea": 6}, version=3) == []
    assert call(cache, "get", "tea", version=3) == 6


def test_a_value_moves_to_another_version(cache: Any, call: Call) -> None:
    call(cache, "set", "tea", 1)
    assert call(cache, "incr_version", "tea") == 2
    assert [call(cache, "get", "tea", version=version) for version in (1, 2)] == [None, 1]
    assert call(cache, "incr_version", "tea", 3, version=2) == 5
    assert call(cache, "decr_version", "tea", version=5) == 4
    assert call(cache, "decr_version", "tea", 3, version=4) == 1
    assert call(cache, "get", "tea") == 1


def test_the_alias_gives_version_and_prefix(site: Site, call: Call) -> None:
    cache = site(second={"VERSION": 2}, prefixed={"KEY_PREFIX": "shop"})
    call(cache, "set", "tea", 1)
    assert call(caches["second"], "get", "tea") is None
    assert call(caches["second"], "get", "tea", version=1) == 1
    assert call(caches["prefixed"], "get", "tea") is None
    assert caches["prefixed"].make_key("tea") == "shop:1:tea"


class Text(str):
    """A str whose own text is another one."""

    def __str__(self) -> str:
        return self


def make_key(key: Any, prefix: str, version: int) -> str:
    return Text(f"{version}-{prefix}-{key}")


@pytest.mark.parametrize("function", [make_key, f"{__name__}.make_key"], ids=["function", "name"])
def test_the_key_function_makes_the_keys(
    site: Site, call: Call, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, __name__, __import__("types").SimpleNamespace(make_key=make_key))
    cache = site(default={"KEY_FUNCTION": function, "KEY_PREFIX": "p"})
    call(cache, "set", "tea", 1)
    assert call(cache, "get", "tea") == 1
    assert cache.wires(["tea"]) == ["1-p-tea"]
    assert call(cache, "get_many", ["tea", "cake"]) == {"tea": 1}


def test_keys_may_be_anything_that_can_be_written(cache: Any, call: Call) -> None:
    for key in (42, "ключ", Text("own"), "x" * 200, None, 4.5):
        call(cache, "set", key, repr(key))
        assert call(cache, "get", key) == repr(key)
    assert call(cache, "get_many", [42, None]) == {42: "42", None: "None"}


@pytest.mark.parametrize("key", ["with space", "x" * 251, "new\nline"])
def test_keys_that_memcached_would_refuse_are_warned_of_and_work(cache: Any, call: Call, key: str) -> None:
    for method, arguments in [
        ("set", (1,)), ("get", ()), ("add", (1,)), ("touch", ()), ("incr", ()), ("has_key", ()), ("delete", ()),
        ("get_or_set", (1,)),
    ]:  # fmt: skip
        with pytest.warns(CacheKeyWarning):
            call(cache, method, key, *arguments)
    with pytest.warns(CacheKeyWarning):
        assert call(cache, "get_many", [key]) == {key: 1}


# --- get_or_set


def test_get_or_set_takes_a_value_or_what_gives_one(cache: Any, call: Call) -> None:
    assert call(cache, "get_or_set", "value", 1) == 1
    assert call(cache, "get_or_set", "value", 2) == 1
    assert call(cache, "get_or_set", "callable", lambda: 3) == 3
    assert call(cache, "get_or_set", "callable", pytest.fail) == 3
    assert call(cache, "get_or_set", "none", None) is None
    assert call(cache, "get", "none", "default") is None


def test_get_or_set_raises_what_its_function_raises_and_keeps_nothing(cache: Any, call: Call) -> None:
    with pytest.raises(ZeroDivisionError):
        call(cache, "get_or_set", "key", lambda: 1 // 0)
    assert call(cache, "get_or_set", "key", 2) == 2


def test_get_or_set_awaits_a_coroutine_function(cache: Any) -> None:
    async def load() -> int:
        await asyncio.sleep(0)
        return 5

    assert asyncio.run(cache.aget_or_set("key", load)) == 5
    assert cache.get("key") == 5


def test_many_that_miss_at_once_make_one_load_in_the_group(site: Site, crew: Any) -> None:
    site(other={"OPTIONS": {"memory": "32MiB"}})
    loads, begun, go_on = [], threading.Event(), threading.Event()

    def load() -> str:
        loads.append(1)
        begun.set()
        assert go_on.wait(30)
        return "page"

    crew.start(lambda: caches["default"].get_or_set("key", load))
    assert begun.wait(30)
    crew.start(lambda: caches["default"].get_or_set("key", load), times=4)
    crew.start(lambda: caches["other"].get_or_set("key", load), times=4)
    go_on.set()
    assert crew.join() == ["page"] * 9
    assert len(loads) == 1


# --- Values are copies


def test_what_the_caller_changes_does_not_change_the_cache(cache: Any, call: Call) -> None:
    mine = {"list": [1]}
    call(cache, "set", "key", mine)
    mine["list"].append(2)
    call(cache, "get", "key")["list"].append(3)
    call(cache, "get_many", ["key"])["key"]["list"].append(4)
    assert call(cache, "get", "key") == {"list": [1]}
    call(cache, "get_or_set", "other", lambda: [1]).append(2)
    call(cache, "get_or_set", "other", lambda: [1]).append(3)
    assert call(cache, "get", "other") == [1]


# --- Handles


def test_threads_and_contexts_have_handles_of_their_own_on_one_cache(cache: Any) -> None:
    cache.set("tea", 1)
    handles = [cache]

    def look() -> None:
        handles.append(caches["default"])

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()

    async def alook() -> None:
        await sync_to_async(look)()
        look()

    asyncio.run(alook())
    assert len(set(map(id, handles))) > 1
    assert {id(each.group.cache) for each in handles} == {id(cache.group.cache)}
    assert [each.get("tea") for each in handles] == [1] * len(handles)
    assert proxy.get("tea") == 1


def test_nothing_starts_before_the_first_use(site: Site) -> None:
    before = {*threading.enumerate()}  # some of an earlier test may still end
    cache = site()
    cache_of().namespace("own")
    cache.make_key("x")
    assert {*threading.enumerate()} <= before
    assert cache.group.cache.members() == []
    cache.get("x")
    assert len(cache.group.cache.members()) == 1


def test_a_hit_in_a_task_needs_neither_thread_nor_loop(cache: Any, monkeypatch: pytest.MonkeyPatch, until: Any) -> None:
    cache.set("tea", {"price": 4})
    cache.get("tea")  # the process has joined, and its bus's thread begins in a moment
    until(lambda: any(thread.name == "colocache bus" for thread in threading.enumerate()))

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a thread")

    async def hits() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", refuse)
            patched.setattr("asgiref.sync.SyncToAsync.__call__", refuse)
            for coroutine in (
                cache.aget("tea"), cache.aget_many(["tea"]), cache.ahas_key("tea"), cache.aget_or_set("tea", 1)
            ):  # fmt: skip
                with pytest.raises(StopIteration):
                    coroutine.send(None)  # it ends without having waited once
        assert cache.get("tea") == {"price": 4}

    asyncio.run(hits())


def test_no_twin_goes_through_djangos_threads(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a thread")

    async def use_all() -> None:
        monkeypatch.setattr("asgiref.sync.SyncToAsync.__call__", refuse)
        await cache.aset("tea", 1)
        await cache.aget("missing")
        await cache.aadd("cake", 1)
        await cache.aincr("tea")
        await cache.adecr("tea")
        await cache.atouch("tea")
        await cache.ahas_key("tea")
        await cache.aset_many({"a": 1})
        await cache.aget_many(["a", "tea"])
        await cache.aget_or_set("b", 1)
        await cache.aincr_version("a")
        await cache.adecr_version("a", version=2)
        await cache.adelete("a")
        await cache.adelete_many(["b"])
        await cache.aclear()
        await cache.aclose()

    asyncio.run(use_all())


def test_every_method_of_djangos_is_ours() -> None:
    from django.core.cache.backends.base import BaseCache

    inherited = {"make_key", "make_and_validate_key", "validate_key", "get_backend_timeout"}
    public = {name for name in vars(BaseCache) if not name.startswith("_") and callable(getattr(BaseCache, name))}
    assert public - inherited == public & vars(ColocacheCache).keys()


def test_the_sync_methods_work_on_an_event_loops_thread(cache: Any) -> None:
    async def use_all() -> None:
        assert cache.get("tea") is None
        cache.set("tea", 1)
        assert cache.get("tea") == 1
        assert cache.add("cake", 1) is True
        assert cache.incr("tea") == 2
        assert cache.get_many(["tea", "cake"]) == {"tea": 2, "cake": 1}
        assert cache.delete("tea") is True
        assert "tea" not in cache
        with pytest.raises(ValueError, match="not found"):
            cache.incr("tea")
        cache.clear()

    asyncio.run(use_all())


def test_but_loading_does_not(cache: Any) -> None:
    async def load() -> None:
        with pytest.raises(colocache.EventLoopError, match="twin"):
            cache.get_or_set("tea", 1)
        assert await cache.aget_or_set("tea", 1) == 1

    asyncio.run(load())


# --- The fence


def test_with_the_fence_what_was_computed_before_an_invalidation_is_not_stored(site: Site) -> None:
    cache = site(default={"OPTIONS": {"fence": True}}, other={"OPTIONS": {"memory": "32MiB"}})

    async def story() -> None:
        assert await cache.aget("page") is None
        await caches["other"].adelete("page")
        await cache.aset("page", "old")
        assert await cache.aget("page") is None
        await cache.aset("page", "new")
        assert await cache.aget("page") == "new"
        assert await cache.aget_many(["a", "b"]) == {}
        await caches["other"].aset("a", "theirs")
        assert await cache.aset_many({"a": "old", "b": "good"}) == ["a"]
        assert await caches["other"].aget_many(["a", "b"]) == {"a": "theirs", "b": "good"}

    asyncio.run(story())
    assert cache.get("sync") is None
    caches["other"].delete("sync")
    cache.set("sync", "old")
    assert cache.get("sync") is None


def test_without_the_fence_a_set_is_unconditional(site: Site) -> None:
    cache = site(other={"OPTIONS": {"memory": "32MiB"}})
    assert cache.get("page") is None
    caches["other"].delete("page")
    cache.set("page", "mine")
    assert caches["other"].get("page") == "mine"


# --- Everybody


def test_what_is_set_or_deleted_is_so_for_everybody_when_the_call_returns(site: Site, call: Call) -> None:
    cache = site(other={"OPTIONS": {"memory": "32MiB"}})
    other = caches["other"]
    for number in range(20):
        call(cache, "set", "key", number)
        assert call(other, "get", "key") == number
        call(cache, "set_many", {"key": -number, "more": number})
        assert call(other, "get_many", ["key", "more"]) == {"key": -number, "more": number}
        call(other, "delete", "key")
        assert call(cache, "get", "key") is None


@pytest.mark.parametrize("wait", [True, False])
def test_writes_wait_for_everybody_unless_they_are_told_not_to(
    site: Site, call: Call, monkeypatch: pytest.MonkeyPatch, wait: bool
) -> None:
    """What a test by timing could not tell: that it was not luck."""
    cache = site(default={"OPTIONS": {"wait": wait}}, other=OTHER)
    calls: list[tuple[str, Any]] = []
    for name in ("set", "aset", "set_many", "aset_many", "invalidate", "ainvalidate", "clear", "aclear"):

        def spy(*args: Any, _name: str = name, _original: Any = getattr(Space, name), **kwargs: Any) -> Any:  # noqa: B008
            calls.append((_name.removeprefix("a"), kwargs.get("wait", "unsaid")))
            return _original(*args, **kwargs)

        monkeypatch.setattr(Space, name, spy)
    call(cache, "set", "tea", 1)
    call(cache, "set_many", {"tea": 1})
    call(cache, "delete", "tea")
    call(cache, "clear")
    assert calls == [
        ("set", "all" if wait else "stored"),
        ("set_many", "unsaid"),
        ("invalidate", wait),
        ("clear", wait),
    ]


def test_tags_are_beyond_what_django_has(cache: Any, call: Call) -> None:
    call(cache, "set", "set", 1, tags=("shelf",))
    call(cache, "add", "add", 1, tags=("shelf",))
    call(cache, "set_many", {"set_many": 1}, tags=("shelf", "more"))
    call(cache, "get_or_set", "get_or_set", 1, tags=["shelf"])
    call(cache, "set", "other", 1, tags=("others",))
    names = ["set", "add", "set_many", "get_or_set", "other"]
    assert len(call(cache, "get_many", names)) == 5
    cache_of().invalidate_tags("shelf")
    assert call(cache, "get_many", names) == {"other": 1}


# --- Settings


def test_options_are_the_caches_arguments(site: Site) -> None:
    options = {"memory": "8MiB", "shelf": "4MiB", "policy": "lru", "load_timeout": "1s"}
    config = site(default={"OPTIONS": options}).group.cache.config
    assert (config.group, config.memory, config.shelf, config.policy, config.load_timeout) == (
        "test", 8 * 2**20, 4 * 2**20, "lru", 1.0
    )  # fmt: skip


def test_aliases_that_differ_in_what_is_djangos_share_one_cache(site: Site) -> None:
    site(other={"KEY_PREFIX": "x", "TIMEOUT": 5, "VERSION": 3, "OPTIONS": {"fence": True, "wait": False}})
    assert cache_of("other") is cache_of("default")


@pytest.mark.parametrize("location", [None, "", "  ", ["shop"], 5])
def test_no_location_says_what_to_write(site: Site, location: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match='"LOCATION": "shop"'):
        site(default={"LOCATION": location})


def test_a_location_that_is_left_out_says_what_to_write() -> None:
    with pytest.raises(ImproperlyConfigured, match='"LOCATION": "shop"'):
        ColocacheCache("", {})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"memry": 1}, "no 'memry'; there are .* memory,"),
        ({"memory": "12 parsecs"}, "LOCATION \"test\".*memory='12 parsecs'"),
        ({"load_timeout": [1]}, "load_timeout"),
        ({"fence": "yes"}, "\"fence\"] is True or False, not 'yes'"),
        ({"wait": 1}, '"wait"] is True or False'),
        ({"codec": "shop.codecs.missing"}, "\"codec\"] is .*, not 'shop.codecs.missing'"),
        ({"codec": "os.path"}, "needs a name"),
        ({"copy": "never"}, "no 'copy'"),
    ],
)
def test_options_that_make_no_sense_are_named(site: Site, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=says):
        site(default={"OPTIONS": options})


@pytest.mark.parametrize("name", ["MAX_ENTRIES", "CULL_FREQUENCY"])
def test_bounds_on_numbers_are_ignored_and_said_to_be(site: Site, name: str) -> None:
    with pytest.warns(RuntimeWarning, match=f'{name}"] means nothing here, and is ignored.*"memory"'):
        cache = site(default={"OPTIONS": {name: 5}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cache = ColocacheCache("test", {"OPTIONS": {name: 5, **cache_options(cache)}})  # once is enough
    cache.set_many({str(number): number for number in range(400)})
    assert len(cache.get_many(map(str, range(400)))) == 400


def cache_options(cache: Any) -> dict[str, Any]:
    return {"directory": cache.group.cache.config.directory, **PATIENT}


def test_switched_off_it_is_a_dummy(site: Site, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLOCACHE_DISABLED", "true")
    cache = site()
    call(cache, "set", "tea", 1)
    assert call(cache, "get", "tea") is None
    assert call(cache, "add", "tea", 1) is True
    assert call(cache, "get_or_set", "tea", lambda: 2) == 2
    assert call(cache, "delete", "tea") is False
    assert call(cache, "touch", "tea") is False
    assert call(cache, "get_many", ["tea"]) == {}
    call(cache, "clear")
    with pytest.raises(ValueError, match="not found"):
        call(cache, "incr", "tea")
    assert cache.group.cache.members() == []


def test_the_sentinel_is_never_given_out(cache: Any, call: Call) -> None:
    assert call(cache, "get", "tea", MISSING) is MISSING
    assert pickle.loads(pickle.dumps(call(cache, "get", "tea"))) is None


# --- Audits


@pytest.mark.parametrize("backend", [{}, {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}])
def test_the_caches_close_the_connections_that_audits_have_opened(site: Site, backend: dict[str, Any]) -> None:
    site(audited=backend)
    opened: list[Any] = []

    def audit() -> None:
        with cache_of("audited")._member.audit_within():
            connection.ensure_connection()
            opened.append(connection.connection)

    thread = threading.Thread(target=audit)
    thread.start()
    thread.join()
    with pytest.raises(ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")


def test_on_an_event_loop_there_are_none(site: Site) -> None:
    site()
    connection.ensure_connection()
    mine = connection.connection

    async def audit() -> None:
        with cache_of()._member.audit_within():
            pass

    asyncio.run(audit())
    assert connection.connection is mine is not None
    connection.close()
