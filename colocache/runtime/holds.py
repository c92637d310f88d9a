"""Which thread of this process has what, so that nobody can leave anything locked.

A lock is taken in one step, and given back in another. An exception of a signal handler can come between taking it and
being sure to give it back: then it would stay locked for good. And where the handler itself comes for it, its thread
would wait for itself. `Holds` know who has what: a thread, and a function in it. So whoever comes next takes over from
a function that has ended, and nobody waits for his own thread.

After a fork, what the threads of the parent had is free, because they are not there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from os import getpid
from time import monotonic
from types import FrameType
from typing import Final, TypeVar

from ..interruptions import raise_if_from_handler
from .waiting.threads import allocate_lock, thread_id

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE = 20e-6, 1e-3  # s, between two tries
PATIENCE = 0.5  # s that a thread waits until it is alone

#: A thread, a function in it that has begun and not ended, and the process; no function: it never ends.
Hold = tuple[int, FrameType | None, int]

FOR_EVER: Final[Hold] = (0, None, 0)


def rest(seconds: float) -> None:
    """Wait without anything that gevent replaces: whoever has a lock must not be switched away from."""
    lock = allocate_lock()
    lock.acquire()
    lock.acquire(True, seconds)


def hold_of_caller() -> Hold:
    """Return the hold of the function that has called the one that calls this."""
    return thread_id(), sys._getframe(2), getpid()


class Holds:
    """Which thread of this process has what. Taking is one step, so there is no moment at which nobody knows."""

    def __init__(self) -> None:
        self.held: dict[int, Hold] = {}

    def take(self, what: int, hold: Hold) -> bool:
        """Take something; return False if it is taken, even by this thread."""
        return self.held.setdefault(what, hold) is hold

    def take_soon(self, what: int, hold: Hold, patience: float) -> bool:
        """Take something; return False if others have it all the time, or this very thread."""
        ends, pause = monotonic() + patience, FIRST_PAUSE
        while not (self.take(what, hold) or self.take_over(what, hold)):
            if monotonic() >= ends or self.is_mine(what, hold):
                return False
            rest(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return True

    def take_over(self, what: int, hold: Hold) -> bool:
        """Take something from a function that has ended; return False if there is none.

        It may have been given back, and taken by another thread, while this one has found out that the function has
        ended. So the last look and the change are one step: Python switches threads after calls only.
        """
        held = self.held
        other = held.get(what)
        if other is None or not is_over(other):
            return False
        if what in held and held[what] is other:
            held[what] = hold
            return True
        return False

    def has(self, what: int, hold: Hold) -> bool:
        """Tell whether it is this one that has it."""
        return self.held.get(what) is hold

    def is_mine(self, what: int, hold: Hold) -> bool:
        """Tell whether a function of this thread has it that has not ended, and is interrupted by this one."""
        other = self.held.get(what)
        return other is not None and other[0] == hold[0] and not is_over(other)

    def is_stuck(self) -> bool:
        """Tell whether anything is taken, by a function that has not ended."""
        return not all(is_over(each) for each in [*self.held.values()])

    def give_back(self, what: int) -> None:
        """Give something back. Callable twice."""
        self.held.pop(what, None)


class Alone:
    """Has one thread at a time do something: a lock of which nothing is left when that is over, whatever is raised.

    A signal handler or a finalizer that comes in between, on the same thread, does its own part at once. And nobody
    waits for longer than `PATIENCE`, in case that a handler waits for this very thread. So what is done must bear that.
    """

    def __init__(self) -> None:
        self.holds = Holds()

    def run(self, work: Callable[[], T]) -> T:
        """Do something alone, and return what comes of it."""
        holds, hold = self.holds, (thread_id(), sys._getframe(), getpid())
        try:
            if not holds.take(0, hold):
                holds.take_soon(0, hold, PATIENCE)
            return work()
        finally:  # no call before it is deleted: an exception of a signal handler comes after calls only
            if 0 in holds.held and holds.held[0] is hold:
                del holds.held[0]
            del hold  # it has this frame, which would have it


def is_over(hold: Hold) -> bool:
    """Tell whether the function has ended. What it still refers to is let go then, although a traceback may have it.

    The function itself is asked, in one step of the interpreter. To look for it on the stack of its thread would take
    several steps, and between two of them that thread goes on. Then:

    1. This thread has come to a generator on the other one's stack.
    2. The other thread goes on, and the generator yields. It has no caller any more.
    3. This thread finds that the stack ends here, and takes over from a function that still runs.

    In Python 3.11 the next function of a stack has even been something that is no function.
    """
    _, function, pid = hold
    if function is None:
        return False
    if pid != getpid():
        return True
    try:
        function.clear()
    except RuntimeError as error:
        raise_if_from_handler(error)
        return False
    return True
