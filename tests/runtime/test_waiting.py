"""How threads and tasks wait for an answer. For greenlets see tests/runtime/test_gevent.py."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
import signal
import sys
import threading
from collections import deque
from time import monotonic
from typing import Any

import pytest

from colocache.runtime.waiting import threads
from colocache.runtime.waiting.answers import TOO_LATE, Answer
from colocache.runtime.waiting.greenlets import on_hub
from colocache.runtime.waiting.threads import (
    NoThread,
    ThreadErrands,
    hand_over,
    hand_over_line,
    is_patched,
    on_driver_thread,
    start_driver,
    start_helper,
    thread_id,
)
from tests.interrupts import SWALLOWED, interrupted


async def in_task(answer: Answer, timeout: float) -> Any:
    return await answer.awaited(timeout)


def by_task(answer: Answer, timeout: float) -> Any:
    return asyncio.run(in_task(answer, timeout))


@pytest.fixture(params=[Answer.result, by_task], ids=["thread", "task"])
def wait(request: pytest.FixtureRequest) -> Any:
    """Waits in a thread, or in a task."""
    return request.param


def test_the_first_outcome_counts(wait: Any) -> None:
    answer = Answer()
    answer.give("first")
    answer.give("second")
    assert wait(answer, 0) == "first"


def test_none_is_an_outcome(wait: Any) -> None:
    answer = Answer()
    answer.give(None)
    assert wait(answer, 0) is None


def test_all_that_wait_are_woken(wait: Any, crew: Any, until: Any) -> None:
    answer = Answer()
    crew.start(lambda: wait(answer, 30), times=5)
    until(lambda: len(answer._wakers) == 5)
    answer.give("outcome")
    assert crew.join() == ["outcome"] * 5


def test_a_wait_that_takes_too_long_says_so(wait: Any) -> None:
    assert wait(Answer(), 0.001) is TOO_LATE


def test_a_wait_that_takes_too_long_leaves_nothing_behind(wait: Any) -> None:
    """Who waits for a load looks again and again, and so waits in many short intervals."""
    answer = Answer()
    for _ in range(3):
        assert wait(answer, 0.001) is TOO_LATE
    assert not answer._wakers


@pytest.mark.parametrize("kind", [TimeoutError, OSError, IndexError, KeyboardInterrupt])
def test_what_a_signal_handler_raises_in_a_waiter_reaches_it(
    wait: Any, kind: type[BaseException], crew: Any, until: Any
) -> None:
    answer = Answer()

    def handler(*_: object) -> None:
        raise kind("the time is up")

    def interrupt() -> None:
        until(lambda: answer._wakers)  # before, it would interrupt a loop that begins
        os.kill(os.getpid(), signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, handler)
    try:
        crew.start(interrupt)
        with pytest.raises(kind, match="the time is up"):
            wait(answer, 30)
        crew.join()
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_answer_that_comes_while_its_waiter_gets_ready_is_not_missed(wait: Any) -> None:
    """What must not happen:

    1. A waiter finds no outcome.
    2. The outcome is given, and there is nobody to wake.
    3. The waiter goes to sleep.
    """
    answer = Answer()

    class Late(dict[Any, Any]):
        def __setitem__(self, waker: Any, nothing: Any) -> None:
            answer.give("outcome")
            super().__setitem__(waker, nothing)

    answer._wakers = Late()
    began = monotonic()
    assert wait(answer, 30) == "outcome"
    assert monotonic() < began + 20, "the waiter slept until its time was over"


@pytest.mark.filterwarnings(SWALLOWED)
def test_who_is_not_woken_because_of_an_exception_is_woken_when_the_answer_is_given_again(
    wait: Any, crew: Any, until: Any
) -> None:
    """It may come at any point. Whoever is interrupted in giving an answer gives it once more."""
    for number in itertools.count(1):
        answer, waiters = Answer(), type(crew)()
        waiters.start(lambda answer=answer: wait(answer, 60), times=3)
        until(lambda answer=answer: len(answer._wakers) == 3)
        came = interrupted(number, lambda answer=answer: answer.give(1), ("/waiting/", "/asyncio/"))
        if came:
            answer.give(2)
        first, *others = waiters.join()
        assert first in (1, 2)
        assert others == [first] * 2
        if not came:
            break
    assert number > 8


def test_any_time_is_a_time_out(crew: Any, until: Any) -> None:
    answer = Answer()
    crew.start(lambda: answer.result(1e12))  # more than the system has
    until(lambda: answer._wakers)
    answer.give(1)
    assert crew.join() == [1]


def test_a_waiter_whose_loop_is_closed_is_passed_over_and_the_others_are_woken() -> None:
    answer, woken = Answer(), []

    async def leave() -> None:
        asyncio.ensure_future(answer.awaited(30)).cancel()
        task = asyncio.ensure_future(answer.awaited(30))
        await asyncio.sleep(0)
        assert len(answer._wakers) == 1
        task.cancel()

    asyncio.run(leave())
    answer._register(lambda: woken.append(True))
    answer.give("outcome")
    assert woken == [True]


def test_a_waiter_that_was_cancelled_is_passed_over() -> None:
    answer, troubles = Answer(), []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, trouble: troubles.append(trouble))
        task = asyncio.ensure_future(answer.awaited(30))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        answer.give("outcome")
        await asyncio.sleep(0)  # so that the loop is woken

    asyncio.run(main())
    assert (troubles, answer._wakers) == ([], {})


def on_driver(work: Any, errands: Any = None) -> Any:
    """Do something on a driver's thread, and return what it returns, or why there is no such thread."""
    done: Answer = Answer()
    errands = errands if errands is not None else ThreadErrands()
    start_driver(lambda: done.give(work()), "its name", errands, done.give)
    return done.result(30)


