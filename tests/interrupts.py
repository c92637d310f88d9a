"""Signal handlers and finalizers that come at any point.

In Python a signal handler runs at the start of a function, after a call, and where a loop goes back. Whatever it raises
comes out of that call. A finalizer may run at each instruction that makes an object; what it raises goes nowhere.
"""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import cachetools

import colocache

#: The package's own code, and cachetools'. As whole paths, because a clone of the project may lie in any directory.
EVERYWHERE = tuple(f"{Path(package.__file__).parent}/" for package in (colocache, cachetools))

#: A filter of warnings. Python swallows what is raised where nobody can catch it, as when a generator is freed.
SWALLOWED = "ignore::pytest.PytestUnraisableExceptionWarning"

#: Flags of generators and coroutines. They do not only return when they have ended.
SUSPENDED = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR


class Interrupt(Exception):
    """What a signal handler raises, as a time limit does."""


def time_limit(*_: object) -> None:
    """A handler of a signal, as applications have them: what it raises is an error of the system, too."""
    raise TimeoutError("the time is up")


def interrupted(number: int, work: Callable[[], object], files: tuple[str, ...] = EVERYWHERE,
                handler: Callable[[], None] | None = None) -> bool:  # fmt: skip
    """Do some work, and raise `Interrupt` at so many points from its start; return whether that came.

    Or call a handler there. What that raises is raised by this function.

    The points are in files whose paths have one of ``files`` in them: the starts of functions, and the ends of calls.
    """
    left = number

    def at_call(frame: FrameType, event: str, _argument: object) -> None:
        nonlocal left
        if event == "return" and not frame.f_code.co_flags & SUSPENDED:
            caller = frame.f_back
        elif event in ("call", "c_return"):
            caller = frame
        else:
            return
        if left > 0 and caller is not None and is_in(caller, files):
            left -= 1
            if left == 0:
                sys.setprofile(None)
                if handler is not None:
                    handler()
                raise Interrupt

    before = sys.getprofile()
    sys.setprofile(at_call)
    try:
        work()
    except Interrupt:
        pass
    finally:
        sys.setprofile(before)
    return left <= 0


def at_every_point(work: Callable[[], object], files: tuple[str, ...] = EVERYWHERE) -> Iterator[int]:
    """Interrupt some work at its first point, its second, and so on; go on with each number once it has happened."""
    for number in itertools.count(1):
        if not interrupted(number, work, files):
            return
        yield number


def handled(number: int, work: Callable[[], object], handle: Callable[[], object],
            files: tuple[str, ...] = EVERYWHERE) -> bool:  # fmt: skip
    """Do some work, and call a handler after so many instructions of some files; return whether that came.

    It must not raise.
    """
    left = number

    def at_instruction(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        if event == "opcode" and left > 0:
            left -= 1
            if left == 0:
                sys.settrace(None)
                handle()
        return at_instruction if left > 0 else None

    def at_call(frame: FrameType, event: str, argument: object) -> Any:
        return at_instruction(frame, event, argument) if left > 0 and is_in(frame, files) else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        work()
    finally:
        sys.settrace(before)
    return left <= 0


def is_in(frame: FrameType, files: tuple[str, ...]) -> bool:
    """Tell whether a frame runs code of one of some files."""
    return _is_one_of(frame.f_code.co_filename, files)


@cache
def _is_one_of(path: str, files: tuple[str, ...]) -> bool:
    return any(part in path for part in files)
