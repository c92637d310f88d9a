"""What a driver answers: given once, and waited for by any number of threads, tasks and greenlets.

An answer takes no lock. It is a list to which the outcome is appended, and a queue of wakers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from . import greenlets, tasks, threads
from .threads import may_not_wait

#: What a wait gives that took too long. It is no exception: a signal handler of the application may raise TimeoutError
#: in a thread that waits, and that exception belongs to the application.
TOO_LATE: Final = object()


def _has_hub() -> bool:
    return "gevent" in sys.modules and greenlets.hub_to_wait_on() is not None


def may_block() -> bool:
    """Tell whether the whole thread may wait: another one can wake it, no driver waits with it, and no greenlets."""
    return not (may_not_wait() or _has_hub())


class Answer:
    """What somebody will say, once. Any number of threads, tasks and greenlets may wait for it.

    On a driver's thread, and at the end of the interpreter, nobody waits. What is asked there, by a finalizer for
    example, is too late at once.
    """

    __slots__ = ("_given", "_wakers")

    def __init__(self) -> None:
        self._given: list[Any] = []  # the first one counts
        self._wakers: dict[Callable[[], object], None] = {}

    def give(self, outcome: Any) -> None:
        """Answer, and wake those that wait. Callable from any thread, signal handler or finalizer, and again."""
        self._given.append(outcome)
        self._wake()

    def result(self, timeout: float) -> Any:
        """Wait in this thread or greenlet, and return the outcome, or `TOO_LATE` after ``timeout`` seconds."""
        if not self._given and not may_not_wait():
            wait = greenlets.wait if _has_hub() else threads.wait
            with self._registering() as register:
                wait(register, timeout)
        return self._given[0] if self._given else TOO_LATE

    async def awaited(self, timeout: float) -> Any:
        """Wait in this task, and return the outcome, or `TOO_LATE` after ``timeout`` seconds."""
        if not self._given and not may_not_wait():
            with self._registering() as register:
                await tasks.wait(register, timeout)
        return self._given[0] if self._given else TOO_LATE

    @contextmanager
    def _registering(self) -> Iterator[threads.Register]:
        """Register a waker for a while: a caller that waits in many short intervals must not leave one for each."""
        registered: list[Callable[[], object]] = []

        def register(waker: Callable[[], object]) -> None:
            registered.append(waker)
            self._register(waker)

        try:
            yield register
        finally:
            for waker in registered:
                self._wakers.pop(waker, None)

    def _register(self, waker: Callable[[], object]) -> None:
        """Have a waker called when the outcome is there. Both sides first do their own step, then look at the other's.

        1. The waiter appends its waker.
        2. The waiter looks at the outcome, or the giver looks at the wakers: one of them sees both.
        """
        self._wakers[waker] = None
        if self._given:
            waker()

    def _wake(self) -> None:
        """Call all wakers. Their waiters take them out.

        If they were taken out here, an exception of a signal handler could come while one of them is taken out and not
        called. As it is, a second `give` calls it.
        """
        for waker in [*self._wakers]:
            waker()
