"""The driver of a private cache: its `Peer` knows no other member.

There is no thread, socket, pipe or file. The thread that makes a call carries it out at once. What is due by the clock
is done by the next call, and by those that wait, because they look at the clock themselves.

Calls go through a queue, although one thread at a time carries them out. The lock is one that its thread may take
again. So a signal handler or a finalizer may use the cache while its own thread is inside. Its command is queued, and
the call that it has interrupted carries it out. It does not wait for the answer, which would never come.

What a handler raises here, as time limits do, may come in the middle of a step of the peer. Then nobody knows how far
the step came, so this member ends: all that wait are let go, and the next call makes a new, empty member.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from time import monotonic
from typing import Any

from ..config import Config
from ..core.gate import Gate
from ..core.group.members import Member
from .driver import Command, Driver
from .waiting.answers import TOO_LATE, Asked
from .waiting.threads import RLock, is_patched, thread_id


class _NoJournal:
    """The journal of a member whose events nobody reads after its end."""

    def append(self, number: int, frame: bytes) -> None:
        """Keep nothing."""


class _Asked(Asked):
    """An answer whose waiters do meanwhile what is due by the clock."""

    __slots__ = ("_driver",)

    def __init__(self, driver: InlineDriver) -> None:
        super().__init__()
        self._driver = driver

    def result(self, timeout: float) -> Any:
        """Wait in this thread or greenlet, and return the outcome, or `TOO_LATE` after ``timeout`` seconds."""
        driver, ends = self._driver, monotonic() + timeout
        while True:
            outcome = super().result(driver.time_to_sleep(ends))
            if outcome is not TOO_LATE or not driver.may_answer_before(ends):
                return outcome
            driver.look_at_the_clock()

    async def awaited(self, timeout: float) -> Any:
        """Wait in this task, and return the outcome, or `TOO_LATE` after ``timeout`` seconds."""
        driver, ends = self._driver, monotonic() + timeout
        while True:
            outcome = await super().awaited(driver.time_to_sleep(ends))
            if outcome is not TOO_LATE or not driver.may_answer_before(ends):
                return outcome
            driver.look_at_the_clock()


class InlineDriver(Driver):
    """The driver of a private cache. It needs nothing of the system but memory."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._lock = RLock()
        self._working = 0  # the id of the thread that carries out commands
        now = monotonic()
        self._take_peer(Member(os.urandom(16), "private/0", os.getpid()), config, _NoJournal(), now)
        self._peer.start(now)
        self._due = self._peer.deadline()  # when the clock has to be looked at
        # Not the peer's gate: that shuts when nobody has ticked for a lease. Here nobody must be heard.
        self.gate = Gate()
        self.gate.current_until = self.gate.max_stale = math.inf
        self._alive = True

    def age(self, seconds: float) -> None:
        """Be as if so many seconds had passed. For tests."""
        self.tell(lambda calls, now: calls.age(seconds, now))

    def leave(self, patience: float) -> None:
        """End, and let go of all that wait. There is nothing to wait for. Take no lock."""
        self.shut_gate()
        self._alive = False
        self._let_go_of_all()

    close = leave

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what is the parent's."""
        self.shut_gate()
        self._alive = False
        if is_patched():  # unlike threads, greenlets that wait are copied, too
            self._let_go_of_all()

    # --- For those that wait

    def time_to_sleep(self, ends: float) -> float:
        """Return for how many seconds a waiter may sleep: until something is due, or its own time is over."""
        return max(0.0, min(ends, self._due) - monotonic()) if self.may_answer_before(ends) else 0.0

    def may_answer_before(self, ends: float) -> bool:
        """Tell whether it makes sense to wait any longer."""
        return self._alive and self._working != thread_id() and monotonic() < ends

    def look_at_the_clock(self) -> None:
        """Do what is due."""
        self.tell(lambda calls, now: None)

    # --- One thread at a time

    def new_call(self) -> Asked:
        """Return an answer whose waiters look at the clock."""
        return _Asked(self)

    def _look(self, view: Callable[[float], Any]) -> Any:
        seen: list[Any] = []
        self._order(lambda now: seen.append(view(now)), lambda: seen.append(view(monotonic())))
        return seen[0] if seen else view(monotonic())  # a signal handler reads what its own thread is about to change

    def _order(self, carry_out: Callable[[float], None], refuse: Callable[[], None]) -> None:
        try:
            self._commands.append(Command(carry_out, refuse))
            self._work()
        except BaseException:
            self.close(0.0)
            raise
        if not self._alive:
            self._let_go_of_all()

    def _work(self) -> None:
        """Carry out what is queued, unless this very thread does so already.

        A command of a signal handler may be queued after the last look at the queue, and before `_working` is set back.
        Then the handler does not carry it out. So the queue is looked at once more.
        """
        with self._lock:
            while self._commands and self._alive and not self._working:
                self._working = thread_id()
                try:
                    self._carry_out_all()
                finally:
                    self._working = 0

    def _carry_out_all(self) -> None:
        while self._commands and self._alive:
            command, now = self._commands.popleft(), monotonic()
            if now >= self._due:
                self._peer.tick(now)
            command.carry_out(now)
            self._peer.actions()  # there is nobody to send anything to
            self._resolve()
            self._due = self._peer.deadline()
