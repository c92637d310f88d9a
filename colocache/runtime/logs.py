"""The package's log. Every line names the process and the group, and a lasting trouble does not flood the log.

::

    log = Log("shop")
    log.warning("the file %s cannot be read: %s", path, error, event="unreadable_file")

writes to the logger ``colocache``::

    colocache[4242] shop: the file /run/x cannot be read: Permission denied

A warning or an error is written once a minute, however often it occurs. `Log` compares the texts **before** their
details are filled in. The next line with the same text says how many were left out. Where one text is about several
things, such as functions, ``about`` tells them apart::

    log.warning("the result of %s cannot be kept: %s", name, error, about=name, event="not_kept")

``event`` names for programs what a line is about. A name keeps its meaning when the text is changed, and it stands on
the page docs/reference/messages.md. It, the group, the seat of the process and the number of lines that were left out
are attributes of each record, for formatters that write JSON: see `EXTRA`.
"""

from __future__ import annotations

import itertools
import logging
import os
import sys
import traceback
from functools import partial
from time import monotonic
from typing import Any, Final

from ..interruptions import pass_over, raise_if_from_handler
from .waiting.threads import hand_over_line, on_driver_thread

PERIOD = 60.0  # s
MOST = {logging.INFO: 10, logging.WARNING: 1, logging.ERROR: 1}  # lines of one text in a period
MOST_TEXTS = 1000  # that a log remembers; more can only come from ``about``

#: The attributes that each record has beside those of `logging`. Formatters of JSON put them beside the text, under
#: these names. So a name begins with that of the package: ``event`` is what structlog calls the text, and ``group`` may
#: be what the application adds to all records.
EXTRA: Final = ("colocache_event", "colocache_group", "colocache_seat", "colocache_left_out")

_logger = logging.getLogger("colocache")


class Log:
    """Writes the lines of one group to the logger ``colocache``, from any thread, signal handler or finalizer.

    It takes no lock of its own. Keep one `Log` as long as you write lines, because a new one has seen nothing yet. A
    forked child starts to count anew.

    Log handlers are code of users, and can be slow, or wait for a thread that waits for the cache. So they never run in
    a driver's thread, which hands its lines over. What they raise is printed, and never raised here.
    """

    def __init__(self, group: str) -> None:
        self._group = group
        self._sits = (0, 0)  # the id of the process that has joined, and its seat
        self._seen: dict[tuple[int, str, object], _Seen] = {}  # by process, text, and what it is about

    @property
    def seat(self) -> int | None:
        """The seat that the lines name: None as long as this process has not joined. A forked child has none."""
        pid, number = self._sits
        return number if pid == os.getpid() else None

    @seat.setter
    def seat(self, number: int | None) -> None:
        self._sits = (0, 0) if number is None else (os.getpid(), number)

    def of_seat(self, number: int) -> Log:
        """Return a log whose lines always name this seat. Both leave out what the other one has written."""
        log = Log(self._group)
        log._seen, log.seat = self._seen, number
        return log

    def info(self, text: str, *details: object, event: str) -> None:
        """Write a line about a normal event."""
        self._write(logging.INFO, text, details, None, event)

    def warning(self, text: str, *details: object, event: str, about: object = None) -> None:
        """Write a line about a trouble that the cache can live with. ``about`` is hashable."""
        self._write(logging.WARNING, text, details, about, event)

    def error(self, text: str, *details: object, event: str, about: object = None) -> None:
        """Write a line about a trouble in which the cache does not work."""
        self._write(logging.ERROR, text, details, about, event)

    def exception(self, text: str, *details: object, event: str, about: object = None) -> None:
        """Write a line about the exception that is being handled, with its traceback."""
        self._write(logging.ERROR, text, details, about, event, exc_info=sys.exception())

    def _write(
        self, level: int, text: str, details: tuple[object, ...], about: object, event: str, **more: Any
    ) -> None:  # fmt: skip
        if sys.is_finalizing():
            # 1. Another thread writes a line, and has the lock of a handler.
            # 2. The process ends. That thread never runs again, and the lock stays.
            # 3. A finalizer uses the cache, which writes a line: the process would not end.
            # `logging` itself has closed all handlers by then.
            return
        is_elsewhere = on_driver_thread()
        if not (is_elsewhere or _logger.isEnabledFor(level)):  # a driver's thread must not ask: see `_emit`
            return
        left_out = self._left_out(level, text, about)
        if left_out is None:
            return
        line, filled_in = f"colocache[%d] %s: {text}", (os.getpid(), self._group, *details)
        if left_out:
            line, filled_in = f"{line} (and %d more like this, which were left out)", (*filled_in, left_out)
        more["extra"] = dict(zip(EXTRA, (event, self._group, self.seat, left_out), strict=True))
        emit = partial(_emit, level, line, filled_in, more)
        if not hand_over_line(emit):
            emit()

    def _left_out(self, level: int, text: str, about: object) -> int | None:
        """Return how many lines like this were left out since the last one; None if this one is left out, too."""
        most, key, now, left_out = MOST[level], (os.getpid(), text, about), monotonic(), 0
        seen = self._seen.setdefault(key, _Seen(now))
        if now >= seen.began + PERIOD:
            left_out = max(0, seen.count() - most)
            seen = self._seen[key] = _Seen(now)
        self._forget_the_oldest()
        return left_out if seen.count() < most else None

    def _forget_the_oldest(self) -> None:
        if len(self._seen) > MOST_TEXTS:
            with pass_over(KeyError, StopIteration, RuntimeError):  # another thread was faster
                del self._seen[next(iter(self._seen))]


def _emit(level: int, line: str, filled_in: tuple[object, ...], more: dict[str, Any]) -> None:
    """Write a line. Never in a driver's thread, which must not even ask whether the line is to be written:

    1. The application configures logging, and has the lock of that module. It makes a handler, which is slow.
    2. The driver asks the logger, which takes that lock where it has not answered the question before.

    What a handler raises is told as `logging` itself tells it, and does not reach whoever calls the cache.
    """
    try:
        _logger.log(level, line, *filled_in, stacklevel=4, **more)
    except Exception as error:
        raise_if_from_handler(error)
        if logging.raiseExceptions and sys.stderr is not None:
            with pass_over(OSError, ValueError):  # it is closed
                traceback.print_exception(error)


class _Seen:
    """The lines of one text in one period."""

    __slots__ = ("_numbers", "began")

    def __init__(self, now: float) -> None:
        self.began = now
        self._numbers = itertools.count()

    def count(self) -> int:
        """Count one line, and return how many there were before it, in one step that no other thread can divide."""
        return next(self._numbers)
