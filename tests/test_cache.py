"""What a user holds: every method of a cache, in both of its forms, alone and with another cache of its group."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import select
import signal
import sys
import threading
import tracemalloc
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

import colocache.host
import colocache.operations.keyspace
from colocache import (
    MISSING,
    Cache,
    ClosedError,
    ConfigError,
    InvalidationIncomplete,
    MemberInfo,
    Receipt,
    Stats,
)
from colocache.core.host.claims import Sleep
from colocache.core.options import MAX_TAGS, MAX_VALUE
from colocache.host import Host
from colocache.operations import read
from colocache.operations.load import Run, get_or_load
from colocache.runtime.waiting.answers import Answer
from tests.conftest import near_entry
from tests.loaders import counted, elsewhere, never

if TYPE_CHECKING:
    from tests.conftest import Call, Crew, NewCache, Until

GONE = object()


def host_of(cache: Cache) -> Host:
    """Return the host of a cache that has joined."""
    host = cache._member.own_host()
    assert host is not None
    return host


def waiting(cache: Cache) -> int:
    """Return how many calls of this process wait for the loads of others, by any cache of the group."""
    return sum(len(load.waiters) for load in list(host_of(cache).claims._loads.values()))


def threads() -> list[str]:
    """Return the names of the package's threads."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("colocache")]


# --- Reading and writing


def test_what_nobody_has_is_the_default(call: Call, cache: Cache) -> None:
    assert call(cache, "get", "k") is None
    assert call(cache, "get", "k", GONE) is GONE
    assert call(cache, "get", "k", default=MISSING) is MISSING
    assert cache.stats().misses == 3


def test_what_was_set_is_there(call: Call, cache: Cache) -> None:
    assert call(cache, "set", "k", [1, 2]) is True
    assert call(cache, "get", "k") == [1, 2]
    assert call(cache, "set", "k", "new") is True
    assert call(cache, "get", "k") == "new"


def test_a_hit_is_the_same_object_each_time(call: Call, cache: Cache) -> None:
    call(cache, "set", "k", [1])
    assert call(cache, "get", "k") == [1]  # it is kept when it is found for the second time
    assert call(cache, "get", "k") is call(cache, "get", "k") is call(cache, "get_or_load", "k", never)
    assert (cache.stats().fetches, cache.stats().hits) == (2, 2)


def test_none_is_a_value(call: Call, cache: Cache) -> None:
    load, calls = counted(None)
    assert call(cache, "get_or_load", "k", load) is None
    assert call(cache, "get_or_load", "k", never) is None
    assert call(cache, "get", "k", GONE) is None
    assert call(cache, "get_many", ["k"]) == {"k": None}
    assert calls == [None]


def test_missing_is_one_that_shows_its_name() -> None:
    assert repr(MISSING) == "MISSING"


def test_a_miss_is_loaded_once_and_kept(call: Call, cache: Cache) -> None:
    load, calls = counted({"a": 1})
    assert [call(cache, "get_or_load", "k", load) for _ in range(3)] == [{"a": 1}] * 3
    assert call(cache, "get", "k") == {"a": 1}
    assert (calls, cache.stats().loads, cache.stats().fills) == ([{"a": 1}], 1, 1)


def test_a_coroutine_function_loads_for_the_async_twin(cache: Cache) -> None:
    async def load() -> str:
        await asyncio.sleep(0)
        return "loaded"

    assert asyncio.run(cache.aget_or_load("k", load)) == "loaded"
    assert cache.get("k") == "loaded"
    with pytest.raises(TypeError, match="load with the a-twin"):
        cache.get_or_load("other", load)


@pytest.mark.parametrize(
    "key", ["text", "", "ä\ud800", "x" * 10_000, (), ("a", 1, True, None, b"b"), (("nested", (1,)),), (10**5000,)]
)
def test_keys_of_every_kind(call: Call, cache: Cache, key: Any) -> None:
    assert call(cache, "set", key, 1)
    assert call(cache, "get", key) == 1
    assert call(cache, "delete", key).complete
    assert call(cache, "get", key) is None


def test_keys_that_are_equal_are_one(cache: Cache) -> None:
    cache.set(("a", 1), "one")
    assert cache.get(("a", True)) == "one"
    assert cache.get_many([("a", True), ("a", 1)]) == {("a", 1): "one"}


def test_equal_instants_of_two_time_zones_are_two_keys(call: Call, cache: Cache) -> None:
    first: Any = (datetime(2020, 1, 1, 0, tzinfo=UTC),)
    second: Any = (datetime(2020, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))),)
    assert first == second, "to Python they are one key, and a dictionary has room for one of them"
    assert cache.set(first, "first")
    assert call(cache, "get_many", [first, second]) == {first: "first"}
    assert cache.set(second, "second")
    for _ in range(3):
        assert call(cache, "get_many", [first, second]) == {first: "second"}
        assert (call(cache, "get", first), call(cache, "get", second)) == ("first", "second")


def test_a_key_that_is_asked_for_twice_is_read_twice(call: Call, cache: Cache) -> None:
    cache.set("k", 1)
    assert call(cache, "get_many", ["none", "k", "none", "k"]) == {"k": 1}
    assert (cache.stats().fetches, cache.stats().misses) == (2, 2)


def test_to_read_many_takes_little_more_memory_than_their_values(new_cache: NewCache) -> None:
    cache = new_cache(private=True, shelf="64MiB")
    size, count = 50_000, 8 * read.AT_ONCE
    assert cache.set_many({str(number): "x" * size for number in range(count)})
    tracemalloc.start()
    try:
        assert len(cache.get_many(map(str, range(count)))) == count
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 1.3 * size * count


def test_many_are_read_and_written_at_once(call: Call, cache: Cache) -> None:
    assert call(cache, "set_many", {"a": 1, ("b", 2): None, "c": "three"})
    assert call(cache, "get_many", ["a", ("b", 2), "c", "d"]) == {"a": 1, ("b", 2): None, "c": "three"}
    assert call(cache, "get_many", iter(["a"])) == {"a": 1}
    assert call(cache, "get_many", []) == {}
    assert call(cache, "set_many", {}) is True
    assert cache.stats().misses == 1


# --- Time to live


