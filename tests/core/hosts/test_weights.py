"""The weight of a host: from its shelf, and when a change of it counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colocache.core.hosts.ring import MAX_WEIGHT
from colocache.core.hosts.weights import STEADY_FOR, STEP, SteadyWeight, weight_of


@pytest.mark.parametrize(
    ("shelf", "weight"),
    [(0, 0), (1, 1), (STEP, 1), (STEP + 1, 2), (1 << 30, 16), (64 << 30, 1024), (1 << 60, MAX_WEIGHT)],
)
def test_each_begun_step_of_shelf_is_one_of_weight_and_a_client_has_none(shelf: int, weight: int) -> None:
    assert weight_of(shelf) == weight


def test_the_first_weight_counts_at_once() -> None:
    steady = SteadyWeight(16)
    assert steady.at(0.0) == 16
    assert steady.due is None


def test_a_change_counts_once_it_has_stayed() -> None:
    steady = SteadyWeight(16)
    steady.hear(15, now=100.0)
    steady.hear(15, now=109.0)
    assert steady.due == 100.0 + STEADY_FOR
    assert steady.at(109.9) == 16
    assert steady.at(110.0) == 15
    assert steady.due is None


def test_a_change_counts_also_if_nobody_asked_before_the_next_one() -> None:
    steady = SteadyWeight(16)
    steady.hear(15, now=100.0)
    steady.hear(16, now=110.0)
    assert steady.at(110.0) == 15
    assert steady.at(120.0) == 16


def test_a_recycled_worker_changes_nothing() -> None:
    steady = SteadyWeight(16)
    steady.hear(15, now=100.0)
    steady.hear(16, now=109.0)
    assert steady.due is None
    assert steady.at(200.0) == 16
    steady.hear(15, now=201.0)
    assert steady.at(210.9) == 16
    assert steady.at(211.0) == 15


def test_a_weight_that_changes_again_begins_anew() -> None:
    steady = SteadyWeight(16)
    steady.hear(15, now=100.0)
    steady.hear(14, now=105.0)
    assert steady.at(114.9) == 16
    assert steady.at(115.0) == 14


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6)), max_size=30), st.integers(0, 20))
def test_what_counts_is_the_last_weight_that_stayed(heard: list[tuple[int, int]], rest: int) -> None:
    now, steady, story = 0, SteadyWeight(1), [(0, 1)]
    for weight, pause in heard:
        now += pause
        steady.hear(weight, now)
        story.append((now, weight))
    now += rest
    assert steady.at(now) == _counting(story, now)


def _counting(story: list[tuple[int, int]], now: int) -> int:
    """The weight that counts after a story of what was heard when, second by second."""
    counts, said, since = 1, 1, 0
    for second in range(now + 1):
        if said != counts and second - since >= STEADY_FOR:
            counts = said
        for _, weight in [event for event in story if event[0] == second]:
            if weight != said:
                said, since = weight, second
    return counts
