"""Which exceptions have interrupted a call: they are the application's, and reach its caller, wherever they come out.

A signal handler raises in the middle of whatever runs, and another thread can have an exception raised there. So who
catches exceptions of code of his own asks here first.
"""

from __future__ import annotations

import signal
import sys
from _signal import getsignal  # type: ignore[import-not-found]  # without making an enum's member of each answer
from collections.abc import Iterator
from contextlib import contextmanager
from os.path import dirname
from types import CodeType, FunctionType, MethodType
from typing import Any

_SIGNALS = tuple(map(int, signal.valid_signals()))
_OURS = dirname(__file__)

#: Those who define exceptions that the package's own code comes upon.
_KNOWN = {*sys.stdlib_module_names, "cachetools", "colocache", "msgpack", "xxhash", "zmq"}


def is_from_handler(error: BaseException) -> bool:
    """Tell whether a signal handler has raised an exception, so that it says nothing of the call that it came out of.

    Time limits of task queues raise all kinds of exceptions, also those of the system.
    """
    codes = {*_codes_of_handlers()}
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return True
        trace = trace.tb_next
    return False


def raise_if_from_handler(error: BaseException) -> None:
    """Raise an exception if a signal handler has raised it: for those who pass over errors of the system."""
    if is_from_handler(error):
        raise error


@contextmanager
def pass_over(*types: type[BaseException]) -> Iterator[None]:
    """Pass over exceptions of some types, as `contextlib.suppress` does, unless a signal handler has raised them."""
    try:
        yield
    except types as error:
        raise_if_from_handler(error)


def value_of(end: StopIteration) -> Any:
    """Return what a generator has returned, by the end that its caller has caught.

    Raise that end if it is none: a signal handler, too, can raise StopIteration. A generator's own leaves no trace of
    frames, so this costs less than `is_from_handler`.
    """
    trace = end.__traceback__
    if trace is not None and trace.tb_next is not None:
        raise end
    return end.value


def raise_if_foreign(error: BaseException) -> None:
    """Raise an exception that neither the package's own code nor a user's function, which it has called, has raised.

    For those who pass over exceptions of any type. Another thread leaves no trace of itself, as a handler does. But
    what it raises comes out of code that was running, and is mostly of a type that this code does not know.
    """
    if is_from_handler(error) or (_is_strange(error) and _came_out_of_ours(error)):
        raise error


def _is_strange(error: BaseException) -> bool:
    return type(error).__module__.partition(".")[0] not in _KNOWN


def _came_out_of_ours(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS)


def _codes_of_handlers() -> Iterator[CodeType]:
    for number in _SIGNALS:
        handler: object = getsignal(number)
        if not isinstance(handler, FunctionType | MethodType):  # an object that can be called, a number, or None
            handler = vars(type(handler)).get("__call__")
        code = getattr(handler, "__code__", None)  # a method shows that of its function
        if isinstance(code, CodeType):
            yield code