class Clock:
    """A clock that this process goes by."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return self._real() + self.ahead

    _real = staticmethod(colocache.operations.keyspace.monotonic)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(colocache.operations.keyspace, "monotonic", clock)
    monkeypatch.setattr(colocache.host, "monotonic", clock)
    return clock


def left(space: Any, key: Any) -> float:
    """In how many seconds the value of a key ends, by what its readers look at."""
    return near_entry(space, key).expires - colocache.operations.keyspace.monotonic()


FORMS = [(60, 60.0), (60.5, 60.5), (timedelta(minutes=2), 120.0), ("90s", 90.0), ("1h30m", 5400.0), ("65000ms", 65.0)]


@pytest.mark.parametrize(("ttl", "seconds"), FORMS)
@pytest.mark.parametrize("method", ["set", "get_or_load"])
def test_forms_of_a_ttl(call: Call, cache: Cache, method: str, ttl: Any, seconds: float) -> None:
    call(cache, method, "k", 1 if method == "set" else lambda: 1, ttl=ttl)
    assert seconds - 30 < left(cache, "k") <= seconds


def test_the_default_ttl_is_that_of_the_space(new_cache: NewCache) -> None:
    cache = new_cache(ttl="10m")
    cache.set("k", 1)
    assert 500 < left(cache, "k") <= 600
    users = cache.namespace("users", ttl="1h")
    users.set("k", 1)
    assert 3500 < left(users, "k") <= 3600
    users.namespace("old").set("k", 1)
    assert 3500 < left(users.namespace("old"), "k") <= 3600


@pytest.mark.parametrize("ttl", [None, float("inf"), "never"])
def test_for_ever(call: Call, cache: Cache, ttl: Any) -> None:
    call(cache, "set", "k", 1, ttl=ttl)
    assert left(cache, "k") == float("inf")
    call(cache, "get_or_load", "l", lambda: 1, ttl=ttl)
    assert left(cache, "l") == float("inf")


@pytest.mark.parametrize("ttl", [0, 0.0, "0", timedelta(0)])
def test_a_ttl_of_zero_stores_nothing(call: Call, cache: Cache, ttl: Any) -> None:
    load, calls = counted("v")
    assert call(cache, "get_or_load", "k", load, ttl=ttl) == "v"
    assert call(cache, "get_or_load", "k", load, ttl=ttl) == "v"
    assert (len(calls), cache.stats().loads, cache.stats().fallbacks) == (2, 2, 0)
    assert call(cache, "set", "k", 1, ttl=ttl) is False
    assert call(cache, "get", "k") is None


def test_a_set_with_a_ttl_of_zero_takes_the_old_value_away(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    one.set("k", "old")
    assert other.get("k") == "old"
    assert call(one, "set", "k", "new", ttl=0, wait="all") is False
    assert (one.get("k"), other.get("k")) == (None, None)


@pytest.mark.parametrize("ttl", [-1, float("nan"), float("-inf"), "", "soon", "30m1h", timedelta(-1), 10**400])
@pytest.mark.parametrize("method", ["set", "get_or_load", "namespace", "cached"])
def test_a_ttl_that_says_nothing_is_refused(cache: Cache, method: str, ttl: Any) -> None:
    arguments = {"set": ("k", 1), "get_or_load": ("k", never), "namespace": ("n",), "cached": ()}[method]
    with pytest.raises(ConfigError, match="ttl="):
        getattr(cache, method)(*arguments, ttl=ttl)
    assert cache.set("k", 1), "the member has to be alive"


@pytest.mark.parametrize("ttl", [True, [], b"1"])
def test_a_ttl_of_a_wrong_type_is_refused(cache: Cache, ttl: Any) -> None:
    with pytest.raises(TypeError, match="ttl="):
        cache.set("k", 1, ttl=ttl)


def test_what_has_expired_is_not_served(call: Call, cache: Cache, clock: Clock) -> None:
    call(cache, "set", "k", 1, ttl=60)
    assert call(cache, "get", "k") == call(cache, "get", "k") == 1
    assert cache._keyspace.hit("k") == 1
    clock.ahead = 59.0
    assert cache._keyspace.hit("k") == 1
    assert read.get(cache._keyspace, "k", None) == 1, "the shelf has it, too"
    clock.ahead = 61.0
    assert cache._keyspace.hit("k") is MISSING
    assert read.get(cache._keyspace, "k", None) is None


def test_what_has_expired_is_loaded_again(call: Call, pair: list[Cache], until: Until) -> None:
    one, other = pair
    for cache in (one, other):
        assert call(cache, "get_or_load", "k", lambda: "first", ttl="50ms") == "first"
    until(lambda: call(other, "get", "k") is None and call(one, "get", "k") is None)
    load, calls = counted("second")
    assert call(other, "get_or_load", "k", load) == "second"
    assert call(one, "get_or_load", "k", never) == "second"
    assert calls == ["second"]


def test_a_near_copy_ends_with_the_value_that_it_was_made_of(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    one.set("k", 1, ttl=60)
    for cache in pair:
        assert 0 < left(cache, "k") <= 60
    assert one._keyspace.near[0]["k"].expires == other._keyspace.near[0]["k"].expires
    assert call(other, "get_or_load", "k", never, ttl="1h") == 1
    assert left(other, "k") <= 60


# --- Invalidation


@pytest.mark.parametrize("method", ["invalidate", "delete"])
def test_invalidating_takes_a_value_away_everywhere(call: Call, pair: list[Cache], method: str) -> None:
    one, other = pair
    for cache in pair:
        assert cache.get_or_load("k", lambda: "old") == "old"
    receipt = call(one, method, "k")
    assert isinstance(receipt, Receipt)
    assert (receipt.acknowledged, receipt.waited_out, receipt.complete) == ((), (), True)
    assert 0 <= receipt.seconds < 30
    assert call(one, "get", "k") is call(other, "get", "k") is None
    assert (one.stats().invalidations, other.stats().invalidations) == (1, 0)


@pytest.mark.parametrize("method", ["invalidate", "delete"])
def test_the_first_call_of_a_cache_may_be_an_invalidation(
    call: Call, new_cache: NewCache, pair: list[Cache], method: str
) -> None:
    one, _ = pair
    one.set("k", 1)
    assert one.get("k") == 1
    assert call(new_cache(), method, "k").complete
    assert one.get("k") is None


def test_on_the_thread_of_an_event_loop_no_method_but_a_load_is_refused(cache: Cache) -> None:
    async def main() -> None:
        assert cache.set("k", 1, tags=("t",))
        assert cache.set_many({"l": 2})
        assert cache.get_many(["k", "l"]) == {"k": 1, "l": 2}
        assert cache.invalidate_tags("t").complete
        assert cache.get("k") is None
        assert cache.invalidate("l").complete
        assert cache.delete("l").complete
        assert cache.clear().complete

    asyncio.run(main())


def test_several_keys_go_at_once(call: Call, cache: Cache) -> None:
    cache.set_many({"a": 1, "b": 2, "c": 3})
    assert call(cache, "invalidate", "a", "b").complete
    assert cache.get_many("abc") == {"c": 3}
    assert call(cache, "invalidate") == Receipt((), (), True, 0.0)


def test_a_receipt_says_what_was_dropped_here(call: Call, cache: Cache) -> None:
    for key in "abc":
        for _ in range(3):
            cache.get_or_load(key, lambda: 1, tags=("t",))
    receipt = call(cache, "invalidate", "a", "b", "unknown")
    assert (receipt.processes, receipt.dropped) == (1, 2)
    assert call(cache, "invalidate", "a").dropped == 0
    assert call(cache, "invalidate_tags", "t").dropped == 0, "it is freed in the background"


def test_thousands_of_keys_go_at_once(call: Call, new_group: Any) -> None:
    one, other = new_group(2)
    numbers = [("number", n) for n in range(3000)]
    assert call(one, "set_many", dict.fromkeys(numbers, 1))
    assert len(other.get_many(numbers)) > 2900, "one may lose its marks to others"
    assert call(other, "invalidate", *numbers).complete
    assert call(one, "get_many", numbers) == call(other, "get_many", numbers) == {}


def test_tags(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    call(one, "set", "a", 1, tags=("red", "big"))
    call(one, "get_or_load", "b", lambda: 2, tags=["blue"])
    call(one.namespace("n"), "set", "c", 3, tags=(tag for tag in ("red", "red")))
    call(one, "set_many", {"d": 4}, tags={"green"})
    assert other.get_many("abd") == {"a": 1, "b": 2, "d": 4}
    assert call(other, "invalidate_tags", "red").complete
    assert one.get_many("abd") == other.get_many("abd") == {"b": 2, "d": 4}
    assert one.namespace("n").get("c") is None, "tags go through all namespaces"
    assert call(one, "invalidate_tags", "blue", "green").complete
    assert other.get_many("abd") == {}


def test_a_value_loaded_under_a_tag_that_is_invalidated_meanwhile_is_not_kept(call: Call, pair: list[Cache]) -> None:
    one, other = pair

    def load() -> str:
        elsewhere(lambda: other.invalidate_tags("red"))
        return "old"

    assert call(one, "get_or_load", "k", load, tags=("red",)) == "old"
    assert call(one, "get", "k") is call(other, "get", "k") is None


def test_a_value_that_is_set_while_an_older_one_is_loaded_is_what_later_readers_get(call: Call, cache: Cache) -> None:
    def load() -> str:
        cache.set("k", "new")
        return "old"

    assert call(cache, "get_or_load", "k", load) == "old"
    assert call(cache, "get", "k") == "new"


def test_a_value_loaded_while_its_key_is_invalidated_is_not_kept(call: Call, pair: list[Cache]) -> None:
    one, other = pair

    def load() -> str:
        elsewhere(lambda: other.invalidate("k"))
        return "old"

    assert call(one, "get_or_load", "k", load) == "old"
    assert call(one, "get", "k") is call(other, "get", "k") is None


@pytest.mark.parametrize(
    ("tags", "text"), [("red", r"write tags=\('red',\)"), ((1,), "a tag is a str, not int")], ids=repr
)
@pytest.mark.parametrize("method", ["set", "get_or_load"])
def test_what_is_no_tag_is_refused(cache: Cache, method: str, tags: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        getattr(cache, method)("k", never, tags=tags)
    if tags != "red":
        with pytest.raises(TypeError, match=text):
            cache.invalidate_tags(*tags)


LONG_TAGS = {
    "an empty one": (("fine", ""), "1 to 250 are allowed"),
    "a long one": (("fine", "ä" * 126), "takes 252 bytes"),
    "no UTF-8": (("fine", "\ud800"), "UTF-8 cannot carry"),
    "too many": (("fine", *map(str, range(64))), "it has 65 tags, more than 64"),
}


@pytest.mark.parametrize(("tags", "text"), LONG_TAGS.values(), ids=LONG_TAGS)
def test_a_value_whose_tags_cannot_all_be_kept_is_used_and_not_kept(
    call: Call, cache: Cache, caplog: pytest.LogCaptureFixture, tags: Any, text: str
) -> None:
    assert [call(cache, "get_or_load", "k", lambda n=n: n, tags=tags) for n in (1, 2)] == [1, 2]
    assert cache.set("k", "old")
    assert call(cache, "set", "k", "new", tags=tags) is call(cache, "set_many", {"k": "new"}, tags=tags) is False
    assert call(cache, "get", "k") is None, "the old value is gone all the same"
    assert call(cache, "add", "k", "new", tags=tags) is False
    assert call(cache, "incr", "n", initial=1, tags=tags) is None
    assert cache.stats().oversize == 6
    assert caplog.text.count("is used, and not kept") == 1
    assert text in caplog.text
    assert cache.set("n", 1)
    assert call(cache, "incr", "n", initial=1, tags=tags) == 2, "what is there is counted with all the same"


def test_a_tag_that_nothing_can_have_is_invalidated_beside_the_others(
    call: Call, cache: Cache, caplog: pytest.LogCaptureFixture
) -> None:
    assert cache.set("k", 1, tags=("fine",))
    assert call(cache, "invalidate_tags", "x" * 251).complete
    assert "a tag that no value can have: the tag 'xxx" in caplog.text
    assert cache.get("k") == 1
    assert call(cache, "invalidate_tags", "x" * 251, "fine", "").complete
    assert cache.get("k") is None


def test_as_many_tags_as_allowed_fit_beside_the_largest_value(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    tags = tuple(f"{n:->250}" for n in range(MAX_TAGS))
    value = b"x" * (MAX_VALUE - 16)
    assert call(one, "get_or_load", "k", lambda: value, tags=tags) == value
    assert call(other, "get_or_load", "k", never) == value
    assert call(one, "set", "k", value, tags=tags)
    assert call(other, "get", "k") == value
    assert one.stats().oversize == other.stats().oversize == 0
    assert one.invalidate_tags(tags[-1]).complete
    assert call(other, "get", "k") is call(one, "get", "k") is None


def test_a_value_that_the_shelf_cannot_take_is_used_and_not_kept(
    call: Call, new_group: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The smallest shelves take no values of a megabyte."""
    one, other = new_group(2, shelf="1MiB")
    value = b"x" * 500_000
    assert one.set("set", "old")
    assert other.get("set") == "old"
    assert call(one, "set", "set", value) is False
    assert other.get("set") is one.get("set") is None, "the old value is gone all the same"
    assert call(one, "add", "added", value) is False
    load, calls = counted(value)
    assert [call(one, "get_or_load", "loaded", load) for _ in range(2)] == [value] * 2
    assert len(calls) == 2
    assert call(other, "get_many", ["added", "loaded"]) == call(one, "get_many", ["added", "loaded"]) == {}
    assert one.stats().oversize == 4
    assert "more than the 131072 that a shelf of this size takes" in caplog.text
    assert call(one, "get_or_load", "smaller", lambda: value[:100_000]) == value[:100_000]
    assert call(other, "get", "smaller") == value[:100_000]


