"""What is done in one step, by real caches: add, gets and cas, incr and decr, touch; and sets under a fence."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pytest

import colocache.host
from colocache import Cache, PickleCodec
from colocache.core.host.board import Board, Label
from colocache.scope import Scope
from tests.conftest import near_entry
from tests.loaders import elsewhere

if TYPE_CHECKING:
    from tests.conftest import Call, Crew, NewCache


@pytest.fixture
def group(new_group: Callable[..., list[Cache]]) -> list[Cache]:
    """Three caches, each with a near cache of its own."""
    return new_group(3)


KEYS = [f"k{number}" for number in range(12)]


def test_add_stores_where_nothing_is(call: Call, group: list[Cache]) -> None:
    one, other, third = group
    assert call(one, "add", "k", "first") is True
    assert call(other, "add", "k", "second") is False
    assert call(one, "add", "k", "third") is False
    assert {cache.get("k") for cache in group} == {"first"}
    third.invalidate("k")
    assert call(other, "add", "k", None) is True
    assert call(one, "add", "k", "again") is False, "None is a value"
    assert {cache.get("k", "nothing") for cache in group} == {None}


def test_of_calls_of_add_at_once_one_succeeds(group: list[Cache], crew: Crew) -> None:
    for cache in group * 2:
        crew.start(lambda cache=cache: [cache.add(("k", number), 1) for number in range(50)])
    assert [sum(column) for column in zip(*crew.join(), strict=True)] == [1] * 50


def test_the_first_call_of_a_cache_is_as_good_as_any_other(call: Call, new_cache: NewCache, pair: list[Cache]) -> None:
    """It needs no time to find the others, and finds at once what they have stored."""
    one, _ = pair
    one.set_many({"added": 1, "counted": 1, "touched": 1, "compared": 1})
    token = one.gets("compared")[1]  # type: ignore[index]
    assert call(new_cache(), "add", "added", 2) is False
    assert call(new_cache(), "incr", "counted", initial=0) == 2
    assert call(new_cache(), "touch", "touched", 0) is True
    assert call(new_cache(), "gets", "compared") == (1, token)
    assert call(new_cache(), "cas", "compared", 2, token) is True
    assert one.get_many(["added", "counted", "touched", "compared"]) == {"added": 1, "counted": 2, "compared": 2}


def test_add_with_no_time_to_live_stores_nothing(call: Call, cache: Cache) -> None:
    assert call(cache, "add", "k", 1, ttl=0) is False
    assert cache.get("k") is None


def test_compare_and_set(call: Call, group: list[Cache]) -> None:
    one, other, _ = group
    assert call(one, "gets", "k") is None
    one.set("k", [1])
    value, token = call(one, "gets", "k")
    assert value == [1]
    assert call(other, "gets", "k")[0] == [1]
    assert call(other, "cas", "k", [1, 2], token) is True, "a token is good in any process"
    assert call(one, "cas", "k", [1, 3], token) is False
    assert {tuple(cache.get("k")) for cache in group} == {(1, 2)}


EVENTS: dict[str, Callable[[Cache], object]] = {
    "invalidate": lambda cache: cache.invalidate("k"),
    "clear": lambda cache: cache.clear(),
    "tag": lambda cache: cache.invalidate_tags("t"),
    "set": lambda cache: cache.set("k", 1, tags=("t",)),
    "incr": lambda cache: cache.incr("k", 0),
    "touch": lambda cache: cache.touch("k", "1h"),
    "cas": lambda cache: cache.cas("k", 1, cache.gets("k")[1]),  # type: ignore[index]
}


@pytest.mark.parametrize("event", EVENTS.values(), ids=EVENTS)
def test_token_does_not_survive_an_event(call: Call, group: list[Cache], event: Callable[[Cache], object]) -> None:
    one, other, third = group
    one.set("k", 1, tags=("t",))
    _, token = call(one, "gets", "k")
    event(other)
    third.add("k", 1)  # so that there is an equal value in any case
    assert call(one, "cas", "k", 2, token) is False
    assert {cache.get("k") for cache in group} == {1}


def test_token_survives_events_of_others(call: Call, group: list[Cache]) -> None:
    one, other, _ = group
    one.set("k", 1, tags=("t",))
    _, token = call(one, "gets", "k")
    other.set("l", 1)
    other.invalidate("m")
    other.namespace("n").clear()
    other.invalidate_tags("another")
    assert call(one, "cas", "k", 2, token, tags=("t",)) is True


def test_a_token_is_worth_nothing_for_a_tag_that_was_invalidated_since(call: Call, group: list[Cache]) -> None:
    """The value may have been made of what the tag stands for, and before the tag's event."""
    one, other, _ = group
    one.set("k", 1)
    _, token = call(one, "gets", "k")
    other.invalidate_tags("t")
    assert call(one, "cas", "k", 2, token, tags=("t",)) is False
    assert call(one, "cas", "k", 2, token) is True, "it does not depend on the tag"


