"""Which values are kept near: only those whose record says how long they are current."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from colocache import Cache, Space
from colocache.core.host.board import Board
from tests.conftest import NewCache

Event = Callable[[Space], object]


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
    assert [space.get("part"), space.get("part")] == ["old", "old"]  # near, and compared
    ring, pages = Board.ring, list[str]()

    def rings(board: Board) -> None:
        if not pages:
            pages.append(space.get_or_load("page", lambda: space.get("part"), tags=("t",)))
        ring(board)

    monkeypatch.setattr(Board, "ring", rings)
    event(space)
    assert pages == ["old"]
    assert space.get("page") is None
