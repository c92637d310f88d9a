"""What a user holds: every method of a cache, in both of its forms, alone and with a peer."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

import colocache.operations.keyspace
import colocache.operations.load
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
from colocache.core import keys
from colocache.core.entry import Entry
from colocache.core.gate import Gate
from colocache.near_cache import NearCache, NearCaches
from colocache.operations.load import get_or_load
from colocache.stats import Counters
from tests.loaders import counted, elsewhere, never

if TYPE_CHECKING:
    from tests.conftest import Call, Crew, NewCache, Until

GONE = object()


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
    assert call(cache, "get", "k") is call(cache, "get", "k") is call(cache, "get_or_load", "k", never)
    assert cache.stats().shard_hits >= 2


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


def test_many_are_read_and_written_at_once(call: Call, cache: Cache) -> None:
    assert call(cache, "set_many", {"a": 1, ("b", 2): None, "c": "three"})
    assert call(cache, "get_many", ["a", ("b", 2), "c", "d"]) == {"a": 1, ("b", 2): None, "c": "three"}
    assert call(cache, "get_many", iter(["a"])) == {"a": 1}
    assert call(cache, "get_many", []) == {}
    assert call(cache, "set_many", {}) is True
    assert cache.stats().misses == 1


# --- Time to live


class Clock:
    """A clock that the readers of this process go by. The driver's thread has its own, which may only be slower."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return self._real() + self.ahead

    _real = staticmethod(colocache.operations.keyspace.monotonic)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, cache: Cache) -> Clock:
    cache.start()
    clock = Clock()
    monkeypatch.setattr(colocache.operations.keyspace, "monotonic", clock)
    cache._keyspace.gate = Gate()
    cache._keyspace.gate.current_until = float("inf")  # the driver's gate would be closed to a clock that is ahead
    return clock


def left(space: Any, key: Any) -> float:
    """In how many seconds the entry of a key ends, by what its readers look at."""
    space.get(key)  # so that the entry can be found by its key
    entry: Entry = space._keyspace.entries[key]
    return entry.expires - colocache.operations.keyspace.monotonic()


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
    assert call(cache, "get", "k") == 1
    assert cache._keyspace.hit("k") == 1
    clock.ahead = 59.0
    assert cache._keyspace.hit("k") == 1
    clock.ahead = 61.0
    assert cache._keyspace.hit("k") is MISSING


def test_what_has_expired_is_loaded_again_and_leaves_the_memory(
    call: Call, pair: list[Cache], key_of: Callable[..., str], until: Until
) -> None:
    one, other = pair
    key = key_of(one)
    for cache in (one, other):
        assert call(cache, "get_or_load", key, lambda: "first", ttl="50ms") == "first"
    until(lambda: call(other, "get", key) is None and call(one, "get", key) is None)
    until(lambda: one.stats().entries == other.stats().entries == 0)
    load, calls = counted("second")
    assert call(other, "get_or_load", key, load) == "second"
    assert calls == ["second"]


# --- Invalidation


@pytest.mark.parametrize("method", ["invalidate", "delete"])
def test_invalidating_takes_a_value_away_everywhere(call: Call, pair: list[Cache], method: str) -> None:
    one, other = pair
    for cache in pair:
        assert cache.get_or_load("k", lambda: "old") == "old"
    receipt = call(one, method, "k")
    assert isinstance(receipt, Receipt)
    assert receipt.complete
    assert receipt.acknowledged == (other.members()[0].seat,)
    assert receipt.waited_out == ()
    assert 0 <= receipt.seconds < one.config.lease
    assert call(one, "get", "k") is call(other, "get", "k") is None
    assert one.stats().invalidations == 1


def test_what_a_loader_is_served_while_behind_counts_for_the_age_of_what_it_makes(
    call: Call, cache: Cache, until: Until, monkeypatch: pytest.MonkeyPatch
) -> None:
    call(cache, "get_or_load", "part", lambda: "part")
    until(lambda: "part" in cache._keyspace.entries)
    entry = cache._keyspace.entries["part"]
    reports: list[Any] = []
    load = colocache.operations.load
    original = load.Loaded
    monkeypatch.setattr(load, "Loaded", lambda *fields: reports.append(original(*fields)) or reports[-1])
    call(cache, "get_or_load", "page", lambda: cache.get("part"))
    behind = Gate()
    behind.max_stale = 60.0
    cache._keyspace.gate = behind
    call(cache, "get_or_load", "other page", lambda: cache.get("part"))
    assert [report.value for report in reports] == ["part", "part"]
    assert [report.oldest for report in reports] == [math.inf, entry.loaded_at]


