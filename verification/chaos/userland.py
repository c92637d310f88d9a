"""User code in the wrong place, for `chaos.py`: finalizers, log handlers and signal handlers that use the cache.

Python runs a finalizer in any thread that allocates, and so in those of the cache; a signal handler between any two
instructions of the main thread; and a log handler wherever something is logged. What each of them reads is the same in
all processes, so it is judged at once.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable
from random import Random

import colocache

KEYS = 20
PAUSE = 0.01  # s between two pieces of garbage
LONGEST = 1.0  # s for which a log handler waits
DEEPEST = 3  # alarms that interrupt each other: where one takes longer than their period, there is no end of them

#: What log handlers do: nothing, use the cache, wait, raise.
HANDLERS = ("", "", "use", "wait", "raise")


class Use:
    """What user code does with the cache, wherever it runs."""

    def __init__(self, cache: colocache.Cache, dice: Random, accuse: Callable[..., None]) -> None:
        self.space = cache.namespace("userland", ttl=30)
        self._dice = dice
        self._accuse = accuse

    def __call__(self) -> None:
        """Read, and now and then write. It must not raise: what a finalizer raises, nobody hears of."""
        number = self._dice.randrange(KEYS)
        try:
            value = self.space.get_or_load(f"u{number}", lambda: number)
            if value != number or self.space.get(f"u{number}", number) != number:
                self._accuse("wrong in user code", key=number, value=value)
            if self._dice.random() < 0.1:
                self.space.invalidate(f"u{number}")
            elif self._dice.random() < 0.1:
                self.space.set(f"u{number}", number)
        except (colocache.EventLoopError, colocache.RecursiveLoadError):
            pass  # a load is refused on the thread of a loop, and in a handler that has interrupted that very load
        except Exception as error:
            self._accuse("an error in user code", error=repr(error))


class _Garbage:
    """A part of a circle: the collector finds it, in whichever thread that runs, and calls the finalizer there."""

    def __init__(self, use: Use) -> None:
        self._use = use
        self._itself = self

    def __del__(self) -> None:
        self._use()


class _Handler(logging.Handler):
    def __init__(self, how: str, use: Use, dice: Random) -> None:
        super().__init__()
        self._how = how
        self._use = use
        self._dice = dice

    def emit(self, record: logging.LogRecord) -> None:
        if self._how == "use":
            self._use()
        elif self._how == "wait":
            time.sleep(self._dice.uniform(0, LONGEST))
        else:
            raise ValueError("this handler is broken")


def litter(use: Use, enough: threading.Event) -> threading.Thread:
    """Return a thread that makes garbage."""

    def run() -> None:
        while not enough.wait(PAUSE):
            _Garbage(use)

    return threading.Thread(target=run)


def handle_lines(how: str, use: Use, dice: Random) -> None:
    """Have what the package logs handled in some way, too."""
    if how == "raise":  # what is raised would be printed, and taken for an alarm; children inherit the handler
        logging.raiseExceptions = False
    logging.getLogger("colocache").addHandler(_Handler(how, use, dice))


def answer_alarms() -> None:
    """Have an alarm do what `alarm` says from now on. For the main thread."""
    signal.signal(signal.SIGALRM, lambda *_: _answer_alarm())


def alarm(use: Use, every: float) -> None:
    """Have a signal handler use the cache again and again, every so many seconds on average."""
    _on_alarm.append(use)
    signal.setitimer(signal.ITIMER_REAL, every, every)


_on_alarm: list[Callable[[], None]] = [lambda: None]
_answers: list[None] = []  # one for each that has begun and not ended


def _answer_alarm() -> None:
    if len(_answers) < DEEPEST:
        _answers.append(None)
        try:
            _on_alarm[-1]()
        finally:
            _answers.pop()
