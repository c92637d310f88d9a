"""What comes at a point: an exception, a cancellation, or a handler that uses the cache."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from colocache.errors import EventLoopError, RecursiveLoadError

if TYPE_CHECKING:
    from colocache import Cache


#: How a complaint begins that a busy machine, too, can be the reason of.
LATE: Final = "too late: "


class Interrupt(Exception):
    """What a soft time limit raises."""


class Stop(BaseException):
    """What ends a process: KeyboardInterrupt and SystemExit are of this kind."""


class TimeIsUp(
    TimeoutError, BlockingIOError, FileNotFoundError, MemoryError, LookupError, ValueError, RuntimeError, TypeError,
    ArithmeticError, AssertionError,
):  # fmt: skip
    """An exception that nearly every ``except`` would take for its own, if it asked for the type alone.

    Handlers of signals may raise all of these, and TimeoutError most of all, which is an OSError. Not KeyError: weak
    dictionaries of Python itself take it for their own.
    """


#: What a signal handler raises.
RAISING: Final[dict[str, type[BaseException]]] = {"exception": Interrupt, "base": Stop, "in-band": TimeIsUp}

_raises: list[type[BaseException]] = []


def _handle(*_: object) -> None:
    raise _raises[-1]("interrupted")


def handle_signals() -> None:
    """Have this process handle the signal that `interrupt` sends."""
    signal.signal(signal.SIGUSR1, _handle)


def interrupt(kind: str) -> None:
    """Have a signal handler raise, here."""
    _raises.append(RAISING[kind])
    signal.raise_signal(signal.SIGUSR1)


CANCEL: Final = "cancel"  # only of a call in a task

#: What a handler does, with a cache and a key. It is that of the call, or another one.
_USES: Final[dict[str, Callable[[Cache, str], object]]] = {
    "get": lambda cache, key: cache.get(key),
    "load": lambda cache, key: cache.get_or_load(key, lambda: 7),
    "set": lambda cache, key: cache.set(key, 7),
    "invalidate": lambda cache, key: cache.invalidate(key).complete or "not complete",
}
USES: Final = tuple(f"{name} {which}" for name in _USES for which in ("same", "other"))

KINDS: Final = (*RAISING, CANCEL, *USES)


def use(kind: str, cache: Cache, key: str) -> str:
    """Do what a handler does, and return what is wrong with that; an empty text if nothing is."""
    name, _, which = kind.partition(" ")
    try:
        outcome = _USES[name](cache, key if which == "same" else "the handler's")
    except (RecursiveLoadError, EventLoopError):
        return ""  # it would wait for itself, or stop the loop
    return "" if name != "invalidate" or outcome is True else f"the handler's receipt: {outcome}"