@pytest.mark.parametrize("wait", [True, False, 5, 0, 0.0, 5.0, float("inf"), "response"])
@pytest.mark.parametrize("method", ["invalidate", "delete", "invalidate_tags", "clear"])
def test_an_invalidation_is_complete_whether_it_is_to_wait_or_not(
    call: Call, pair: list[Cache], wait: Any, method: str
) -> None:
    one, other = pair
    one.set("k", "old", tags=("k",))
    assert other.get("k") == "old"
    names = () if method == "clear" else ("k",)
    receipt = call(one, method, *names, wait=wait, strict=wait != "response")
    assert (receipt.acknowledged, receipt.waited_out, receipt.complete) == ((), (), True)
    assert other.get("k") is one.get("k") is None


@pytest.mark.parametrize("wait", [-1, float("nan"), float("-inf")])
@pytest.mark.parametrize("method", ["invalidate", "delete", "invalidate_tags"])
def test_a_wait_that_says_nothing_is_refused(call: Call, cache: Cache, method: str, wait: float) -> None:
    with pytest.raises(ValueError, match=r"^wait=.*give True, False or a number of seconds"):
        call(cache, method, "k", wait=wait)
    assert cache.set("k", 1), "the member has to be alive"


@pytest.mark.parametrize("wait", [None, "5", "all"])
def test_a_wait_of_a_wrong_type_is_refused(call: Call, cache: Cache, wait: Any) -> None:
    with pytest.raises(TypeError, match="wait is True, False or a number of seconds"):
        call(cache, "clear", wait=wait)


