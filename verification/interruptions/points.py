"""The points of a call at which something can come: its lines, or its instructions.

Only the thread that calls is traced: the package's own code, and whatever that calls in Python. What the caller itself
passes in, a loader for example, is not.

Python lets a signal handler run at fewer points: at the start of a function, after a call, and where a loop goes back.
So this asks for more than signals do: also between a function's end and the next instruction of its caller, before the
first line of a ``finally``, and at the end of a ``with``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from functools import cache
from types import FrameType
from typing import Any, Final

import colocache

OURS: Final = f"{os.path.dirname(colocache.__file__)}{os.sep}"
ASYNCIO: Final = f"{os.path.dirname(asyncio.__file__)}{os.sep}"
NOT_OURS: Final = f"{os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}{os.sep}"  # all of verification

UNITS: Final = ("lines", "opcodes")


class Points:
    """The points of one call. At one of them, given by its number, something is done."""

    def __init__(self, at: int, unit: str, do: Callable[[], object]) -> None:
        """``unit`` is one of `UNITS`. The first point is number 1. ``do`` may raise; it is not traced itself."""
        self.passed = 0
        self.where = ""  # the point at which it was done; empty if it was not
        self._at = at
        self._opcodes = unit == "opcodes"
        self._do = do

    @property
    def came(self) -> bool:
        """Whether the call had so many points."""
        return bool(self.where)

    def trace(self, call: Callable[[], Any]) -> Any:
        """Make the call, and do what is to be done at its point. Raise what comes out.

        It is made in a generator, which has an exception state of its own. If this raises at the first instruction of
        an ``except``, where no signal handler comes, Python never forgets the exception that was caught there. With it
        the thread would keep all frames around, and what they have used: the memory of a cache that has left.
        """
        apart = (each() for each in (call,))
        sys.settrace(self._on_call)
        try:
            return next(apart)
        finally:
            sys.settrace(None)

    def _on_call(self, frame: FrameType, event: str, _argument: object) -> Any:
        if self.came or not _is_traced(frame):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = self._opcodes, not self._opcodes
        # Before the function's first line: the start of the function, at which Python lets signal handlers run.
        if not self._opcodes:
            self._pass(frame)
        return self._at_point

    def _at_point(self, frame: FrameType, event: str, _argument: object) -> Any:
        if event in ("line", "opcode"):
            self._pass(frame)
        return None if self.came else self._at_point

    def _pass(self, frame: FrameType) -> None:
        if self.came:
            return
        self.passed += 1
        if self.passed == self._at:
            self.where = place(frame)
            sys.settrace(None)
            self._do()


def _is_traced(frame: FrameType) -> bool:
    kind = _kind(frame.f_code.co_filename)
    if kind is None:  # what the package calls
        caller = frame.f_back
        return caller is not None and caller.f_trace is not None
    return kind


@cache
def _kind(path: str) -> bool | None:
    """Tell whether code of a file is traced always; None if it is where the caller is traced."""
    if path.startswith((OURS, "<colocache:")):  # written for a signature
        return True
    # Not the import of a module: an exception there leaves locks of modules locked, which no package sees. Nor asyncio:
    # a future that is interrupted between its result and the waking of its task never wakes that.
    return False if path.startswith((NOT_OURS, "<frozen", ASYNCIO)) else None


def place(frame: FrameType) -> str:
    """Return where a frame is, for people."""
    path = frame.f_code.co_filename
    short = path.removeprefix(os.path.dirname(os.path.dirname(OURS)) + os.sep) if path.startswith(OURS) else path
    return f"{short}:{frame.f_lineno} {frame.f_code.co_qualname}, {frame.f_lasti}"
