"""Python's switch interval is short while somebody waits, and as it was otherwise."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

from colocache.runtime.switch_interval import SwitchInterval

if TYPE_CHECKING:
    from tests.conftest import NewCache, Until


@pytest.fixture(autouse=True)
def own() -> Iterator[float]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.005)
    yield 0.005
    sys.setswitchinterval(before)


def test_it_is_short_while_somebody_waits_and_as_it_was_afterwards(own: float) -> None:
    interval = SwitchInterval(0.001)
    interval.restore()
    assert sys.getswitchinterval() == own
    for _ in range(2):
        interval.shorten()
        assert sys.getswitchinterval() == 0.001
    interval.restore()
    assert sys.getswitchinterval() == own


def test_what_somebody_else_has_set_meanwhile_stays() -> None:
    interval = SwitchInterval(0.001)
    interval.shorten()
    sys.setswitchinterval(0.002)
    interval.restore()
    assert sys.getswitchinterval() == 0.002
    sys.setswitchinterval(0.0005)
    interval.shorten()
    assert sys.getswitchinterval() == 0.0005, "it is short enough"
    interval.restore()
    assert sys.getswitchinterval() == 0.0005


def test_two_that_want_different_ones_leave_the_process_its_own(own: float) -> None:
    for first, second in (
        (SwitchInterval(0.001), SwitchInterval(0.0005)),
        (SwitchInterval(0.0005), SwitchInterval(0.001)),
    ):
        first.shorten()
        second.shorten()
        first.restore()
        second.shorten()
        second.restore()
        assert sys.getswitchinterval() == own


def test_zero_leaves_it_alone(own: float) -> None:
    interval = SwitchInterval(0.0)
    interval.shorten()
    assert sys.getswitchinterval() == own


def test_it_is_short_while_a_cache_is_asked(new_cache: NewCache, until: Until, own: float) -> None:
    cache = new_cache(switch_interval="1ms")
    cache.set("k", 1)
    until(lambda: cache.get("none") is None and sys.getswitchinterval() == 0.001)
    until(lambda: sys.getswitchinterval() == own)
    cache.set("k", 1)
    cache.close()
    assert sys.getswitchinterval() == own


def test_a_forked_child_has_it_as_it_was(new_cache: NewCache, until: Until, own: float) -> None:
    cache: Any = new_cache(switch_interval="1ms")
    until(lambda: cache.get("none") is None and sys.getswitchinterval() == 0.001)
    child = os.fork()
    if not child:
        os._exit(sys.getswitchinterval() != own)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