def test_several_keys_go_at_once(call: Call, cache: Cache) -> None:
    cache.set_many({"a": 1, "b": 2, "c": 3})
    assert call(cache, "invalidate", "a", "b").complete
    assert cache.get_many("abc") == {"c": 3}
    assert call(cache, "invalidate") == Receipt((), (), True, 0.0)


def test_thousands_of_keys_go_at_once(call: Call, new_group: Any) -> None:
    one, other = new_group(2, fetch_timeout=20)
    numbers = [("number", n) for n in range(3000)]
    assert call(one, "set_many", dict.fromkeys(numbers, 1))
    assert len(other.get_many(numbers)) == 3000
    assert call(other, "invalidate", *numbers).complete
    assert call(one, "get_many", numbers) == call(other, "get_many", numbers) == {}


def test_tags(call: Call, pair: list[Cache], until: Until) -> None:
    one, other = pair
    call(one, "set", "a", 1, tags=("red", "big"))
    call(one, "get_or_load", "b", lambda: 2, tags=["blue"])
    call(one.namespace("n"), "set", "c", 3, tags=(tag for tag in ("red", "red")))
    call(one, "set_many", {"d": 4}, tags={"green"})
    until(lambda: other.get("b") == 2)  # the fill is on its way when the load's call returns
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


def test_as_many_tags_as_allowed_travel_with_the_largest_value(pair: list[Cache], key_of: Callable[..., str]) -> None:
    """A frame that is too long for its receiver costs the connection, so this has to fit in one."""
    one, other = pair
    tags = tuple(f"{n:->250}" for n in range(64))
    key = key_of(other)
    value = b"x" * (colocache.core.group.messages.MAX_VALUE - 16)
    assert one.get_or_load(key, lambda: value, tags=tags) == value
    assert other.get_or_load(key, never) == value
    assert one.set(key, value, tags=tags)
    assert one.get(key) == value
    assert other.stats().frames_refused == one.stats().frames_refused == 0
    assert one.invalidate_tags(tags[-1]).complete
    assert other.get(key) is None


@pytest.mark.parametrize("wait", [True, 5, 5.0, float("inf")])
def test_an_invalidation_waits_for_everybody(call: Call, pair: list[Cache], wait: Any) -> None:
    receipt = call(pair[0], "invalidate", "k", wait=wait, strict=True)
    assert receipt.complete
    assert len(receipt.acknowledged) == 1


@pytest.mark.parametrize("wait", [False, 0, 0.0])
def test_an_invalidation_that_does_not_wait_is_followed_all_the_same(
    call: Call, pair: list[Cache], until: Until, wait: Any
) -> None:
    one, other = pair
    one.set("k", "old")
    assert other.get("k") == "old"
    receipt = call(one, "invalidate", "k", wait=wait, strict=True)
    assert (receipt.acknowledged, receipt.complete) == ((), False)
    assert one.get("k") is None, "one reads one's own writes"
    until(lambda: other.get("k") is None)


def test_who_is_alone_needs_not_wait(call: Call, cache: Cache) -> None:
    cache.start()
    assert call(cache, "invalidate", "k", wait=False).complete
    assert call(cache, "invalidate", "k").complete


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


def test_who_is_silent_is_waited_out(call: Call, new_group: Any, held: Any) -> None:
    one, other = new_group(2, lease=0.3)
    seat = other.members()[0].seat
    with held(other):
        receipt = call(one, "invalidate", "k", strict=True)
    assert receipt.complete
    assert (receipt.acknowledged, receipt.waited_out) == ((), (seat,))
    assert receipt.seconds > 0.3