@pytest.mark.parametrize("method", ["invalidate", "delete", "invalidate_tags", "clear"])
def test_who_cannot_join_gives_an_incomplete_receipt_which_is_logged_and_counted(
    call: Call, cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    refuse_to_let_in(monkeypatch)
    names = () if method == "clear" else ("k",)
    receipt = call(cache, method, *names)
    assert (receipt.acknowledged, receipt.waited_out, receipt.complete) == ((), (), False)
    assert "an invalidation is not complete, because this process is not on its host" in caplog.text
    assert cache.stats().incomplete == 1
    with pytest.raises(InvalidationIncomplete) as raised:
        call(cache, method, *names, strict=True)
    assert not raised.value.receipt.complete
    assert (cache.stats().invalidations, cache.stats().incomplete) == (2, 2)


def refuse_to_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the host let nobody in."""

    def refuse(*_: object) -> Host:
        raise OSError("there is no room")

    monkeypatch.setattr(Host, "join", refuse)
    monkeypatch.setattr(Host, "private", refuse)


def test_who_cannot_join_loads_each_time_and_finds_nothing(
    call: Call, cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_to_let_in(monkeypatch)
    load, calls = counted("v")
    assert [call(cache, "get_or_load", "k", load) for _ in range(3)] == ["v"] * 3
    assert len(calls) == 3
    assert call(cache, "get", "k", GONE) is GONE
    assert call(cache, "get_many", ["k"]) == {}
    stats = cache.stats()
    assert (stats.loads, stats.fallbacks, stats.misses, stats.fills, stats.processes) == (3, 3, 2, 0, 0)
    assert caplog.text.count("cannot join, caches nothing, and tries again every second: OSError: there is no room") > 0
    with pytest.raises(OSError, match="there is no room"):
        cache.start()
    monkeypatch.undo()
    cache.start()
    assert call(cache, "get_or_load", "k", load) == call(cache, "get", "k") == "v"


def test_a_set_that_waits_for_all_returns_when_nobody_serves_the_old_value(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    for reader, writer in ((one, other), (other, one)):
        writer.set("k", "old")
        assert reader.get("k") == "old"
        assert call(writer, "set", "k", "new", wait="all") is True
        assert reader.get("k") == "new"


def test_a_set_that_nobody_hears_of_is_logged_and_counted(
    call: Call, cache: Cache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    refuse_to_let_in(monkeypatch)
    assert call(cache, "set", "k", "new") is False
    assert call(cache, "set_many", {"k": "new"}) is False
    assert "a value is not set, and the old one not invalidated, because this process is not on its host" in caplog.text
    assert (cache.stats().sets, cache.stats().incomplete) == (0, 2)


def test_a_write_that_gets_no_lock_stores_nothing_and_what_cannot_be_stored_is_served_all_the_same(
    call: Call, pair: list[Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when another process was stopped while it held the lock."""
    one, other = pair
    one.set_many({"set": 1, "n": 1, "left": 1})
    assert other.get_many(["set", "n", "left"]) == {"set": 1, "n": 1, "left": 1}
    with monkeypatch.context() as patch:
        patch.setattr(host_of(one).shelf, "_locks", Stuck())
        assert call(one, "set", "set", 2) is False
        assert other.get("set") is None, "the old value is gone all the same"
        assert call(one, "add", "added", 2) is False
        assert call(one, "incr", "n") is None
        assert call(one, "touch", "n", 0) is False
        assert call(one, "cas", "n", 2, one.gets("n")[1]) is False  # type: ignore[index]
        assert other.get_many(["n", "left"]) == {"n": 1, "left": 1}, "nothing has happened to them"
        assert call(one, "get_or_load", "k", lambda: "loaded") == "loaded"
        assert call(one, "get_or_load", "k", never) == "loaded"
        assert call(one, "invalidate", "k", "n").complete, "this needs no lock"
        assert one.get("k") is other.get("n") is None
    assert (one.stats().busy, one.stats().sets, one.stats().fills) == (6, 3, 0)
    assert call(one, "incr", "n", initial=0) == 1


class Stuck:
    """Locks that somebody else has."""

    def lock(self, ring: int) -> bool:
        return False

    def unlock(self, ring: int) -> None:
        """Do nothing, as for whoever has not got the lock."""


def test_a_set_waits_for_nothing_that_it_does_not_know(call: Call, cache: Cache) -> None:
    with pytest.raises(ValueError, match="wait is 'stored' or 'all', not True"):
        call(cache, "set", "k", 1, wait=True)


# --- Namespaces


def test_namespaces_hold_their_keys_apart(call: Call, cache: Cache) -> None:
    users, orders = cache.namespace("users"), cache.namespace("orders")
    for space, value in ((cache, 0), (users, 1), (orders, 2), (users.namespace("old"), 3)):
        call(space, "set", "k", value)
    assert [call(space, "get", "k") for space in (cache, users, orders)] == [0, 1, 2]
    assert call(cache.namespace("users"), "get", "k") == 1, "the same name is the same namespace"
    assert call(cache.namespace("users/old"), "get", "k") == 3
    assert call(users, "get_many", ["k"]) == {"k": 1}
    call(users, "invalidate", "k")
    assert [call(space, "get", "k") for space in (cache, users, orders)] == [0, None, 2]


def test_clearing_takes_a_space_and_all_below_it(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    paths = ["a", "a/b", "a/b/c", "ab", "b"]

    def there() -> list[str]:
        return [path for path in paths if other.namespace(path).get("k") and one.namespace(path).get("k")]

    for path in paths:
        one.namespace(path).set("k", path)
    assert there() == paths
    assert call(other.namespace("a").namespace("b"), "clear").complete
    assert there() == ["a", "ab", "b"]
    assert call(one.namespace("a"), "clear").complete
    assert there() == ["ab", "b"]
    assert call(one, "clear").complete
    assert there() == []


@pytest.mark.parametrize("name", ["", "/", "/a", "a/", None, 1, b"a"])
def test_a_namespace_without_a_proper_name_is_refused(cache: Cache, name: Any) -> None:
    with pytest.raises(ValueError, match="a namespace is a non-empty text"):
        cache.namespace(name)


def test_a_namespace_whose_path_is_too_long_is_refused(cache: Cache) -> None:
    with pytest.raises(ValueError, match="takes 201 bytes: give it a name of at most 200"):
        cache.namespace("x" * 100).namespace("y" * 100)


# --- Copies


def test_readers_of_a_copying_space_may_change_what_they_get(call: Call, pair: list[Cache]) -> None:
    spaces = [cache.namespace("n", copy=True) for cache in pair]
    for space in spaces:
        call(space, "get_or_load", "k", lambda: {"list": [1]})["list"].append("mine")
        call(space, "get", "k")["list"].append("mine")
        call(space, "get_many", ["k"])["k"]["list"].append("mine")
        assert call(space, "get", "k") == {"list": [1]}
    assert pair[0].stats().loads + pair[1].stats().loads == 1


def test_readers_of_a_copying_space_share_no_load_either(new_cache: NewCache, crew: Crew, until: Until) -> None:
    cache = new_cache(copy=True)
    go_on = threading.Event()

    def load() -> list[int]:
        go_on.wait(30)
        return [1]

    cache.start()
    crew.start(lambda: cache.get_or_load("k", load), times=4)
    until(lambda: waiting(cache) == 3)
    go_on.set()
    results = crew.join()
    assert cache.stats().waits == 3
    assert results == [[1]] * 4
    assert len(set(map(id, results))) == 4


def test_readers_of_a_copying_space_share_not_even_what_is_too_large_to_be_kept(
    new_cache: NewCache, crew: Crew, until: Until
) -> None:
    cache = new_cache(copy=True)
    go_on, large = threading.Event(), "x" * 2_000_000

    def load() -> list[str]:
        go_on.wait(30)
        return [large]

    cache.start()
    crew.start(lambda: cache.get_or_load("k", load), times=4)
    until(lambda: waiting(cache) == 3)
    go_on.set()
    results = crew.join()
    assert cache.stats().waits == 3
    assert results == [[large]] * 4
    assert len(set(map(id, results))) == 4


def test_what_its_loader_does_to_a_large_value_later_does_not_reach_who_waited_for_it(
    new_cache: NewCache, crew: Crew
) -> None:
    """1. A reader waits; 2. the leader's load ends, and its caller changes the value; 3. the reader takes it up."""
    cache = new_cache(copy=True)
    leader, waiter = (
        get_or_load(cache._keyspace, "k", lambda: ["x" * 2_000_000], cache._keyspace.given(60, ())) for _ in range(2)
    )
    load, answer = next(leader), Answer()
    crew.start(lambda: next(waiter))  # in its own thread, it would not wait
    sleep = crew.join()[0]
    assert isinstance(load, Run)
    assert isinstance(sleep, Sleep)
    sleep.register(answer.give)
    mine = load.call()
    load.succeed(mine)
    with pytest.raises(StopIteration) as ended:
        leader.send(mine)
    assert ended.value.value is mine
    mine.append("changed")
    with pytest.raises(StopIteration) as ended:
        waiter.send(answer.result(30))
    assert ended.value.value == ["x" * 2_000_000]


def test_copying_is_inherited_and_can_be_overruled(new_cache: NewCache) -> None:
    cache = new_cache(copy=True)
    assert cache.namespace("copies")._keyspace.copies
    shared = cache.namespace("shared", copy=False)
    shared.set("k", [1])
    assert shared.get("k") == [1]
    assert shared.get("k") is shared.get("k")
    cache.set("k", [1])
    copies = [cache.get("k") for _ in range(4)]
    assert copies == [[1]] * 4
    assert len(set(map(id, copies))) == 4


def test_one_namespace_cannot_be_both(cache: Cache) -> None:
    """Its readers find the same entries: one that wants copies would get objects that others share."""
    cache.namespace("n")
    with pytest.raises(ValueError, match=r"'n' cannot have copy=True: it is in use with copy=False"):
        cache.namespace("n", copy=True)


def test_who_does_not_say_whether_to_copy_gets_what_the_namespace_does(cache: Cache) -> None:
    cache.namespace("n", copy=True).set("k", [1])
    again = cache.namespace("n")
    again.get("k").append(2)
    assert again.get("k") == [1]


@pytest.mark.parametrize("copy", ["always", 1, ""])
def test_copy_is_a_bool(cache: Cache, new_cache: NewCache, copy: Any) -> None:
    with pytest.raises(TypeError, match="copy is True or False, not"):
        cache.namespace("n", copy=copy)
    with pytest.raises(TypeError, match="copy is True or False, not"):
        new_cache(copy=copy)


# --- With another cache of the group


def test_what_one_has_loaded_the_other_takes_from_the_shelf_and_keeps(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    call(one, "get_or_load", "k", lambda: "loaded")
    assert call(other, "get_or_load", "k", never) == "loaded"
    assert other.stats().entries == 0
    assert call(other, "get_or_load", "k", never) == "loaded"
    assert call(other, "get", "k") == "loaded"
    assert call(one, "get", "k") == "loaded"
    mine, yours = one.stats(), other.stats()
    assert (mine.loads, mine.fills, mine.fetches, mine.entries, mine.hits) == (1, 1, 0, 1, 1)
    assert (yours.loads, yours.fills, yours.fetches, yours.entries, yours.hits) == (0, 0, 2, 1, 1)
    assert mine.shelf_entries == yours.shelf_entries == 1


def test_what_one_has_set_all_find(call: Call, new_group: Any) -> None:
    caches = new_group(3)
    values = {f"k{number}": number for number in range(6)}
    assert call(caches[0], "set_many", values)
    for cache, finds in zip(caches, (2, 1, 1), strict=True):  # until they are near, because the first one finds them
        assert call(cache, "get_many", [*values, "nobody's"]) == values
        for _ in range(finds):
            assert call(cache, "get_many", values) == values
        assert (cache.stats().fetches, cache.stats().hits, cache.stats().misses) == (6 * finds, 6, 1)


def test_one_load_in_the_whole_group(call: Call, pair: list[Cache], crew: Crew, until: Until) -> None:
    go_on = threading.Event()
    calls: list[int] = []

    def load() -> str:
        calls.append(1)
        go_on.wait(30)
        return "once"

    for cache in pair:
        crew.start(lambda cache=cache: call(cache, "get_or_load", "k", load), times=4)
    until(lambda: waiting(pair[0]) == 7)
    go_on.set()
    assert crew.join() == ["once"] * 8
    assert calls == [1]
    assert sum(cache.stats().waits for cache in pair) == 7


def test_who_asks_after_an_invalidation_does_not_wait_for_a_load_that_began_before(
    call: Call, pair: list[Cache], crew: Crew, until: Until
) -> None:
    one, other = pair
    loading, go_on = threading.Event(), threading.Event()

    def load() -> str:
        loading.set()
        go_on.wait(30)
        return "old"

    crew.start(lambda: call(one, "get_or_load", "k", load))
    assert loading.wait(30)
    assert other.invalidate("k").complete
    assert call(other, "get_or_load", "k", lambda: "new") == "new"
    go_on.set()
    assert crew.join() == ["old"]
    assert call(one, "get", "k") == call(other, "get", "k") == "new"


# --- What it shows


def test_members(pair: list[Cache]) -> None:
    """The caches of one process that belong to one group are one member."""
    one, other = pair
    rows = one.members()
    assert rows == other.members() == [member(0, os.getpid(), True)]
    assert one.stats().processes == 1


@pytest.mark.in_a_group
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_each_process_sees_itself_first(ready: Cache, until: Until) -> None:
    here, there = os.pipe()
    child = os.fork()
    if not child:
        try:
            ready.start()
            os.write(there, json.dumps([ready.stats().processes, *ready.members()], default=shown).encode())
            signal.alarm(60)  # in case that nobody kills it
            signal.pause()
        finally:
            os._exit(1)
    try:
        assert select.select([here], [], [], 30)[0], "the child hangs"
        mine, yours = member(0, os.getpid(), True), member(1, child, True)
        assert json.loads(os.read(here, 65536)) == [2, shown(yours), shown(mine) | {"me": False}]
        assert list(map(shown, ready.members())) == [shown(mine), shown(yours) | {"me": False}]
        assert ready.stats().processes == 2
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(here)
        os.close(there)
    until(lambda: ready.members() == [mine])


def member(seat: int, pid: int, me: bool) -> MemberInfo:
    return MemberInfo(seat, pid, "peer", me, version=colocache.__version__)


def shown(row: MemberInfo) -> dict[str, object]:
    """Return a row as JSON has it."""
    return {"seat": row.seat, "pid": row.pid, "role": row.role, "me": row.me}


def test_who_is_private_is_its_only_member(new_cache: NewCache) -> None:
    cache = new_cache(private=True)
    cache.start()
    assert [(row.pid, row.role, row.me) for row in cache.members()] == [(os.getpid(), "private", True)]


def test_before_the_first_use_there_is_nothing_to_show(cache: Cache, run_dir: str) -> None:
    assert cache.members() == []
    assert cache.stats() == Stats()
    assert os.listdir(run_dir) == []
    assert threads() == []


def test_stats_add_up(pair: list[Cache]) -> None:
    one, other = pair
    for key in ("a", "b"):
        one.get_or_load(key, lambda: "v")
        one.get_or_load(key, never)
    one.get("nothing")
    one.set("b", "w")
    assert other.get("b") == other.get("b") == other.get("b") == "w"
    with pytest.raises(LookupError):
        one.get_or_load("c", failing)
    assert one.incr("nothing") is None
    stats = one.stats()
    assert (stats.loads, stats.failed_loads, stats.misses, stats.fills, stats.fallbacks) == (3, 1, 1, 2, 0)
    assert (stats.hits, stats.fetches, stats.waits, stats.sets, stats.sets_refused) == (2, 0, 0, 1, 1)
    assert (stats.shelf_entries, other.stats().shelf_entries) == (2, 2)
    assert stats.shelf_bytes == other.stats().shelf_bytes > 0
    yours = other.stats()
    assert (yours.loads, yours.fills, yours.sets, yours.fetches, yours.hits, yours.entries) == (0, 0, 0, 2, 1, 1)
    assert stats.entries == 1, "the near copy of what was set is gone"
    assert stats.bytes > 0


def failing() -> None:
    raise LookupError


def test_near_copies_that_leave_for_others_are_counted_and_their_hits_stay(call: Call, new_cache: NewCache) -> None:
    cache = new_cache(memory="1MiB")
    value = b"x" * 100_000
    for number in range(50):
        assert call(cache, "get_or_load", ("k", number), lambda: value) == value
        assert call(cache, "get", ("k", number)) == value
    stats = cache.stats()
    assert stats.hits == 50
    assert 40 <= stats.evictions == 50 - stats.entries
    assert 0 < stats.bytes <= 1 << 20


@pytest.fixture
def often_switching() -> Iterator[None]:
    """Have threads take turns as often as Python lets them."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often_switching")
def test_counting_from_many_threads_loses_nothing(cache: Cache, crew: Crew) -> None:
    cache.start()
    cache.set("k", "v")
    space = cache.namespace("copies", copy=True)  # nothing is near there
    space.set("k", "v")
    keys = [("nobody", n) for n in range(300)]
    crew.start(lambda: [cache.get(key) for key in keys], times=4)
    crew.start(lambda: [space.get("k") for _ in keys], times=4)
    crew.start(lambda: [space.get_many(["k"]) for _ in keys], times=4)
    crew.start(lambda: [cache.incr("n", initial=0) for _ in keys], times=4)
    crew.join()
    stats = cache.stats()
    counted = stats.sets + stats.busy  # those, too, that found the ring locked for too long
    assert (stats.misses, stats.fetches, counted) == (1200, 2400, 1202)


def test_a_cache_shows_its_group(new_cache: NewCache) -> None:
    cache = new_cache("shop")
    assert repr(cache) == "<colocache.Cache 'shop'>"
    cache.close()
    assert repr(cache) == "<colocache.Cache 'shop' closed>"


# --- Its life


def test_the_group_can_be_given_by_a_variable(monkeypatch: pytest.MonkeyPatch, run_dir: str) -> None:
    with pytest.raises(ConfigError, match="the cache has no group"):
        Cache()
    monkeypatch.setenv("COLOCACHE_GROUP", "from-outside")
    with Cache() as cache:
        assert cache.config.group == "from-outside"
        assert cache.set("k", 1)
        assert sorted(os.listdir(run_dir)) == ["from-outside"]


def test_groups_are_apart(call: Call, new_cache: NewCache) -> None:
    shop, forum = new_cache("shop"), new_cache("forum")
    call(shop, "set", "k", "shop's")
    assert call(forum, "get", "k") is None
    assert len(shop.members()) == len(forum.members()) == 1


def test_starting_joins_and_may_be_repeated(cache: Cache) -> None:
    cache.start()
    host = host_of(cache)
    cache.start()
    assert host_of(cache) is host


def test_starting_a_cache_that_is_off_does_nothing(new_cache: NewCache) -> None:
    cache = new_cache(disabled=True)
    cache.start()
    assert cache.members() == []


@pytest.mark.in_a_group
def test_many_threads_join_once(cache: Cache, crew: Crew, until: Until) -> None:
    crew.start(lambda: cache.set("k", 1), times=8)
    assert crew.join() == [True] * 8
    assert len(cache.members()) == 1
    until(threads)
    assert len(threads()) == 1


USES: list[tuple[str, tuple[Any, ...]]] = [
    ("get", ("k",)),
    ("get_or_load", ("k", never)),
    ("get_many", (["k"],)),
    ("set", ("k", 1)),
    ("set_many", ({"k": 1},)),
    ("invalidate", ("k",)),
    ("delete", ("k",)),
    ("invalidate_tags", ("t",)),
    ("clear", ()),
]


@pytest.mark.parametrize("used", [True, False], ids=["used", "fresh"])
@pytest.mark.parametrize(("method", "arguments"), USES)
def test_using_a_closed_cache_is_an_error(
    call: Call, new_cache: NewCache, used: bool, method: str, arguments: tuple[Any, ...]
) -> None:
    cache = new_cache()
    if used:
        cache.set("k", "hit")
        assert cache.get("k") == "hit"
    cache.close()
    for space in (cache, cache.namespace("n")):
        with pytest.raises(ClosedError, match="'test' closed> is closed; make a new one"):
            call(space, method, *arguments)


def test_a_closed_cache_cannot_be_started(cache: Cache) -> None:
    cache.close()
    with pytest.raises(ClosedError):
        cache.start()


def test_a_closed_cache_shows_that_it_is_in_no_group(cache: Cache) -> None:
    cache.set("k", 1)
    cache.close()
    assert cache.members() == []
    assert cache.stats().processes == 0
    assert cache.position() == ""


def test_closing_twice_and_at_once_is_harmless(cache: Cache, crew: Crew) -> None:
    cache.set("k", 1)
    crew.start(cache.close, times=4)
    assert crew.join() == [None] * 4
    cache.close()


def test_closing_what_was_never_used_is_harmless(cache: Cache, run_dir: str) -> None:
    cache.close()
    assert os.listdir(run_dir) == []


def test_a_context_manager_closes(run_dir: str) -> None:
    with Cache("test") as cache:
        cache.set("k", 1)
    with pytest.raises(ClosedError):
        cache.get("k")
    assert not os.path.exists(f"{run_dir}/test")
    assert threads() == []


def test_what_a_cache_has_stored_outlives_it(call: Call, pair: list[Cache], new_cache: NewCache) -> None:
    one, other = pair
    call(other, "set", "k", "kept")
    call(other, "get_or_load", "l", lambda: "loaded")
    other.close()
    assert call(one, "get_many", ["k", "l"]) == {"k": "kept", "l": "loaded"}
    assert call(new_cache(), "get_or_load", "l", never) == "loaded"


def test_what_is_cached_goes_with_the_last_cache(call: Call, cache: Cache) -> None:
    cache.set("k", 1)
    assert cache.get("k") == 1
    cache.leave()
    assert call(cache, "get", "k") is None


def test_a_reader_whose_cache_is_closed_meanwhile_loads_for_itself(
    call: Call, cache: Cache, crew: Crew, until: Until
) -> None:
    """It does not take the other's value: whether that is still current, nobody tells this process any more."""
    loading, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        loading.set()
        go_on.wait(30)
        return "leader's"

    cache.start()
    crew.start(lambda: cache.get_or_load("k", slow))
    loading.wait(30)
    crew.start(lambda: call(cache, "get_or_load", "k", lambda: "mine"))
    until(lambda: waiting(cache) == 1)
    cache.close()
    go_on.set()
    assert sorted(crew.join()) == ["leader's", "mine"]
    assert (cache.stats().loads, cache.stats().fallbacks) == (2, 1)


def test_what_was_invalidated_just_before_the_end_is_invalidated(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    one.set("k", "old")
    assert other.get("k") == "old"
    call(one, "invalidate", "k", wait=False)
    one.close()
    assert other.get("k") is None


@pytest.mark.in_a_group
def test_a_cache_that_is_dropped_without_a_close_leaves_the_group(run_dir: str, until: Until) -> None:
    dropped = Cache("test")
    dropped.set("k", 1)
    assert os.path.exists(f"{run_dir}/test")
    until(lambda: len(threads()) == 1)
    del dropped
    gc.collect()
    until(lambda: not os.path.exists(f"{run_dir}/test"))
    until(lambda: threads() == [])


@pytest.mark.in_a_group
def test_a_cache_that_is_dropped_takes_nothing_from_another_one(ready: Cache, until: Until) -> None:
    dropped = Cache("test")
    dropped.set("k", 1)
    host = weakref.ref(host_of(dropped))
    del dropped
    gc.collect()
    until(lambda: host() is None)
    assert ready.get("k") == 1
    assert len(threads()) == 1


# --- What is kept of names


def _names_kept(cache: Cache) -> int:
    """How many namespaces and near copies are in the tables of a cache."""
    near_caches, host = cache._member.near_caches, cache._member.own_host()
    tables: list[Any] = [near_caches._homes, near_caches._modes, near_caches._all]
    return sum(map(len, tables)) + (host.keeper.store.size()[0] if host is not None else 0)


def test_nothing_is_kept_of_namespaces_and_tags_that_nobody_uses_any_more(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    monkeypatch.setattr(colocache.near_cache, "MAX_MODES", 20)
    monkeypatch.setattr(colocache.host, "SWEEP_EVERY", 0.0)
    cache.start()
    before = _names_kept(cache)
    for number in range(1000):
        tenant = cache.namespace(f"tenant {number}")
        assert tenant.get_or_load("k", lambda: 1, tags=(f"tag {number}",)) == tenant.get("k") == 1
        if number % 100 == 99:
            cache.clear()
    del tenant
    gc.collect()
    until(lambda: _names_kept(cache) <= before + 20)


@pytest.mark.in_a_group
def test_the_memory_of_what_was_cleared_is_freed_also_after_the_last_of_many_calls(
    cache: Cache, monkeypatch: pytest.MonkeyPatch, until: Until
) -> None:
    """Calls that come one after the other do not each look at all that is near."""
    monkeypatch.setattr(colocache.host, "SWEEP_EVERY", 1000.0)
    for _ in range(2):
        cache.get_or_load("k", lambda: 1)
        cache.clear()
    until(lambda: cache.stats().entries <= 1)
    monkeypatch.setattr(colocache.host, "SWEEP_EVERY", 0.0)
    host_of(cache)._shared._tick()  # as the bus does every 30 s
    until(lambda: cache.stats().entries == 0)


def test_what_is_kept_of_namespaces_is_bounded_before_the_cache_has_joined_too(
    new_cache: NewCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colocache.near_cache, "MAX_MODES", 20)
    cache = new_cache(disabled=True)
    for number in range(1000):
        cache.namespace(f"tenant {number}").get_or_load("k", lambda: 1)
    gc.collect()
    assert _names_kept(cache) <= 25


def test_a_value_is_found_at_once_by_a_reader_who_comes_when_nobody_holds_the_namespace(cache: Cache) -> None:
    """As where every request makes its namespace anew."""
    assert cache.namespace("tenant").get_or_load("k", lambda: "v") == "v"
    gc.collect()
    before = cache.stats().hits
    again = cache.namespace("tenant")
    assert again._keyspace.near[0]["k"].value == again.get("k") == "v"
    assert cache.stats().hits == before + 1


def test_all_who_read_a_namespace_find_what_any_of_them_has_loaded_whenever_they_came(
    new_cache: NewCache, crew: Crew
) -> None:
    """A namespace that is forgotten and used again at the same moment must not get two homes."""
    cache, stop = new_cache(), threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            cache.namespace("tenant").get("nothing")

    crew.start(come_and_go, 3)
    for number in range(200):
        one, other = cache.namespace("tenant"), cache.namespace("tenant")
        one.get_or_load(("k", number), lambda number=number: number)  # type: ignore[misc]
        assert one._keyspace.home is other._keyspace.home
        if number % 50 == 49:
            cache.leave()
        assert one._keyspace.home is other._keyspace.home
        one.invalidate(("k", number))
    stop.set()
    crew.join()


def test_what_is_loaded_for_a_member_that_has_left_is_not_shown_to_readers_of_the_next(cache: Cache) -> None:
    space = cache.namespace("n")

    def load() -> str:
        cache.leave()
        cache.start()
        return "of the old member"

    assert space.get_or_load("k", load) == "of the old member"
    assert space._keyspace.near[0] == {}
    assert space.get("k") is None


def test_the_figures_of_a_function_outlive_its_entries(cache: Cache) -> None:
    @cache.cached()
    def double(number: int) -> int:
        return 2 * number

    for _ in range(3):
        for _ in range(5):
            double(1)
        double.invalidate(1)
    assert double.cache_info().hits == 12
