"""The driver of a member of a group, as far as no other member is needed."""

from __future__ import annotations

import os
from typing import Any

import pytest

from colocache.config import Config
from colocache.runtime.threaded import ThreadDriver
from colocache.runtime.waker import Waker


def driver_of(**settings: Any) -> ThreadDriver:
    return ThreadDriver(Config.resolve({"group": "test", **settings}, {}))


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


def test_a_driver_that_was_told_to_leave_before_it_joined_is_no_member(run_dir: str, until: Any) -> None:
    driver = driver_of(directory=run_dir)
    driver.leave(0.0)
    with pytest.raises(Exception, match="nobody waits for this member any more"):
        driver.join()
    assert [name for _, _, names in os.walk(run_dir) for name in names] == ["0.seat"]


def test_a_waker_may_wake_more_often_than_its_pipe_holds() -> None:
    waker = Waker()
    for _ in range(100_000):
        waker.wake()
    waker.rest()