def test_a_wait_that_is_too_short_gives_an_incomplete_receipt_which_is_logged_and_counted(
    call: Call, pair: list[Cache], held: Any, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    one, other = pair
    assert one.set("k", "old")
    assert other.get("k") == "old"
    with held(other):
        receipt = call(one, "invalidate", "k", wait=0.01)
        assert not receipt.complete
        assert (receipt.acknowledged, receipt.waited_out) == ((), ())
        assert "not acknowledged by everybody" in caplog.text
        assert one.stats().incomplete == 1
        with pytest.raises(InvalidationIncomplete) as raised:
            call(one, "invalidate", "k", wait=0.01, strict=True)
        assert not raised.value.receipt.complete
    until(lambda: other.get("k") is None)  # the events go on being delivered


def test_a_set_that_waits_for_all_returns_when_nobody_serves_the_old_value(call: Call, pair: list[Cache]) -> None:
    one, other = pair
    for reader, writer in ((one, other), (other, one)):
        writer.set("k", "old")
        assert reader.get("k") == "old"
        assert call(writer, "set", "k", "new", wait="all") is True
        assert reader.get("k") == "new"


def test_a_set_that_was_to_reach_all_and_cannot_is_logged_and_counted(
    call: Call, new_group: Any, held: Any, key_of: Any, crew: Crew, until: Until, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = new_group(2, lease=60, forget_after=100)
    key = key_of(one)
    with held(other):
        crew.start(lambda: call(one, "set", key, "new", wait="all"))
        until(lambda: len(one._member.life.driver._peer._engine.announcements) == 1)
        one._member.life.driver.close(0.0)
        assert crew.join() == [False]
    assert "not acknowledged by everybody" in caplog.text
    assert one._member.life.counters.incomplete == 1


def test_a_set_waits_for_all_or_for_the_owner_and_for_nothing_else(call: Call, cache: Cache) -> None:
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


def test_readers_of_a_copying_space_may_change_what_they_get(call: Call, pair: list[Cache], key_of: Any) -> None:
    spaces = [cache.namespace("n", copy=True) for cache in pair]
    for owner in pair:
        key = key_of(owner, namespace="n")
        for space in spaces:
            call(space, "get_or_load", key, lambda: {"list": [1]})["list"].append("mine")
            call(space, "get", key)["list"].append("mine")
            call(space, "get_many", [key])[key]["list"].append("mine")
            assert call(space, "get", key) == {"list": [1]}
    assert pair[0].stats().loads + pair[1].stats().loads == 2


def test_readers_of_a_copying_space_share_no_load_either(new_cache: NewCache, crew: Crew, until: Until) -> None:
    cache = new_cache(copy=True)
    go_on = threading.Event()

    def load() -> list[int]:
        go_on.wait(30)
        return [1]

    crew.start(lambda: cache.get_or_load("k", load), times=4)
    until(lambda: cache.stats().waits == 3)
    go_on.set()
    results = crew.join()
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

    crew.start(lambda: cache.get_or_load("k", load), times=4)
    until(lambda: cache.stats().waits == 3)
    go_on.set()
    results = crew.join()
    assert results == [[large]] * 4
    assert len(set(map(id, results))) == 4


def test_what_its_loader_does_to_a_large_value_later_does_not_reach_who_waited_for_it(new_cache: NewCache) -> None:
    """1. A reader waits; 2. the leader's load ends, and its caller changes the value; 3. the reader takes it up."""
    cache = new_cache(copy=True)
    leader, waiter = (
        get_or_load(cache._keyspace, "k", lambda: ["x" * 2_000_000], cache._keyspace.given(60, ())) for _ in range(2)
    )
    lead, answer = (
        step.driver.ask(step.command, step.otherwise, step.begin()) for step in (next(leader), next(waiter))
    )
    lead = lead.result(30)
    load = leader.send(lead)
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
    assert shared.get("k") is shared.get("k")
    cache.set("k", [1])
    assert cache.get("k") is not cache.get("k")


def test_readers_find_the_entries_of_a_new_member_before_they_see_its_gate() -> None:
    order: list[str] = []

    class Noting(NearCache):
        __slots__ = ()

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            order.append(name)

    near_caches = NearCaches()
    near = Noting(near_caches, "", False, False)
    order.clear()
    near_caches.bind(None, Gate())
    assert order == ["home", "entries", "gate"]
    assert near.hits is near.home.hits


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


# --- With a peer


def test_a_value_is_fetched_from_its_owner_and_kept(call: Call, pair: list[Cache], key_of: Any) -> None:
    one, other = pair
    key = key_of(one)
    call(one, "get_or_load", key, lambda: "loaded")
    assert call(other, "get_or_load", key, never) == "loaded"
    assert call(other, "get", key) == "loaded"
    assert (other.stats().fetches, other.stats().near_entries, other.stats().near_hits) == (1, 1, 1)


def test_a_value_loaded_by_another_is_kept_by_its_owner(
    call: Call, pair: list[Cache], key_of: Any, until: Until
) -> None:
    one, other = pair
    key = key_of(one)
    call(other, "get_or_load", key, lambda: "loaded")
    until(lambda: one.stats().fills == 1)
    assert call(one, "get", key) == "loaded"
    assert one.stats().shard_entries == 1


def test_many_from_many_owners(call: Call, new_group: Any, key_of: Any) -> None:
    caches = new_group(3)
    keys = [key_of(cache, name=name) for cache in caches for name in "ab"]
    assert call(caches[0], "set_many", dict(zip(keys, range(6), strict=True)))
    assert [cache.stats().shard_entries for cache in caches] == [2, 2, 2]
    for cache in caches:
        assert call(cache, "get_many", [*keys, "nobody's"]) == dict(zip(keys, range(6), strict=True))
    assert caches[0].stats().fetches == 4


def test_one_load_in_the_whole_group(call: Call, pair: list[Cache], crew: Crew, until: Until, key_of: Any) -> None:
    go_on = threading.Event()
    calls: list[int] = []

    def load() -> str:
        calls.append(1)
        go_on.wait(30)
        return "once"

    key = key_of(pair[0])
    for cache in pair:
        crew.start(lambda cache=cache: call(cache, "get_or_load", key, load), times=4)
    until(lambda: sum(cache.stats().waits for cache in pair) == 6)
    until(lambda: len(pair[0]._member.life.driver._peer._engine.queues._queues[keys_wire(key)].waiters) == 1)  # type: ignore[union-attr]
    go_on.set()
    assert crew.join() == ["once"] * 8
    assert calls == [1]


def keys_wire(key: str) -> bytes:
    """A key of the root namespace as it travels."""
    return keys.wire(keys.prefix(""), key)


# --- What it shows


def test_members(pair: list[Cache]) -> None:
    one, other = pair
    rows = one.members()
    assert all(isinstance(row, MemberInfo) for row in rows)
    assert [row.me for row in rows] == [True, False]
    assert [row.heard for row in rows] == [True, True]
    assert {row.pid for row in rows} == {os.getpid()}
    assert {row.role for row in rows} == {"peer"}
    assert all(0 <= row.known_for < 60 for row in rows)
    assert [row.seat.rpartition("/")[2] for row in rows] == ["0", "1"]
    assert [row.incarnation for row in reversed(rows)] == [row.incarnation for row in other.members()]
    assert len(rows[0].incarnation) == 32


def test_before_the_first_use_there_is_nothing_to_show(cache: Cache, run_dir: str) -> None:
    assert cache.members() == []
    assert cache.stats() == Stats()
    assert os.listdir(run_dir) == []
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("colocache")]


def test_stats_add_up(pair: list[Cache], key_of: Any) -> None:
    one, other = pair
    mine, theirs = key_of(one), key_of(other)
    for key in (mine, theirs):
        one.get_or_load(key, lambda: "v")
        one.get_or_load(key, never)
    one.get("nothing")
    one.set(theirs, "w")
    stats = one.stats()
    assert (stats.loads, stats.misses, stats.fills, stats.fallbacks) == (2, 1, 1, 0)
    assert (stats.shard_hits, stats.near_hits) == (1, 1)
    assert (stats.members, stats.current, stats.established) == (2, True, True)
    assert (stats.shard_entries, stats.entries) == (1, 1)
    assert stats.bytes == stats.shard_bytes > 0
    assert (other.stats().fills, other.stats().sets) == (1, 1)


def test_counting_from_many_threads_loses_nothing(cache: Cache, crew: Crew) -> None:
    class Slow(Counters):
        def __getattribute__(self, name: str) -> Any:
            value = super().__getattribute__(name)
            threading.Event().wait(0.0001)  # lets another thread run between the read and the write
            return value

    cache.start()
    cache._member.life.counters = Slow()
    crew.start(lambda: [cache.get(("nobody", n)) for n in range(20)], times=8)
    crew.join()
    assert cache.stats().misses == 160


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
    (me,) = cache.members()
    cache.start()
    assert cache.members()[0].incarnation == me.incarnation


def test_starting_a_cache_that_is_off_does_nothing(new_cache: NewCache) -> None:
    cache = new_cache(disabled=True)
    cache.start()
    assert cache.members() == []


@pytest.mark.in_a_group
def test_many_threads_join_once(cache: Cache, crew: Crew) -> None:
    crew.start(lambda: cache.set("k", 1), times=8)
    assert crew.join() == [True] * 8
    assert len(cache.members()) == 1
    assert len([thread for thread in threading.enumerate() if thread.name == "colocache test"]) == 1


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
    assert cache.stats().members == 0


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
    assert [name for name in os.listdir(f"{run_dir}/test") if not name.endswith(".seat")] == []


def test_the_others_see_a_member_leave_and_take_its_keys(pair: list[Cache], until: Until, key_of: Any) -> None:
    one, other = pair
    key = key_of(other)
    other.close()
    until(lambda: one.stats().members == 1)
    assert one.set(key, "mine")
    assert one.get(key) == "mine"


def test_a_reader_whose_cache_is_closed_meanwhile_loads_for_itself(
    call: Call, cache: Cache, crew: Crew, until: Until
) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def slow() -> str:
        loading.set()
        go_on.wait(30)
        return "leader's"

    crew.start(lambda: cache.get_or_load("k", slow))
    loading.wait(30)
    crew.start(lambda: call(cache, "get_or_load", "k", lambda: "mine"))
    until(lambda: cache.stats().waits == 1)
    cache.close()
    until(lambda: crew.results == ["mine"])
    go_on.set()
    assert crew.join() == ["mine", "leader's"]
    assert (cache.stats().loads, cache.stats().fallbacks) == (1, 1), "the first one was counted by the member"


def test_other_reads_that_wait_for_a_peer_when_their_cache_is_closed_find_nothing(
    call: Call, new_group: Any, held: Any, key_of: Any, crew: Crew, until: Until
) -> None:
    one, other = new_group(2, fetch_timeout=60, load_timeout=100)
    key = key_of(other)
    with held(other):
        crew.start(lambda: call(one, "get", key, GONE))
        crew.start(lambda: call(one, "get_many", [key]))
        crew.start(lambda: call(one, "set", key, 1))
        until(lambda: len(one._member.life.driver._peer._engine.requests) == 3)
        one._member.life.driver.close(0.0)
        assert {repr(result) for result in crew.join()} == {repr(GONE), "{}", "False"}


def test_an_invalidation_that_waits_when_its_cache_is_closed_is_incomplete(
    call: Call, new_group: Any, held: Any, crew: Crew, until: Until
) -> None:
    one, other = new_group(2, lease=60, forget_after=100)
    with held(other):
        crew.start(lambda: call(one, "invalidate", "k"))
        crew.start(lambda: call(one, "invalidate", "k", strict=True))
        until(lambda: len(one._member.life.driver._peer._engine.announcements) == 2)
        one._member.life.driver.close(0.0)  # as close() does when its patience is over
        receipt, error = sorted(crew.join(), key=lambda result: isinstance(result, Exception))
    assert not receipt.complete
    assert isinstance(error, InvalidationIncomplete)


def test_closing_waits_until_what_was_announced_is_heard(pair: list[Cache], until: Until) -> None:
    one, other = pair
    one.set("k", "old")
    assert other.get("k") == "old"
    one.invalidate("k", wait=False)
    one.close()
    until(lambda: other.stats().members == 1)
    assert other.get("k") is None


@pytest.mark.in_a_group
def test_a_cache_that_is_dropped_without_a_close_leaves_the_group(new_cache: NewCache, until: Until) -> None:
    stays, dropped = new_cache(), Cache("test")
    stays.start()
    dropped.start()
    until(lambda: stays.stats().members == 2)
    del dropped
    gc.collect()
    until(lambda: stays.stats().members == 1)
    until(lambda: len([t for t in threading.enumerate() if t.name.startswith("colocache")]) == 1)


# --- What is kept of names


def _names_kept(cache: Cache) -> int:
    """How many namespaces and tags are in the tables of a cache and its member, whatever is kept of them."""
    store = cache._member.life.driver.store if cache._member.life.driver is not None else None
    near_caches = cache._member.near_caches
    tables: list[Any] = [near_caches._homes, near_caches._modes, near_caches._all]
    if store is not None:
        tables += [store._wires, store._tagged]
    return sum(map(len, tables))


def test_nothing_is_kept_of_namespaces_and_tags_that_nobody_uses_any_more(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colocache.near_cache, "MAX_MODES", 20)
    cache.start()
    before = _names_kept(cache)
    for number in range(1000):
        tenant = cache.namespace(f"tenant {number}")
        assert tenant.get_or_load("k", lambda: 1, tags=(f"tag {number}",)) == tenant.get("k") == 1
        if number % 100 == 99:
            cache.clear()
    del tenant
    gc.collect()
    assert _names_kept(cache) <= before + 20


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
    before = cache.stats().shard_hits
    again = cache.namespace("tenant")
    assert again._keyspace.entries["k"].value == again.get("k") == "v"
    assert cache.stats().shard_hits == before + 1


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
    assert space._keyspace.entries == {}
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
