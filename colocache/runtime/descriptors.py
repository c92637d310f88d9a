"""File descriptors: each has one owner, and a process must not run out of them."""

from __future__ import annotations

import contextlib
import os
import resource

SPARE = 64  # where libzmq can have no descriptor for an epoll, or to accept by ipc, it aborts the whole process


class Descriptor:
    """A file descriptor that belongs to the holder of this object. It is closed once, however often it is closed.

    Its number is given up before the kernel is told, because the kernel gives it to the next one that opens a file:

    1. the driver's thread closes descriptor 7;
    2. the application opens a file, which gets the number 7;
    3. the process forks;
    4. the child lets go of what it inherited, and closes 7, which is the application's.

    A fork between giving up the number and telling the kernel leaves the descriptor open in the child. That is
    harmless.
    """

    def __init__(self, number: int) -> None:
        self._numbers = [number]

    @property
    def number(self) -> int:
        """The descriptor itself. Raises IndexError once it is closed."""
        return self._numbers[0]

    def close(self) -> None:
        """Close it, unless it is closed. Raise nothing: where the kernel refuses, there is nothing to repair."""
        with contextlib.suppress(IndexError, OSError):
            os.close(self._numbers.pop())


def are_scarce() -> bool:
    """Return whether fewer than `SPARE` more files can be opened. A new one gets the lowest number that is free."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        lowest, next_one = os.pipe()  # a pipe, because in a container there may be no file, not even /dev/null
    except OSError:
        return True
    os.close(lowest)
    os.close(next_one)
    return limit != resource.RLIM_INFINITY and lowest > limit - SPARE
