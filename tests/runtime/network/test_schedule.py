"""When each item is looked up."""

from __future__ import annotations

import math

from colocache.runtime.network.peers import Name
from colocache.runtime.network.schedule import AT_ONCE, FAILING_AT_ONCE, Schedule

A, B = Name("a", 1), Name("b", 1)


def many(count: int, prefix: str = "web") -> list[Name]:
    return [Name(f"{prefix}{number}", 1) for number in range(count)]


def test_an_item_is_looked_up_at_once_and_again_after_each_answer() -> None:
    schedule = Schedule(5)
    schedule.keep([A, B], 100)
    assert schedule.deadline() == 100
    assert schedule.take(100) == [A, B]
    assert schedule.take(200) == [], "they are under way"
    assert schedule.deadline() == math.inf
    schedule.done(A, 200, True)
    assert (schedule.take(204.9), schedule.deadline(), schedule.take(205)) == ([], 205, [A])


def test_a_new_item_is_due_at_once_and_the_others_stay_as_they_are() -> None:
    schedule = Schedule(5)
    schedule.keep([A], 100)
    schedule.take(100)
    schedule.done(A, 100, True)
    schedule.keep([A, B], 101)
    assert schedule.take(101) == [B]
    assert schedule.take(105) == [A]


def test_an_item_that_is_not_listed_any_more_is_not_looked_up() -> None:
    schedule = Schedule(5)
    schedule.keep([A, B], 100)
    assert schedule.take(100) == [A, B]
    schedule.done(A, 100, False)
    schedule.keep([], 101)
    schedule.done(B, 102, False)
    assert (schedule.take(1000), schedule.deadline()) == ([], math.inf)


def test_an_item_that_comes_back_while_it_is_under_way_is_not_looked_up_twice_at_a_time() -> None:
    schedule = Schedule(5)
    schedule.keep([A], 100)
    schedule.take(100)
    schedule.keep([], 101)
    schedule.keep([A], 102)
    assert schedule.take(102) == []
    schedule.done(A, 103, True)
    assert schedule.take(108) == [A]


def test_so_many_are_under_way_at_a_time() -> None:
    items, schedule = many(3 * AT_ONCE), Schedule(5)
    schedule.keep(items, 0)
    assert schedule.take(0) == items[:AT_ONCE]
    assert (schedule.take(0), schedule.deadline()) == ([], math.inf)
    schedule.done(items[3], 1, True)
    assert schedule.deadline() == 0
    assert schedule.take(1) == [items[AT_ONCE]]


def test_those_that_fail_leave_room_for_those_that_do_not() -> None:
    """What must not happen: a name server that does not answer for some names holds up the names of others."""
    failing, good, schedule = many(AT_ONCE, "dead"), many(20), Schedule(5)
    schedule.keep(failing, 0)
    for item in schedule.take(0):
        schedule.done(item, 20, False)
    schedule.keep(failing + good, 25)
    taken = schedule.take(25)
    assert taken == good[:AT_ONCE], "those that do not fail are first"
    for item in taken:
        schedule.done(item, 25, True)
    schedule.take(25)
    assert set(schedule.take(26)) == set()
    for item in good[AT_ONCE:]:
        schedule.done(item, 26, True)
    schedule.take(26)
    under_way = [item for item in failing if item in schedule._under_way]
    assert len(under_way) == FAILING_AT_ONCE
    assert set(schedule.take(31)) == set(good[: AT_ONCE - FAILING_AT_ONCE])


def test_an_item_that_recovers_counts_as_good_again() -> None:
    schedule = Schedule(5)
    schedule.keep([A, B], 0)
    schedule.take(0)
    schedule.done(A, 0, False)
    schedule.done(B, 1, True)
    assert schedule.take(6) == [B, A]
    schedule.done(A, 6, True)
    schedule.done(B, 7, True)
    assert schedule.take(20) == [A, B]


def test_in_a_forked_child_all_are_due_again() -> None:
    schedule = Schedule(5)
    schedule.keep([A, B], 0)
    schedule.take(0)
    schedule.done(A, 0, True)
    schedule.look_again(1)
    assert (schedule.deadline(), schedule.take(1)) == (1, [A, B])


def test_a_lookup_that_takes_long_is_told() -> None:
    schedule = Schedule(5)
    schedule.keep([A, B], 0)
    schedule.take(0)
    schedule.done(B, 1, True)
    assert ([*schedule.slow(29, 30)], [*schedule.slow(30, 30)]) == ([], [A])
    schedule.keep([B], 31)
    assert [*schedule.slow(40, 30)] == []
