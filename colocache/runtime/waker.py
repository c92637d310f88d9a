"""What wakes a driver's thread that waits for its sockets."""

from __future__ import annotations

import contextlib
import os

from ..interruptions import raise_if_from_handler
from .files import Held


class Waker:
    """A pipe that interrupts the wait.

    It is closed with its last reference, and so never while a thread is about to write to it:

    1. a thread is about to wake a member;
    2. the member ends, and closes the pipe;
    3. the application opens a file, which gets the number of the descriptor;
    4. the thread writes into that file.
    """

    _descriptors: tuple[Held, ...] = ()  # if the system has none left

    def __init__(self) -> None:
        self._descriptors = tuple(map(Held, os.pipe()))
        self.source, self._sink = [each.number for each in self._descriptors]
        for descriptor in (self.source, self._sink):
            os.set_blocking(descriptor, False)

    def wake(self) -> None:
        """Interrupt the wait, or the next one."""
        try:
            os.write(self._sink, b"!")
        except OSError as error:  # it is full: the thread is awake; or it is closed, which the thread finds out
            raise_if_from_handler(error)

    def rest(self) -> None:
        """Forget that somebody has woken this thread."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.source, 4096)

    def __del__(self) -> None:
        for descriptor in self._descriptors:
            descriptor.close()
