"""Which values are kept near: only those whose record says how long they are current."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from colocache import Cache, Space
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
