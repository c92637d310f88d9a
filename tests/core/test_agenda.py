"""The agenda: everything in its time, in order, nothing twice, and no place left by what is gone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from colocache.core.agenda import FEW, Agenda

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 9), st.floats(0, 100)),
        st.tuples(st.just("drop"), st.integers(0, 9), st.just(0.0)),
        st.tuples(st.just("take"), st.just(0), st.floats(0, 100)),
    )
)


def _of_a_take(due: dict[int, float], now: float) -> int | None:
    ready = [what for what, instant in due.items() if instant <= now]
    return min(ready, key=lambda what: due[what], default=None)


@given(STEPS)
def test_it_does_what_a_dictionary_of_instants_would_do(steps: list[tuple[str, int, float]]) -> None:
    agenda, due = Agenda[int](), dict[int, float]()
    for step, what, instant in steps:
        if step == "put":
            agenda.put(what, instant)
            due.pop(what, None)  # of equal instants, the one that was put first is due first
            due[what] = instant
        elif step == "drop":
            assert agenda.drop(what) is (due.pop(what, None) is not None)
        else:
            taken = agenda.take(instant)
            assert taken == _of_a_take(due, instant)
            if taken is not None:
                del due[taken]
        assert agenda.deadline == min(due.values(), default=math.inf)
        assert [*agenda] == [*due] or {*agenda} == {*due}
        assert len(agenda) == len(due)
        assert all(each in agenda for each in due)


class Thing:
    """Something that cannot be compared."""


def test_equal_instants_keep_their_order_and_things_are_never_compared() -> None:
    agenda, things = Agenda[Thing](), [Thing() for _ in range(5)]
    for thing in things:
        agenda.put(thing, 1.0)
    assert [agenda.take(1.0) for _ in things] == things
    assert agenda.take(1.0) is None


def test_what_has_an_end_before_it_is_due_leaves_nothing_behind() -> None:
    """Most requests are answered long before their time is over."""
    agenda = Agenda[int]()
    agenda.put(-1, 1e9)
    for number in range(10_000):
        agenda.put(number, 1e6 + number)
        agenda.drop(number)
        assert len(agenda._heap) <= 2 + FEW
    for number in range(10_000):
        agenda.put(number, 1e6 + number)
    for number in range(10_000):
        agenda.drop(number)
    assert len(agenda._heap) <= 2 + FEW


@pytest.mark.parametrize("moves", [10_000])
def test_what_is_moved_again_and_again_has_one_place(moves: int) -> None:
    agenda = Agenda[str]()
    for number in range(moves):
        agenda.put("it", moves - number)
    assert len(agenda._heap) <= 2 + FEW
    assert agenda.deadline == 1
    assert agenda.take(1) == "it"
    assert agenda.deadline == math.inf
