"""Timers: everything in its time, in order, and never two functions compared."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from colocache.core.timers import Timers


class Incomparable:
    __lt__ = __gt__ = None  # so that comparing two of them raises

    def __init__(self, name: str) -> None:
        self.name = name


class Diary:
    """Timers that note what was called."""

    def __init__(self) -> None:
        self.timers = Timers()
        self.called: list[str] = []

    def at(self, instant: float, name: str) -> None:
        self.timers.at(instant, self.call, Incomparable(name))

    def call(self, what: Incomparable) -> None:
        self.called.append(what.name)


def test_nothing_is_due_when_nothing_is_set() -> None:
    timers = Timers()
    assert timers.deadline() == math.inf
    timers.run(1e9)


def test_a_function_is_called_at_its_instant_and_not_before_and_once() -> None:
    diary = Diary()
    diary.at(10.0, "a")
    diary.timers.run(9.999)
    assert (diary.called, diary.timers.deadline()) == ([], 10.0)
    diary.timers.run(10.0)
    assert (diary.called, diary.timers.deadline()) == (["a"], math.inf)
    diary.timers.run(11.0)
    assert diary.called == ["a"]


def test_functions_of_one_instant_are_called_in_the_order_in_which_they_were_set() -> None:
    diary = Diary()
    for name in "cab":
        diary.at(1.0, name)
    diary.at(0.5, "first")
    diary.timers.run(1.0)
    assert diary.called == ["first", "c", "a", "b"]


def test_arguments_are_handed_on() -> None:
    called: list[tuple[object, ...]] = []
    timers = Timers()
    timers.at(1.0, lambda *arguments: called.append(arguments))
    timers.at(1.0, lambda *arguments: called.append(arguments), 1, "two", None)
    timers.run(1.0)
    assert called == [(), (1, "two", None)]


def test_what_a_function_sets_and_is_due_already_waits_for_the_next_run() -> None:
    # Otherwise a function that sets itself again at once would never let `run` return.
    called: list[float] = []
    timers = Timers()

    def again(instant: float) -> None:
        called.append(instant)
        timers.at(instant, again, instant)

    timers.at(1.0, again, 1.0)
    timers.run(5.0)
    assert called == [1.0]
    assert timers.deadline() == 1.0
    timers.run(5.0)
    assert called == [1.0, 1.0]


instants = st.sampled_from((0.0, 1.0, 2.5, 7.0, math.inf)) | st.floats(0, 10)


@given(st.lists(st.tuples(st.sampled_from(("at", "at", "run")), instants), max_size=40))
@settings(derandomize=True, deadline=None, max_examples=100)
def test_timers_do_what_a_sorted_list_does(steps: list[tuple[str, float]]) -> None:
    diary = Diary()
    waiting: list[tuple[float, int]] = []
    expected: list[str] = []
    for order, (what, instant) in enumerate(steps):
        if what == "at":
            diary.at(instant, str(order))
            waiting.append((instant, order))
        elif instant < math.inf:
            due = sorted(each for each in waiting if each[0] <= instant)
            waiting = [each for each in waiting if each not in due]
            expected += [str(order) for _, order in due]
            diary.timers.run(instant)
        assert diary.called == expected
        assert diary.timers.deadline() == min((each[0] for each in waiting), default=math.inf)
