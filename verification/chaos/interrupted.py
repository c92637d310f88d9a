"""Signals that come in the middle of calls, for `chaos.py`: their handlers raise, or use the cache, or do both.

Python runs signal handlers in the main thread alone. So that thread makes calls, and a timer that was drawn before
interrupts each of them, or comes too late. Judged is

* what the call gives, if it ends by itself, as for all other calls;
* whether what a handler raises reaches the caller: that very object, whatever its type;
* whether anything is stuck: another thread reads what the call was to read, and then the call has no load any more.

A handler does not raise where it would harm this test, or Python itself: in the source of truth, on the board, where a
lock of a module of Python is taken, in asyncio, which loses some, and in a finalizer, whose exceptions nobody hears of.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Generator
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from random import Random
from types import FrameType
from typing import Any

import colocache
from colocache.operations.under_way import runner
from verification.interruptions.kinds import RAISING
from verification.interruptions.points import ASYNCIO

#: What a handler raises: among it what the cache itself, or Python, raises for reasons of its own.
KINDS: tuple[type[BaseException], ...] = (
    *RAISING.values(), TimeoutError, BlockingIOError, OSError, LookupError, IndexError, MemoryError, RuntimeError,
    KeyboardInterrupt, SystemExit,
)  # fmt: skip

SOONEST, LATEST = 5e-6, 0.05  # s from the beginning of a call to the signal
AGAIN = 2e-4  # s, where the handler must not raise

_HERE = Path(__file__).parent
_UNTOUCHED = (
    *(str(_HERE / f"{name}.py") for name in ("register", "board", "counting", "steps", "userland", "values")),
    threading.__file__, logging.__file__, "<frozen importlib", ASYNCIO,
)  # fmt: skip

#: A call: it gives what is to be interrupted, and judges what comes of it. It is closed if that was interrupted.
Attempt = Generator[Callable[[], Any], Any, None]


class MainThread:
    """The main thread: it does what it is given, one after another."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()

    def run(self) -> None:
        """Do all that comes, until the end."""
        for work in iter(self._work.get, None):
            work()

    def do(self, work: Callable[[], None]) -> None:
        """Have something done."""
        self._work.put(work)

    def end(self) -> None:
        """Have it end when all is done."""
        self._work.put(None)


class Interrupted:
    """Calls of the main thread, and what comes in between."""

    def __init__(
        self, cache: colocache.Cache, dice: Random, use: Callable[[], None], draw: Callable[[], Attempt],
        look: Callable[[], None], count: Callable[[str], None], accuse: Callable[..., None],
    ) -> None:  # fmt: skip
        """``draw`` gives a call; ``look`` has another thread read what the last one was to read, and waits for it."""
        self._cache = cache
        self._dice = dice
        self._use = use
        self._draw = draw
        self._look = look
        self._count = count
        self._accuse = accuse
        self._due: tuple[bool, type[BaseException] | None] | None = None  # whether it uses the cache; what it raises
        self._raised: BaseException | None = None
        self._is_lost = False  # what was raised in a finalizer

    def run(self, enough: threading.Event) -> None:
        """Make calls until it is enough. For the main thread."""
        timer = signal.setitimer(signal.ITIMER_REAL, 0)
        before = signal.signal(signal.SIGALRM, self._handle), sys.unraisablehook
        sys.unraisablehook = self._hear
        try:
            while not enough.is_set():
                self._attempt()
        except BaseException:
            self._accuse("error", error=traceback.format_exc())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before[0])
            signal.setitimer(signal.ITIMER_REAL, *timer)
            sys.unraisablehook = before[1]

    def _attempt(self) -> None:
        attempt = self._draw()
        call = next(attempt)
        outcome, error = self._interrupt(call)
        raised, self._raised = self._raised, None
        if error is not raised and not (error is None and self._is_lost):
            wrong = "swallowed" if error is None else "another exception than the handler's"
            told = "".join(traceback.format_exception(error)) if error is not None else ""
            self._accuse(wrong, raised=repr(raised), error=told)
        if raised is None and error is None:
            with suppress(StopIteration):
                attempt.send(outcome)
            return
        attempt.close()
        self._count("interrupted")
        del error, raised
        self._look()
        self._judge_what_is_left()

    def _interrupt(self, call: Callable[[], Any]) -> tuple[Any, BaseException | None]:
        dice = self._dice
        uses, raises = dice.choice(((True, False), (False, True), (False, True), (True, True)))
        self._is_lost = False
        try:
            self._due = uses, dice.choice(KINDS) if raises else None
            signal.setitimer(signal.ITIMER_REAL, SOONEST * (LATEST / SOONEST) ** dice.random())
            outcome = call()
            self._due = None
        except BaseException as error:
            self._due = None
            return None, error
        return outcome, None

    def _handle(self, _: int, frame: FrameType | None) -> None:
        if self._due is None:
            return
        uses, kind = self._due
        if kind is not None and _is_untouched(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN)
            return
        self._due = None
        if uses:
            self._use()
            self._count("handled")
        if kind is not None:
            self._raised = kind("interrupted")
            raise self._raised

    def _hear(self, unraisable: Any) -> None:
        """Hear what Python cannot raise."""
        if unraisable.exc_value is not None and unraisable.exc_value is self._raised:
            self._is_lost = True
        else:
            sys.__unraisablehook__(unraisable)

    def _judge_what_is_left(self) -> None:
        host: Any = self._cache._member.own_host()
        if host is None:
            return
        left = [load.wire for load in [*host.claims._loads.values()] if load.runner == runner()]
        if left:
            self._accuse("stuck", left=repr(left))


class Witness:
    """Another thread, that reads what was interrupted."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Callable[[], None], threading.Event] | None] = SimpleQueue()
        self.thread = threading.Thread(target=self._run)

    def look(self, read: Callable[[], None]) -> None:
        """Have it read, and return when it has."""
        done = threading.Event()
        self._work.put((read, done))
        done.wait()

    def end(self) -> None:
        """Have it end."""
        self._work.put(None)

    def _run(self) -> None:
        for read, done in iter(self._work.get, None):
            try:
                read()
            finally:
                done.set()


def _is_untouched(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(_UNTOUCHED) or frame.f_code.co_name == "__del__":
            return True
        if frame.f_code is Interrupted._interrupt.__code__:
            return False
        frame = frame.f_back
    return True
