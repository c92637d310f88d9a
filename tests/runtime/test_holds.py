"""Who in this process has what: nobody leaves anything locked, and nobody waits for his own thread."""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from colocache.runtime import holds
from colocache.runtime.holds import FOR_EVER, Alone, Hold, Holds, hold_of_caller, is_over
from colocache.runtime.waiting.threads import thread_id
from tests.conftest import PATIENCE, Crew
from tests.interrupts import Interrupt
from verification.interruptions.points import UNITS, Points


def interrupt() -> None:
    raise Interrupt


@pytest.mark.parametrize("unit", UNITS)
def test_an_exception_at_any_line_or_instruction_leaves_nobody_alone_for_ever(unit: str, crew: Crew) -> None:
    alone, done = Alone(), list[int]()

    def work() -> None:
        done.append(1)

    for at in itertools.count(1):
        points, before = Points(at, unit, interrupt), len(done)
        with contextlib.suppress(Interrupt):
            points.trace(lambda: alone.run(work))
        if not points.came:
            break
        assert not alone.holds.is_stuck()
        crew.start(lambda: alone.run(lambda: "next"))
        assert crew.join()[-1] == "next"
    assert at > 10
    assert len(done) == before + 1


def test_threads_do_their_work_one_after_the_other(crew: Crew) -> None:
    alone, inside, met = Alone(), list[int](), list[int]()

    def work() -> None:
        inside.append(1)
        met.append(len(inside))
        threading.Event().wait(0.0001)  # lets another thread run
        inside.pop()

    crew.start(lambda: [alone.run(work) for _ in range(50)], times=4)
    crew.join()
    assert met == [1] * 200


def test_who_interrupts_its_own_thread_does_its_part_at_once() -> None:
    alone = Alone()
    assert alone.run(lambda: alone.run(lambda: "inner") + ", outer") == "inner, outer"
    assert not alone.holds.held


def test_nobody_waits_for_ever_for_a_thread_that_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a signal handler, for example, that has interrupted it."""
    monkeypatch.setattr(holds, "PATIENCE", 0.01)
    alone, done = Alone(), threading.Event()

    def handler() -> bool:
        threading.Thread(target=lambda: alone.run(done.set)).start()
        return done.wait(PATIENCE)

    assert alone.run(handler)


def test_what_a_function_has_that_has_ended_is_taken_over() -> None:
    things = Holds()

    def take() -> None:
        assert things.take(7, hold_of_caller())

    def begin() -> None:
        take()
        assert things.is_stuck()
        assert things.is_mine(7, hold_of_caller())
        assert not things.take_soon(7, hold_of_caller(), 60.0), "at once: it would wait for itself"

    begin()
    assert not things.is_stuck()
    mine = hold_of_caller()
    assert things.take_soon(7, mine, 0.0)
    assert things.has(7, mine)


def test_what_a_thread_has_that_has_ended_is_taken_over(crew: Crew) -> None:
    things = Holds()
    crew.start(lambda: things.take(7, hold_of_caller()))
    assert crew.join() == [True]
    assert things.take_soon(7, hold_of_caller(), 0.0)


def test_what_is_held_for_ever_is_not_taken_over() -> None:
    things = Holds()
    assert things.take(7, FOR_EVER)
    assert not things.take_soon(7, hold_of_caller(), 0.0)


@pytest.mark.skipif(sys.platform != "linux", reason="forks by the C library of Linux")
def test_a_child_of_which_python_has_not_heard_looks_at_no_thread_of_its_parent(
    crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python still lists these threads, and what it reads there is another thread's stack by then: it crashes."""
    things, taken, go_on = Holds(), threading.Event(), threading.Event()

    def hold(what: int) -> bool:
        return things.take(what, hold_of_caller()) and (taken.set() or go_on.wait(PATIENCE))

    def crash() -> None:
        raise AssertionError("this looks at the threads of the parent")

    def take(what: int) -> bool:
        return things.take(what, hold_of_caller())

    def take_and_end() -> bool:
        return take(2)

    def check() -> bool:
        monkeypatch.setattr(sys, "_current_frames", crash)
        was_free = things.take_soon(1, hold_of_caller(), 0.0)
        is_over = take_and_end() and things.take_soon(2, hold_of_caller(), 0.0)
        return was_free and is_over and take(3) and things.is_mine(3, hold_of_caller()) and things.is_stuck()

    crew.start(lambda: hold(1))
    assert taken.wait(PATIENCE)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # so that no thread asks for the interpreter, which the child would wait for
    try:
        child: int = ctypes.PyDLL(None).fork()
        if not child:
            code = 1
            try:
                code = 0 if check() else 2
            finally:
                os._exit(code)
    finally:
        sys.setswitchinterval(before)
        go_on.set()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    crew.join()


def test_a_function_has_not_ended_while_what_it_calls_comes_and_goes() -> None:
    """Its thread goes on while another one looks. A generator that yields just then has no caller any more."""
    interval = sys.getswitchinterval()
    looks_on, taken, wrong = threading.Event(), list[Hold](), list[int]()

    def numbers() -> Iterator[int]:
        yield from range(100)

    def work() -> None:
        taken.append((thread_id(), sys._getframe(), os.getpid()))
        looks_on.wait(PATIENCE)
        for _ in range(1500):
            sum(numbers())
        taken.clear()

    thread = threading.Thread(target=work)
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        while not taken:
            pass
        [hold] = taken
        looks_on.set()
        looks = 0
        while taken:
            if is_over(hold) and taken:
                wrong.append(looks)
            looks += 1
    finally:
        sys.setswitchinterval(interval)
        thread.join(PATIENCE)
    assert looks > 0
    assert not wrong
    assert is_over(hold)