def test_a_driver_is_started_under_its_name() -> None:
    thread, here = on_driver(lambda: (threading.current_thread(), thread_id()))
    assert (thread.name, thread.daemon) == ("its name", True)
    assert here != thread_id() == threading.get_ident()


def test_a_driver_waits_for_nobody(wait: Any) -> None:
    """A finalizer that uses the cache may run in its thread."""
    answer = Answer()
    assert on_driver(lambda: (wait(answer, 30), answer._wakers, on_driver_thread())) == (TOO_LATE, {}, True)
    assert not on_driver_thread()


@pytest.mark.parametrize("at", ["first", "second"])
def test_a_system_without_another_thread_says_so(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    if at == "first":
        monkeypatch.setattr(threads, "_start_new_thread", refuse)
    else:
        monkeypatch.setattr(threading.Thread, "start", refuse)
    error = on_driver(lambda: None)
    assert isinstance(error, NoThread)
    assert error.errno == errno.EAGAIN
    assert "the thread 'its name' cannot be started: can't start new thread" in str(error)


@pytest.mark.parametrize("at", ["first", "second", "before"])
def test_a_thread_for_which_there_is_no_memory_says_so(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """Otherwise who waits for it would wait for as long as it may take."""

    def refuse(*_: object) -> None:
        raise MemoryError

    if at == "first":
        monkeypatch.setattr(threads, "_start_new_thread", refuse)
    elif at == "second":
        monkeypatch.setattr(threading.Thread, "start", refuse)
    else:
        monkeypatch.setattr(threads, "start", refuse)
    error = on_driver(lambda: None)
    assert isinstance(error, NoThread)
    assert error.errno == errno.ENOMEM
    assert "the thread 'its name' cannot be started: there is not enough memory" in str(error)


def test_what_a_signal_handler_raises_while_a_thread_starts_reaches_the_application(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise RuntimeError("late")

    monkeypatch.setattr(threads, "_start_new_thread", interrupted)
    with pytest.raises(RuntimeError, match="late"):
        on_driver(lambda: None)


# --- Errands of a driver's thread


def test_errands_are_done_elsewhere_and_in_order() -> None:
    done: list[Any] = []
    errands = ThreadErrands()

    def work() -> None:
        for number in range(100):
            assert hand_over(lambda number=number: done.append((number, on_driver_thread())))  # type: ignore[misc]

    on_driver(work, errands)
    errands.finish(30)
    assert done == [(number, False) for number in range(100)]


def test_elsewhere_a_thread_does_its_errands_itself() -> None:
    assert not hand_over(lambda: None)


def test_an_errand_that_takes_long_does_not_hold_the_driver_up() -> None:
    go_on, done, errands = threading.Event(), [], ThreadErrands()
    on_driver(lambda: [hand_over(go_on.wait), hand_over(lambda: done.append(1))], errands)
    assert not done
    go_on.set()
    errands.finish(30)
    assert done == [1]


def test_after_an_errand_that_raises_the_others_are_done(until: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    done, errands = [], ThreadErrands()
    on_driver(lambda: hand_over(lambda: 1 / 0), errands)
    until(lambda: raised)
    on_driver(lambda: hand_over(lambda: done.append(1)), errands)
    errands.finish(30)
    assert done == [1]


def test_after_an_errand_that_raises_those_that_wait_already_are_done_too(
    until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raised: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    go_on, done, errands = threading.Event(), [], ThreadErrands()
    on_driver(lambda: [hand_over(lambda: go_on.wait() and 1 / 0), hand_over(lambda: done.append(1))], errands)
    go_on.set()
    until(lambda: done and raised)


def test_a_log_handler_that_waits_keeps_no_errand_waiting_nor_the_other_way_round(until: Any) -> None:
    go_on, done, errands = threading.Event(), [], ThreadErrands()
    on_driver(lambda: [hand_over_line(go_on.wait), hand_over(lambda: done.append("errand"))], errands)
    until(lambda: done == ["errand"])
    on_driver(lambda: hand_over_line(lambda: done.append("line")), errands)
    go_on.set()
    until(lambda: done == ["errand", "line"])


def test_trace_and_profile_functions_of_the_application_do_not_run_in_a_driver() -> None:
    """What they raise would end it, and they may wait for what it has to do."""
    seen = []

    def look(frame: Any, event: str, _: object) -> None:
        if frame.f_code.co_name == "work":
            seen.append(event)

    def work() -> object:
        return sys.gettrace(), sys.getprofile()

    threading.settrace(look)
    threading.setprofile(look)
    try:
        assert on_driver(work) == (None, None)
    finally:
        threading.settrace(None)  # type: ignore[arg-type]
        threading.setprofile(None)
    assert seen == []


def test_a_helper_of_a_driver_counts_as_a_driver() -> None:
    answers = []

    def ask() -> object:
        answer = Answer()
        start_helper(lambda: answer.give(on_driver_thread()), "helper")
        answers.append(answer)
        return None

    on_driver(ask)
    assert answers[0].result(30) is True
    ask()
    assert answers[1].result(30) is False


def test_an_errand_that_comes_while_the_thread_stops_is_done() -> None:
    """What must not happen:

    1. The thread finds no errand any more.
    2. The driver's thread adds one, and starts no thread, because there is one.
    3. The thread gives its duty back, and stops.
    """
    done, errands = [], ThreadErrands()

    class Late(deque[Any]):
        def append(self, duty: Any) -> None:
            if not done:
                errands._others._errands.append(lambda: done.append(2))
                done.append(1)
            super().append(duty)

    errands._others._duty = Late([None])
    errands._others._errands.append(lambda: None)
    errands._others._work()
    assert done == [1, 2]


def test_errands_without_a_thread_are_done_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the end of a process, Python starts no threads."""

    def refuse(*_: object) -> None:
        raise NoThread

    monkeypatch.setattr(threads, "start", refuse)
    done, errands = [], ThreadErrands()
    errands.run(lambda: done.append(1))
    assert not done
    errands.finish(0)
    assert done == [1]


def test_the_newest_errands_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "start", lambda *_: None)
    done, errands = list[int](), ThreadErrands()
    for number in range(threads.MOST_ERRANDS + 1):
        errands.run(lambda number=number: done.append(number))  # type: ignore[misc]
    errands.finish(0)
    assert done == list(range(1, threads.MOST_ERRANDS + 1))


def test_here_is_no_gevent() -> None:
    assert not is_patched()
    assert not on_hub()
