"""The lease of a host: until when everything may be served, what after that, and the order in which it is asked."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from colocache.core.hosts.layout import HEAD_WORDS, UNTIL
from colocache.core.hosts.lease import FOREVER, Lease

LEASE, BY_AGE = 3.0, 23.0
NOW = 100.0


class Memory:
    """The head of the file ``hosts``, and what was done with it, in order."""

    def __init__(self) -> None:
        self.journal: list[str] = []
        self._words = [0] * HEAD_WORDS
        self.after: Callable[[], object] = lambda: None  # is done as soon as the word was read

    def __getitem__(self, place: int) -> int:
        self.journal.append("read")
        word = self._words[place]
        self.after()
        return word

    def __setitem__(self, place: int, value: int) -> None:
        self._words[place] = value

    def order(self) -> None:
        self.journal.append("order")

    def full(self) -> None:
        self.journal.append("full")

    def publish(self, until: float) -> None:
        """Do what the gateway does."""
        self[UNTIL] = int(until * 1e9)

    def lease(self) -> Lease:
        """Return the lease, as one more process knows it."""
        return Lease(self, self, lease=LEASE, serves_by_age=BY_AGE)


@pytest.fixture
def memory() -> Memory:
    return Memory()


def test_a_host_that_is_not_established_serves_nothing(memory: Memory) -> None:
    lease = memory.lease()
    for now in (-1.0, 0.0, 1.0, NOW):  # the clock of a machine begins at 0
        assert lease.until(now) <= now
        assert lease.loaded_after(now) == math.inf


def test_a_current_host_serves_everything(memory: Memory) -> None:
    lease = memory.lease()
    memory.publish(NOW + 1)
    assert lease.until(NOW) == NOW + 1
    assert lease.loaded_after(NOW) == -math.inf
    assert lease.loaded_after(math.nextafter(NOW + 1, 0)) == -math.inf


def test_a_host_that_is_behind_serves_by_age_and_after_a_time_nothing(memory: Memory) -> None:
    lease = memory.lease()
    memory.publish(NOW)
    for behind in (0.0, 1.0, LEASE, math.nextafter(NOW + BY_AGE, 0) - NOW):
        assert lease.until(NOW + behind) == NOW
        assert lease.loaded_after(NOW + behind) == NOW + behind - LEASE
    for behind in (BY_AGE, BY_AGE + 1, 1e6):
        assert lease.loaded_after(NOW + behind) == math.inf


def test_a_host_that_hears_again_serves_everything_again(memory: Memory) -> None:
    lease = memory.lease()
    memory.publish(NOW - 100)
    assert lease.loaded_after(NOW) == math.inf
    memory.publish(NOW + 1)
    assert lease.loaded_after(NOW) == -math.inf


def test_the_word_is_read_once_in_a_lease_with_a_fence_behind_it(memory: Memory) -> None:
    lease = memory.lease()
    memory.publish(NOW + 1)
    for _ in range(3):
        lease.until(NOW)
        lease.loaded_after(NOW)
    assert memory.journal == ["read", "order"]
    memory.publish(NOW + 2)
    assert lease.until(NOW + 0.5) == NOW + 1, "the copy has not run out"
    assert lease.until(NOW + 1) == NOW + 2
    assert memory.journal == ["read", "order"] * 2


def test_a_copy_holds_after_the_word_was_lowered(memory: Memory) -> None:
    """The gateway has met another host, which gives no complete receipt before a lease has passed."""
    lease, other = memory.lease(), memory.lease()
    memory.publish(NOW + 1)
    lease.until(NOW)
    memory.publish(NOW)
    assert lease.until(NOW) == NOW + 1
    assert other.until(NOW) == NOW
    assert lease.until(NOW + 1) == NOW


def test_of_two_threads_each_has_a_right_copy(memory: Memory) -> None:
    """1. One reads the word. 2. Another one reads a later one, and keeps it. 3. The first one keeps its own."""

    def another_thread() -> None:
        memory.after = lambda: None
        memory.publish(NOW + 2)
        assert lease.until(NOW) == NOW + 2

    lease = memory.lease()
    memory.publish(NOW + 1)
    memory.after = another_thread
    assert lease.until(NOW) == NOW + 1
    assert lease.until(NOW + 1) == NOW + 2


def test_a_host_that_is_alone_serves_everything_for_ever() -> None:
    for now in (-math.inf, 0.0, NOW, 1e18, math.inf):
        assert FOREVER.until(now) == FOREVER.known == math.inf
        assert FOREVER.loaded_after(now) == -math.inf


def test_what_was_loaded_while_the_host_became_current_is_not_young(memory: Memory) -> None:
    """The host may know all events only up to an instant before the loader began."""
    lease = memory.lease()
    memory.publish(NOW)
    assert lease.as_of(NOW) == NOW
    assert lease.as_of_end(NOW, NOW + 1) == NOW, "it was behind all the time"
    memory.publish(NOW + 0.5)
    for now in (NOW + 0.4, NOW + 1):
        assert lease.as_of_end(NOW, now) == NOW - LEASE
    assert FOREVER.as_of_end(NOW, NOW + 1) == NOW
