"""Which exceptions come of a signal handler: they are the application's, wherever they come out."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from types import CodeType, FunctionType, MethodType


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


def _codes_of_handlers() -> Iterator[CodeType]:
    for number in signal.valid_signals():
        handler: object = signal.getsignal(number)
        if not isinstance(handler, FunctionType | MethodType):  # an object that can be called, a number, or None
            handler = vars(type(handler)).get("__call__")
        code = getattr(handler, "__code__", None)  # a method shows that of its function
        if isinstance(code, CodeType):
            yield code
