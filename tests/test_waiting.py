"""How threads and tasks wait for an answer; for greenlets see tests/integrations/test_gevent.py."""

from __future__ import annotations

import asyncio
import errno
import signal
import threading
from collections import deque
from typing import Any

import pytest

from colocache.runtime.waiting import TOO_LATE, Answer, Lock, is_patched, on_hub, start_thread, thread_id


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


def test_who_waits_is_woken_and_many_may(wait: Any, crew: Any, until: Any) -> None:
    answer = Answer()
    crew.start(lambda: wait(answer, 30), times=5)
    until(lambda: len(answer._wakers) == 5)
    answer.give("outcome")
    assert crew.join() == ["outcome"] * 5


def test_a_wait_that_takes_too_long_says_so(wait: Any) -> None:
    assert wait(Answer(), 0.001) is TOO_LATE


@pytest.mark.parametrize("kind", [TimeoutError, OSError, IndexError, KeyboardInterrupt])
def test_what_a_signal_handler_raises_in_who_waits_reaches_it(wait: Any, kind: type[BaseException]) -> None:
    def handler(*_: object) -> None:
        raise kind("the time is up")

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        with pytest.raises(kind, match="the time is up"):
            wait(Answer(), 30)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_answer_that_comes_while_its_waiter_gets_ready_is_not_missed(wait: Any) -> None:
    """1. A waiter finds no outcome; 2. the outcome is given, and nobody is to be woken; 3. the waiter goes to sleep."""
    answer = Answer()

    class Late(deque[Any]):
        def append(self, waker: Any) -> None:
            answer.give("outcome")
            super().append(waker)

    answer._wakers = Late()
    assert wait(answer, 5) == "outcome"


def test_any_time_is_a_time_out(crew: Any, until: Any) -> None:
    answer = Answer()
    crew.start(lambda: answer.result(1e12))  # more than the system has
    until(lambda: answer._wakers)
    answer.give(1)
    assert crew.join() == [1]


def test_whose_loop_is_closed_is_not_waited_for_and_the_others_are_woken() -> None:
    answer, woken = Answer(), []

    async def leave() -> None:
        asyncio.ensure_future(answer.awaited(30)).cancel()
        task = asyncio.ensure_future(answer.awaited(30))
        await asyncio.sleep(0)
        assert len(answer._wakers) == 1
        task.cancel()

    asyncio.run(leave())
    answer._call(lambda: woken.append(True))
    answer.give("outcome")
    assert woken == [True]


def test_a_lock_excludes_and_is_given_back_whatever_happens(crew: Any) -> None:
    lock, inside = Lock(), []

    def work() -> None:
        for _ in range(200):
            with lock.when_free():
                inside.append(1)
                assert len(inside) == 1
                inside.pop()

    crew.start(work, times=4)
    assert crew.join() == [None] * 4
    with pytest.raises(LookupError), lock.when_free():
        raise LookupError
    with lock.when_free():
        pass


def test_a_lock_is_given_back_wherever_a_signal_handler_raises() -> None:
    class Late(Exception):
        pass

    def handler(*_: object) -> None:
        raise Late

    lock, interruptions, before = Lock(), 0, signal.signal(signal.SIGALRM, handler)
    try:
        while interruptions < 300:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0002 + 0.000001 * (interruptions % 50))
                while True:
                    with lock.when_free():
                        pass
            except Late:
                interruptions += 1
            assert not lock.when_free().locked()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_thread_is_started_under_its_name() -> None:
    seen, done = [], threading.Event()

    def work() -> None:
        seen.append((threading.current_thread().name, threading.current_thread().daemon, thread_id()))
        done.set()

    start_thread(work, "its name")
    assert done.wait(30)
    assert seen[0][:2] == ("its name", True)
    assert seen[0][2] != thread_id() == threading.get_ident()


def test_a_system_without_another_thread_says_so_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(OSError, match="the thread 'its name' cannot be started: can't start new thread") as raised:
        start_thread(lambda: None, "its name")
    assert raised.value.errno == errno.EAGAIN


def test_here_is_no_gevent() -> None:
    assert not is_patched()
    assert not on_hub()
