"""The driver of a member of a group, as far as no other member is needed."""

from __future__ import annotations

import logging
import os
from typing import Any

import pytest

from colocache.config import Config
from colocache.core.group.members import Member
from colocache.runtime import threaded
from colocache.runtime.logs import Log
from colocache.runtime.threaded import CannotJoin, ThreadDriver, _StateLog
from colocache.runtime.waker import Waker


def driver_of(**settings: Any) -> ThreadDriver:
    return ThreadDriver(Config.resolve({"group": "test", **settings}, {}))


def files(directory: str) -> list[str]:
    """Return the names of all files below a directory."""
    return [name for _, _, names in os.walk(directory) for name in names]


class Late(Exception):
    """What a signal handler raises."""


class Interrupted:
    """A waker in which a signal handler raises once."""

    def __init__(self) -> None:
        self.calls = 0

    def wake(self) -> None:
        self.calls += 1
        if self.calls == 1:
            raise Late


def test_a_thread_that_is_interrupted_while_it_wakes_the_driver_still_does_so() -> None:
    """What must not happen:

    1. one thread has noted that it wakes the driver, and a signal handler raises in it;
    2. another thread relies on that note, and waits.
    """
    driver: Any = driver_of()
    driver._woken, driver._waker = False, Interrupted()
    with pytest.raises(Late):
        driver.tell(lambda calls, now: None)
    assert driver._waker.calls == 2


def test_before_it_joins_a_driver_refuses_what_it_is_asked() -> None:
    driver = driver_of()
    asked = driver.ask(lambda calls, ticket, now: None, "otherwise")
    assert asked.result(0) == "otherwise"
    assert not driver.alive


def test_a_driver_that_was_told_to_leave_before_it_joined_is_no_member(run_dir: str) -> None:
    driver = driver_of(directory=run_dir)
    driver.leave(0.0)
    with pytest.raises(Exception, match="nobody waits for this member any more"):
        driver.join()
    assert files(run_dir) == ["0.seat"]


def test_a_driver_whose_thread_starts_too_late_is_no_member(run_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    late: list[Any] = []
    monkeypatch.setattr(threaded, "JOINING", 0.0)
    monkeypatch.setattr(threaded, "start_driver", lambda work, *_: late.append(work))
    driver = driver_of(directory=run_dir)
    with pytest.raises(CannotJoin, match="the cache's thread does not get to work"):
        driver.join()
    late[0]()
    assert (driver.alive, files(run_dir)) == (False, ["0.seat"])


def test_one_line_says_that_a_member_is_behind_if_that_lasts_and_one_that_it_is_current_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "colocache")
    others = [(Member(bytes([n]) * 16, f"web1/{n}", 1), None, heard) for n, heard in enumerate([True, False])]
    state, said = _StateLog(Log("shop"), 3.0), f"colocache[{os.getpid()}] shop: "
    for now, current in ((0.0, False), (2.9, False), (2.95, True), (3.0, False)):
        state.note(lambda: others, now, current)
    assert caplog.messages == []
    for now in (6.0, 9.0):
        state.note(lambda: others, now, False)
    assert caplog.messages == [said + "is behind: it does not hear web1/1"]
    for now in (10.0, 11.0):
        state.note(lambda: others, now, True)
    assert caplog.messages[1:] == [said + "is current again: it hears everybody"]


def test_a_waker_may_wake_more_often_than_its_pipe_holds() -> None:
    waker = Waker()
    for _ in range(100_000):
        waker.wake()
    waker.rest()
