"""Which values are kept near: those that were loaded here, or found before, and whose record is current."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from colocache import Cache, Space
from colocache.core.host.board import Board
from tests.conftest import Call, NewCache
from tests.loaders import never

Event = Callable[[Space], object]
Read = Callable[[Space], object]


@pytest.fixture
def cache(new_cache: NewCache) -> Cache:
    return new_cache(private=True)


@pytest.mark.parametrize("event", [lambda space: space.set("k", "new"), lambda space: space.add("k", "new")])
def test_what_was_loaded_before_a_write_is_not_kept_near_as_its_value(cache: Cache, event: Event) -> None:
    space = cache.namespace("n")

    def loader() -> str:
        event(space)
        return "old"

    assert space.get_or_load("k", loader) == "old"  # it began before
    assert space.get("k") == "new"
    assert space.get("k") == "new"


@pytest.mark.parametrize("event", [lambda space: space.invalidate("k"), lambda space: space.clear()])
def test_what_was_loaded_before_an_invalidation_is_not_kept_near(cache: Cache, event: Event) -> None:
    space = cache.namespace("n")

    def loader() -> str:
        event(space)
        return "old"

    assert space.get_or_load("k", loader) == "old"
    assert space.get("k") is None


# --- What was found before


def kept(space: Space) -> bool:
    """Tell whether the value of "k" is near."""
    return "k" in space._keyspace.near[0]


def counts(cache: Cache) -> tuple[int, int]:
    """Return how many fetches and hits a cache has had."""
    stats = cache.stats()
    return stats.fetches, stats.hits


@pytest.fixture(params=["get", "get_many", "get_or_load"])
def read(request: pytest.FixtureRequest, call: Call) -> Read:
    """Read the value of "k", which is there, by each of the methods, in both forms."""
    if request.param == "get_many":
        return lambda space: call(space, "get_many", ["k"])["k"]
    arguments = ("k", never) if request.param == "get_or_load" else ("k",)
    return lambda space: call(space, request.param, *arguments)


@pytest.mark.parametrize("fence", [False, True])
def test_what_was_set_is_a_hit_at_the_third_read(new_cache: NewCache, read: Read, fence: bool) -> None:
    cache = new_cache()
    space = cache.namespace("n", fence=fence)
    assert space.set("k", ["v"])
    seen = []
    for _ in range(4):
        assert read(space) == ["v"]
        seen.append((kept(space), *counts(cache)))
    assert seen == [(False, 1, 0), (True, 2, 0), (True, 2, 1), (True, 2, 2)]


def test_what_another_cache_has_found_is_kept_at_the_first_read(pair: list[Cache], read: Read) -> None:
    one, other = pair
    assert one.set("k", "v")
    assert read(one) == "v"
    assert not kept(one)
    assert [read(other) for _ in range(2)] == ["v", "v"]
    assert kept(other)
    assert (counts(one), counts(other)) == ((1, 0), (1, 1))


def test_what_another_cache_has_loaded_is_a_hit_at_the_third_read(pair: list[Cache], read: Read) -> None:
    """Who loads a value has not found it."""
    one, other = pair
    assert one.get_or_load("k", lambda: "v") == "v"
    seen = []
    for _ in range(3):
        assert read(other) == "v"
        seen.append(counts(other))
    assert seen == [(1, 0), (2, 0), (2, 1)]


def test_what_is_loaded_here_is_near_at_once(call: Call, new_cache: NewCache, read: Read) -> None:
    cache = new_cache()
    assert call(cache, "get_or_load", "k", lambda: "v") == "v"
    assert kept(cache)
    assert read(cache) == "v"
    assert counts(cache) == (0, 1)


def test_what_is_read_as_copies_is_never_near(call: Call, pair: list[Cache], read: Read) -> None:
    spaces = [cache.namespace("copies", copy=True) for cache in pair]
    assert call(spaces[0], "get_or_load", "k", lambda: ["v"]) == ["v"]
    for space in spaces:
        read_here = [read(space) for _ in range(5)]
        assert read_here == [["v"]] * 5
        assert len({id(value) for value in read_here}) == 5
        assert not kept(space)
    assert [counts(cache) for cache in pair] == [(5, 0)] * 2


def test_a_key_that_is_read_all_the_time_is_near_at_once_when_it_was_set_again(cache: Cache, read: Read) -> None:
    """Its new value takes over how often the old one was found, as for what stays on the shelf."""
    cache.set("k", "old")
    for _ in range(3):
        assert read(cache) == "old"
    cache.set("k", "new")
    assert read(cache) == "new"
    assert kept(cache)
    assert counts(cache) == (3, 1)


@pytest.mark.parametrize(
    "event",
    [
        lambda space: space.invalidate("part", "page"), lambda space: space.invalidate_tags("t"),
        lambda space: space.clear(),
    ],
    ids=["both keys", "their tag", "their namespace"],
)  # fmt: skip
def test_no_page_that_is_made_of_an_old_part_outlives_the_event_of_both(
    cache: Cache, event: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is made when the stamps are stored, and the bell that the part's near copy compares is not rung yet."""
    space = cache.namespace("n")
    space.set("part", "old", tags=("t",))
    assert [space.get("part") for _ in range(3)] == 3 * ["old"]  # near, and compared
    ring, pages = Board.ring, list[str]()

    def rings(board: Board) -> None:
        if not pages:
            pages.append(space.get_or_load("page", lambda: space.get("part"), tags=("t",)))
        ring(board)

    monkeypatch.setattr(Board, "ring", rings)
    event(space)
    assert pages == ["old"]
    assert space.get("page") is None