def test_a_token_of_another_life_of_the_group_is_worth_nothing(call: Call, cache: Cache) -> None:
    cache.set("k", 1)
    _, token = call(cache, "gets", "k")
    cache.leave()
    cache.set("k", 1)
    assert call(cache, "cas", "k", 2, token) is False
    assert cache.get("k") == 1


@pytest.mark.parametrize(
    ("token", "error"),
    [("text", TypeError), (None, TypeError), (b"", ValueError), (b"short", ValueError), (b"x" * 33, ValueError)],
)
def test_a_token_that_is_none_is_refused(call: Call, cache: Cache, token: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="a token is what gets returned"):
        call(cache, "cas", "k", 1, token)


@pytest.mark.parametrize("token", [bytes(32), b"\xff" * 32, b"x" * 32])
def test_a_token_that_nobody_gave_is_worth_nothing(call: Call, cache: Cache, token: bytes) -> None:
    assert call(cache, "cas", "k", 1, token) is False
    cache.set("k", 1)
    assert call(cache, "cas", "k", 2, token) is False
    assert cache.get("k") == 1


def test_counters_count_for_the_whole_group(call: Call, group: list[Cache]) -> None:
    one, other, third = group
    assert call(one, "incr", "k") is None
    assert call(one, "incr", "k", initial=0) == 1
    assert call(other, "incr", "k", 5, initial=100) == 6
    assert call(third, "decr", "k", 10) == -4
    third.invalidate("k")
    assert call(other, "decr", "k", initial=0) == -1


def test_what_is_written_in_one_step_is_what_all_read_next(call: Call, group: list[Cache]) -> None:
    """Their near copies are out of date when the call returns."""
    one, other, _ = group
    one.set("k", 0)
    for number in range(1, 20):
        assert {cache.get("k") for cache in group} == {number - 1}
        writer = group[number % 3]
        if number % 2:
            assert call(writer, "incr", "k") == number
        else:
            assert call(writer, "cas", "k", number, writer.gets("k")[1])  # type: ignore[index]
    assert {cache.get("k") for cache in group} == {19}
    other.invalidate("k")
    assert {cache.get("k") for cache in group} == {None}
    assert call(other, "add", "k", "new")
    assert {cache.get("k") for cache in group} == {"new"}


def test_what_was_loaded_before_a_write_in_one_step_does_not_take_its_place(call: Call, group: list[Cache]) -> None:
    one, other, _ = group

    def count() -> int:
        elsewhere(lambda: other.incr("k", initial=0))
        return 1000

    assert call(one, "get_or_load", "k", count) == 1000, "it was asked for before"
    assert {cache.get("k") for cache in group} == {1}


def test_a_counter_keeps_its_expiry_its_tags_and_its_namespace(call: Call, group: list[Cache]) -> None:
    one, other, third = group
    space = one.namespace("n")
    events: list[Callable[[], object]] = [
        lambda: other.invalidate_tags("t"), lambda: other.namespace("n").clear(), other.clear,
        lambda: other.namespace("n").invalidate("k"),
    ]  # fmt: skip
    for event in events:
        assert call(space, "incr", "k", initial=0, ttl=60, tags=("t",)) == 1
        expires = near_expiry(third)
        assert call(space, "incr", "k", ttl="1h", initial=100, tags=("u",)) == 2
        assert near_expiry(third) == expires
        other.invalidate_tags("u")
        assert third.namespace("n").get("k") == 2
        event()
        assert [cache.namespace("n").get("k") for cache in group] == [None] * 3


def near_expiry(cache: Cache) -> float:
    """Return when the value of "k" in the namespace "n" expires, as a cache knows it."""
    return near_entry(cache.namespace("n"), "k").expires


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


def test_touch_gives_another_expiry(call: Call, group: list[Cache]) -> None:
    other = group[1]
    spaces = [cache.namespace("n") for cache in group]
    assert call(spaces[0], "touch", "k", 60) is False
    spaces[0].set("k", 1, ttl=60, tags=("t",))
    assert 0 < near_expiry(other) - time.monotonic() <= 60
    assert call(spaces[1], "touch", "k", "1h") is True
    for cache in group:
        assert 3000 < near_expiry(cache) - time.monotonic() <= 3600
    assert call(spaces[0], "touch", "k", None) is True
    assert near_expiry(other) == math.inf
    assert call(spaces[0], "touch", "k", 0) is True
    assert [space.get("k") for space in spaces] == [None] * 3
    assert call(spaces[0], "touch", "k", 60) is False, "it has expired"


def test_what_was_touched_depends_on_what_it_depended_on_before(call: Call, group: list[Cache]) -> None:
    one, other, third = group
    one.set("k", 1, ttl=60, tags=("t",))
    assert call(other, "touch", "k", "1h") is True
    assert {cache.get("k") for cache in group} == {1}
    third.invalidate_tags("t")
    assert {cache.get("k") for cache in group} == {None}


