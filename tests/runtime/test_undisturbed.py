"""Work that comes to its end, whatever is raised in the thread that waits for it."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from functools import partial

import pytest

from colocache.runtime import undisturbed as module
from colocache.runtime.undisturbed import undisturbed
from colocache.runtime.waiting.threads import NoThread
from tests.conftest import Until
from tests.interrupts import SWALLOWED, Interrupt
from verification.interruptions.points import UNITS, Points


def interrupt() -> None:
    raise Interrupt


def of_a_thread(call: Callable[[], object]) -> object:
    """Return what a call returns or raises, in a thread of its own.

    What a trace function raises in the last line of an ``except`` leaves the thread with an exception that is handled
    for ever: that would be the context of all that is raised there afterwards, in other tests.
    """
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome[0]


@pytest.mark.filterwarnings(SWALLOWED)
@pytest.mark.parametrize("unit", UNITS)
def test_work_is_done_once_or_has_not_begun_whatever_is_raised(unit: str, until: Until) -> None:
    at, ended = 0, 0
    while True:
        at += 1
        begun, done, points = list[int](), list[int](), Points(at, unit, interrupt)
        threads = threading.active_count()

        def work(begun: list[int] = begun, done: list[int] = done) -> str:
            begun.append(1)
            done.append(1)
            return "result"

        result = of_a_thread(partial(points.trace, partial(undisturbed, work, "work")))
        assert result == "result" or isinstance(result, Interrupt)
        until(lambda threads=threads: threading.active_count() <= threads)
        assert begun == done
        assert len(done) <= 1
        ended += len(done)
        if not points.came:
            break
    assert done
    assert ended > 1, "also where the wait was interrupted"


def test_it_returns_what_comes_of_the_work_and_raises_what_the_work_raises() -> None:
    assert undisturbed(threading.get_ident, "work") != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        undisturbed(lambda: 1 // 0, "work")


def test_where_no_thread_can_be_had_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "start_at_once", lambda work, name, failed: failed(NoThread(11, "none")))
    assert undisturbed(threading.get_ident, "work") == threading.get_ident()
    monkeypatch.setattr(module, "why_no_threads", lambda: "a server without threads")
    assert undisturbed(threading.get_ident, "work") == threading.get_ident()


def test_a_child_does_not_wait_for_a_thread_of_its_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler has forked it, in the middle of the wait."""
    pids, over = itertools.count(1), threading.Event()
    monkeypatch.setattr(module, "getpid", lambda: next(pids))
    assert undisturbed(over.wait, "work") is None
    over.set()
