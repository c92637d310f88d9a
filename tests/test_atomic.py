"""What is done in one step, by real caches: add, gets and cas, incr and decr, touch; and sets under a fence."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

import colocache.operations.write
from colocache import Cache, EventLoopError, PickleCodec
from colocache.scope import Scope

if TYPE_CHECKING:
    from tests.conftest import Call, Crew


@pytest.fixture
def group(new_group: Callable[..., list[Cache]]) -> list[Cache]:
    """Three members; a key may be owned by the one that is asked, or by another."""
    return new_group(3, fetch_timeout=20.0)


KEYS = [f"k{number}" for number in range(12)]


@pytest.mark.parametrize("key", KEYS[:4])
def test_add_stores_where_nothing_is(call: Call, group: list[Cache], key: str) -> None:
    one, other, third = group
    assert call(one, "add", key, "first") is True
    assert call(other, "add", key, "second") is False
    assert call(one, "add", key, "third") is False
    assert {cache.get(key) for cache in group} == {"first"}
    third.invalidate(key)
    assert call(other, "add", key, None) is True
    assert call(one, "add", key, "again") is False, "None is a value"


def test_add_with_no_time_to_live_stores_nothing(call: Call, cache: Cache) -> None:
    assert call(cache, "add", "k", 1, ttl=0) is False
    assert cache.get("k") is None


@pytest.mark.parametrize("key", KEYS[:4])
def test_compare_and_set(call: Call, group: list[Cache], key: str) -> None:
    one, other, _ = group
    assert call(one, "gets", key) is None
    one.set(key, [1])
    value, token = call(one, "gets", key)
    assert value == [1]
    assert call(other, "gets", key)[0] == [1]
    assert call(other, "cas", key, [1, 2], token) is True, "a token is good in any process"
    assert call(one, "cas", key, [1, 3], token) is False
    assert {tuple(cache.get(key)) for cache in group} == {(1, 2)}


def test_token_does_not_survive_an_invalidation(call: Call, group: list[Cache]) -> None:
    one, other, third = group
    for key in KEYS[:4]:
        one.set(key, 1)
        _, token = call(one, "gets", key)
        other.invalidate(key)
        third.set(key, 1)
        assert call(one, "cas", key, 2, token) is False


@pytest.mark.parametrize(
    ("token", "error"), [("text", TypeError), (None, TypeError), (b"short", ValueError), (b"\xff" * 24, ValueError)]
)
def test_a_token_that_is_none_is_refused(call: Call, cache: Cache, token: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="a token is what gets returned"):
        call(cache, "cas", "k", 1, token)
    assert call(cache, "cas", "k", 1, b"") is False


@pytest.mark.parametrize("key", KEYS[:4])
def test_counters_count_for_the_whole_group(call: Call, group: list[Cache], key: str) -> None:
    one, other, third = group
    assert call(one, "incr", key) is None
    assert call(one, "incr", key, initial=0) == 1
    assert call(other, "incr", key, 5, initial=100) == 6
    assert call(third, "decr", key, 10) == -4
    third.invalidate(key)
    assert call(other, "decr", key, initial=0) == -1


def test_a_number_that_was_set_can_be_counted_with_whatever_the_codec(
    call: Call, new_cache: Callable[..., Cache], cache: Cache
) -> None:
    pickled = new_cache("pickled", codec=PickleCodec(key=b"k" * 32))
    for each in (cache, pickled):
        each.set("k", 41)
        assert call(each, "incr", "k") == 42
        assert each.get("k") == 42
        assert type(each.get("k")) is int
        each.set("big", 1 << 1000)
        assert each.get("big") == 1 << 1000


@pytest.mark.parametrize("value", ["41", 4.1, True, None, [1], 1 << 1000])
def test_what_is_no_int_cannot_be_counted_with(call: Call, cache: Cache, value: object) -> None:
    cache.set("k", value)
    with pytest.raises(TypeError, match=r"the value of the key 'k' is not an int"):
        call(cache, "incr", "k")
    assert cache.get("k") == value


@pytest.mark.parametrize("delta", ["1", 1.5, None, True])
def test_a_delta_that_is_no_int_is_refused(call: Call, cache: Cache, delta: Any) -> None:
    for method in ("incr", "decr"):
        with pytest.raises(TypeError, match="delta is an int"):
            call(cache, method, "k", delta)
    with pytest.raises(TypeError, match="initial is an int"):
        call(cache, "incr", "k", initial="0")
    with pytest.raises(ValueError, match="more than 63 bits"):
        call(cache, "incr", "k", 1 << 63)
    with pytest.raises(ValueError, match="more than 64 bytes"):
        call(cache, "incr", "k", initial=1 << 600)


def test_counts_of_many_threads_are_all_counted(group: list[Cache], crew: Crew) -> None:
    def count(cache: Cache) -> list[int | None]:
        return [cache.incr("hits", initial=0) for _ in range(50)]

    for cache in group * 2:
        crew.start(lambda cache=cache: count(cache))
    counted = [value for values in crew.join() for value in values]
    assert sorted(counted) == list(range(1, 301))


def test_touch_gives_another_expiry(call: Call, group: list[Cache], until: Any) -> None:
    one, other, _ = group
    for key in KEYS[:4]:
        assert call(one, "touch", key, 60) is False
        one.set(key, 1, ttl=60)
        other.get(key)
        assert call(other, "touch", key, "1h") is True
        assert call(one, "touch", key, None) is True
        assert other.get(key) == 1
        assert call(one, "touch", key, 0) is True
        until(lambda key=key: all(cache.get(key) is None for cache in group))


def test_where_the_cache_is_off_nothing_is_done(call: Call, new_cache: Callable[..., Cache]) -> None:
    cache = new_cache(disabled=True)
    assert call(cache, "add", "k", 1) is False
    assert call(cache, "gets", "k") is None
    assert call(cache, "cas", "k", 1, b"x" * 24) is False
    assert call(cache, "incr", "k", initial=0) is None
    assert call(cache, "touch", "k") is False
    assert cache.position() == ""
    assert call(cache, "catch_up", "x") is False


# --- Fences


@pytest.mark.parametrize("key", KEYS[:4])
def test_a_set_after_a_miss_and_an_event_is_refused(group: list[Cache], key: str) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)
    assert pages.get(key) is None
    other.namespace("pages").invalidate(key)
    assert pages.set(key, "old") is False
    assert {cache.namespace("pages").get(key) for cache in group} == {None}
    assert pages.set(key, "new"), "it is not missed any more"
    assert other.namespace("pages").get(key) == "new"


def test_a_set_after_a_miss_stores_for_all(group: list[Cache]) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)
    assert pages.get_many(KEYS) == {}
    assert pages.set_many(dict.fromkeys(KEYS, 1), tags=("t",))
    assert other.namespace("pages").get_many(KEYS) == dict.fromkeys(KEYS, 1)
    other.invalidate_tags("t")
    assert pages.get_many(KEYS) == {}


def test_a_set_whose_tag_had_an_event_is_refused(group: list[Cache]) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)
    for key in KEYS:
        assert pages.get(key) is None
    other.invalidate_tags("t")
    assert not pages.set_many(dict.fromkeys(KEYS, "old"), tags=("t",))
    assert pages.get_many(KEYS) == {}


def test_each_thread_has_fences_of_its_own(group: list[Cache]) -> None:
    """1. Thread A misses; 2. the key is invalidated; 3. thread B misses; 4. A sets what it has read before 2."""
    one, other, _ = group
    pages = one.namespace("pages", fence=True)
    pages.get("k")
    other.namespace("pages").invalidate("k")
    other_thread = threading.Thread(target=pages.get, args=("k",))
    other_thread.start()
    other_thread.join()
    assert pages.set("k", "old") is False


def test_tasks_have_fences_of_their_own(group: list[Cache]) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)

    async def miss_and_set(missed: asyncio.Event, go_on: asyncio.Event, value: str) -> bool:
        await pages.aget("k")
        missed.set()
        await go_on.wait()
        return await pages.aset("k", value)

    async def both() -> list[bool]:
        events = [asyncio.Event() for _ in range(4)]
        old = asyncio.ensure_future(miss_and_set(events[0], events[1], "old"))
        await events[0].wait()
        await other.namespace("pages").ainvalidate("k")
        new = asyncio.ensure_future(miss_and_set(events[2], events[3], "new"))
        await events[2].wait()
        events[1].set()
        stored = [await old]
        events[3].set()
        return [*stored, await new]

    assert asyncio.run(both()) == [False, True]


def test_what_one_request_missed_says_nothing_of_what_the_next_one_sets(group: list[Cache]) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)
    with Scope(one):
        pages.get("k")
    other.namespace("pages").set("k", "other")
    with Scope(one):
        assert pages.set("k", "mine")
    assert other.namespace("pages").get("k") == "mine"


def test_a_scope_that_is_entered_again_knows_what_it_missed(group: list[Cache]) -> None:
    one, other, _ = group
    pages, scope = one.namespace("pages", fence=True), Scope(one)
    with scope:
        pages.get("k")
    other.namespace("pages").invalidate("k")
    with scope:
        assert not pages.set("k", "old")


def test_who_invalidates_a_key_writes_it(group: list[Cache]) -> None:
    one = group[0]
    pages = one.namespace("pages", fence=True)
    pages.get("k")
    pages.invalidate("k")
    assert pages.set("k", "mine")


@pytest.mark.parametrize(("cleared", "stored"), [("all/pages", True), ("all", True), ("all/pages/b", False)])
def test_who_clears_a_namespace_writes_what_he_has_missed_in_it(group: list[Cache], cleared: str, stored: bool) -> None:
    one, other, _ = group
    pages = one.namespace("all/pages", fence=True)
    pages.get("k")
    one.namespace(cleared, fence=True).clear()
    other.namespace("all/pages").invalidate("k")
    assert pages.set("k", "mine") is stored


def test_a_view_without_fences_leaves_those_of_others(group: list[Cache]) -> None:
    one = group[0]
    pages = one.namespace("pages", fence=True)
    pages.get("k")
    Cache.namespace(one, "pages").clear()
    assert not pages.set("k", "read before")


def test_a_key_that_was_found_or_never_asked_for_is_set_as_ever(group: list[Cache]) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)
    assert pages.set("k", 1)
    assert pages.get("k") == 1
    other.namespace("pages").invalidate("k")
    assert pages.set("k", 2)
    assert Cache.namespace(one, "pages").get("k") == 2


def test_a_set_long_after_the_miss_is_refused_and_invalidates(
    group: list[Cache], monkeypatch: pytest.MonkeyPatch, until: Any
) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)
    assert pages.get("k") is None
    assert other.namespace("pages").set("k", "old")
    later = time.monotonic() + one.config.load_timeout
    with monkeypatch.context() as patch:
        patch.setattr(colocache.operations.write, "monotonic", lambda: later)
        assert pages.set("k", "new") is False
    until(lambda: all(cache.namespace("pages").get("k") is None for cache in group))


def test_a_set_that_is_refused_on_an_event_loop_keeps_the_fence(group: list[Cache]) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)

    async def habit() -> bool:
        assert await pages.aget("k") is None
        await other.namespace("pages").ainvalidate("k")
        with pytest.raises(EventLoopError):
            pages.set("k", "old")
        return await pages.aset("k", "old")

    assert asyncio.run(habit()) is False


def test_what_was_missed_in_a_cache_that_is_gone_is_nothing_to_another_one(new_cache: Any) -> None:
    """A new object may be at the address, and so have the `id`, of one that is gone."""
    for _ in range(2):
        cache = new_cache(fence=True)
        assert cache.set("k", 1)
        assert cache.get("missed") is None
        assert cache.set("other", 1)
        cache.close()
    third = new_cache(fence=True)
    assert third.set("missed", 1), "it has missed nothing"