def test_what_a_condition_forbids_is_counted(call: Call, cache: Cache) -> None:
    cache.set("k", 1)
    assert not call(cache, "cas", "k", 2, bytes(32))
    assert call(cache, "incr", "nothing") is None
    assert not call(cache, "touch", "nothing")
    assert call(cache, "incr", "k") == 2
    stats = cache.stats()
    assert (stats.sets, stats.sets_refused, stats.busy) == (2, 3, 0)


def test_on_the_thread_of_an_event_loop_nothing_of_this_is_refused(cache: Cache) -> None:
    async def main() -> None:
        assert cache.add("k", 1)
        assert cache.incr("k") == 2
        assert cache.decr("k") == 1
        found = cache.gets("k")
        assert found is not None
        assert cache.cas("k", 5, found[1])
        assert cache.touch("k", 60)
        assert cache.get("k") == 5

    asyncio.run(main())


def test_where_the_cache_is_off_nothing_is_done(call: Call, new_cache: Callable[..., Cache]) -> None:
    cache = new_cache(disabled=True)
    assert call(cache, "add", "k", 1) is False
    assert call(cache, "gets", "k") is None
    assert call(cache, "cas", "k", 1, b"x" * 32) is False
    assert call(cache, "incr", "k", initial=0) is None
    assert call(cache, "touch", "k") is False
    assert cache.position() == ""
    assert call(cache, "catch_up", "x") is False


# --- Fences


BETWEEN: dict[str, tuple[Callable[[Cache], object], Any]] = {
    "invalidate": (lambda cache: cache.namespace("pages").invalidate("k"), None),
    "clear": (lambda cache: cache.namespace("pages").clear(), None),
    "clear all": (lambda cache: cache.clear(), None),
    "set": (lambda cache: cache.namespace("pages").set("k", "other"), "other"),
    "add": (lambda cache: cache.namespace("pages").add("k", "other"), "other"),
    "incr": (lambda cache: cache.namespace("pages").incr("k", initial=0), 1),
    "load": (lambda cache: cache.namespace("pages").get_or_load("k", lambda: "other"), "other"),
    "set and invalidate": (
        lambda cache: (cache.namespace("pages").set("k", "other"), cache.namespace("pages").invalidate("k")), None,
    ),
    "set for no time": (lambda cache: cache.namespace("pages").set("k", "other", ttl=0), None),
}  # fmt: skip


@pytest.mark.parametrize(("event", "left"), BETWEEN.values(), ids=BETWEEN)
def test_a_set_after_a_miss_and_an_event_is_refused(
    call: Call, group: list[Cache], event: Callable[[Cache], object], left: Any
) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)

    def miss_and_set() -> bool:
        assert pages.get("k") is None
        event(other)
        return pages.set("k", "old")

    assert miss_and_set() is False
    assert {cache.namespace("pages").get("k") for cache in group} == {left}
    assert pages.set("k", "new"), "it is not missed any more"
    assert other.namespace("pages").get("k") == "new"


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


def test_a_set_whose_tag_has_an_event_while_its_stamps_are_read_is_refused_or_void(
    group: list[Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The question whether a tag had an event comes after them: otherwise such an event would be in neither."""
    one, other, _ = group
    pages = one.namespace("pages", fence=True)
    assert pages.get("k") is None
    label, events = Board.label, list[object]()

    def reads(board: Board, hashes: Iterable[int]) -> Label:
        if not events:
            events.append(other.invalidate_tags("t"))
        return label(board, hashes)

    monkeypatch.setattr(Board, "label", reads)
    assert not pages.set("k", "old", tags=("t",))
    assert events
    assert other.namespace("pages").get("k") is None


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
    group: list[Cache], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)
    assert pages.get("k") is None
    assert other.namespace("pages").set("k", "old")
    later = time.monotonic() + one.config.load_timeout
    with monkeypatch.context() as patch:
        patch.setattr(colocache.host, "monotonic", lambda: later)
        assert pages.set("k", "new") is False
    assert {cache.namespace("pages").get("k") for cache in group} == {None}


def test_a_fence_holds_for_both_forms_on_an_event_loop(group: list[Cache]) -> None:
    one, other, _ = group
    pages = one.namespace("pages", fence=True)

    async def habit() -> list[bool]:
        stored = []
        for missing, setting in ((pages.get, pages.aset), (pages.aget, pages.set)):
            missed: Any = missing("k")
            assert (await missed if asyncio.iscoroutine(missed) else missed) is None
            await other.namespace("pages").ainvalidate("k")
            done: Any = setting("k", "old")
            stored.append(await done if asyncio.iscoroutine(done) else done)
        return stored

    assert asyncio.run(habit()) == [False, False]


def test_what_was_missed_in_another_life_of_the_group_is_not_set(cache: Cache) -> None:
    """What was read from the source then, may have changed while nobody kept watch."""
    pages = cache.namespace("pages", fence=True)
    assert pages.get("k") is None
    cache.leave()
    assert pages.set("k", "old") is False
    assert pages.get("k") is None


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
