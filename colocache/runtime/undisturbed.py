"""Work that no signal handler disturbs: it is done by a thread of its own, where handlers do not run.

A handler may raise in the caller, who waits, and so ends the wait. The work goes on, and comes to its end.
"""

from __future__ import annotations

from collections.abc import Callable
from os import getpid
from time import monotonic
from typing import Final, TypeVar

from .servers import why_no_threads
from .waiting.answers import TOO_LATE, Answer
from .waiting.threads import NoThread, is_patched, may_not_wait, start_at_once

T = TypeVar("T")

LONGEST: Final = 30.0  # s that a caller waits; the work takes a few milliseconds
LOOK_EVERY: Final = 0.1  # s between two looks whether this is a child, which a signal handler has forked meanwhile
GRACE: Final = 0.1  # s that one waits who is interrupted, so that mostly the work is over when he goes on


def undisturbed(work: Callable[[], T], name: str) -> T | None:
    """Have something done to its end, whatever is raised in this thread, and return what comes of it.

    Raise what it raises. Return None if it takes longer than `LONGEST`, and in a child that was forked meanwhile, which
    has not that thread. ``name`` is that of the thread.

    It is done in this thread where no other can run, as at the end of the interpreter, where that would be a greenlet's
    business, and on the threads of this package, which have no handlers.
    """
    if is_patched() or may_not_wait() or why_no_threads():
        return work()
    done, unable, pid, ends = Answer(), list[NoThread](), getpid(), monotonic() + LONGEST

    def do() -> None:
        try:
            done.give((work(), None))
        except BaseException as error:
            done.give((None, error))

    def fail(error: NoThread) -> None:
        unable.append(error)
        done.give((None, None))

    try:
        start_at_once(do, name, fail)
        outcome = done.result(LOOK_EVERY)
        while outcome is TOO_LATE and monotonic() < ends and getpid() == pid:
            outcome = done.result(LOOK_EVERY)
    except BaseException:  # of a signal handler
        done.result(GRACE)
        raise
    if unable:
        return work()
    if outcome is TOO_LATE:
        return None
    result, error = outcome
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]
