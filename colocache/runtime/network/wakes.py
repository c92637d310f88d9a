"""How a process that has written an event wakes the gateway of its host: by a named pipe, one for each row.

Whoever may write opens the pipe for reading, too, although it never reads. So a write never fails for want of a reader,
which would be a SIGPIPE, and kill a process that has not Python's own setting for it. What nobody reads fills the pipe,
and stays for the next gateway with that row, which looks at the host's events first anyway.

A pipe may be deleted, and made anew:

1. A process has the pipe open, and a cleaner deletes it.
2. The gateway notices that at its next tick, and makes a new one.
3. The process writes into the old one, and nobody wakes.

So each writer compares what it has open with what is there. The gateway looks at the host's events at each tick anyway,
so an event that woke nobody is late, and not lost.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from ...interruptions import raise_if_from_handler
from ..files import Descriptor, identity

_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW


def pipe_of(directory: str, row: int) -> str:
    """Return the path of a row's pipe."""
    return f"{directory}/gateway.{row}"


class WakePipe:
    """The gateway's end. For its thread alone."""

    def __init__(self, directory: str, row: int) -> None:
        """Make the pipe, or use the one that is there. Raise OSError if that is not possible."""
        self._path = pipe_of(directory, row)
        self._open()

    def _open(self) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._path, 0o600)
        descriptor = Descriptor(os.open(self._path, _FLAGS))
        found = os.fstat(descriptor.number)
        if not _is_ours(found):
            descriptor.close()
            raise OSError(f"{self._path} is not a pipe of this user: remove it")
        self._descriptor, self._identity = descriptor, identity(found)

    @property
    def source(self) -> int:
        """The descriptor to wait for."""
        return self._descriptor.number

    def rest(self) -> None:
        """Forget that somebody has woken this thread."""
        with contextlib.suppress(BlockingIOError):
            os.read(self.source, 4096)

    def renew(self) -> bool:
        """Open the pipe anew if writers do not find this one. Return whether `source` is another one now.

        Raise OSError if that is not possible.
        """
        if _identity_at(self._path) == self._identity:
            return False
        before = self._descriptor
        self._open()
        before.close()
        return True

    def close(self) -> None:
        """Close it. The file stays, for the next gateway."""
        self._descriptor.close()


class WakeUp:
    """The end of those that write events. Any thread may use it, and a signal handler.

    What it opens is closed with it, and not while another thread is about to write there.
    """

    def __init__(self, directory: str, rows: Callable[[], int]) -> None:
        """``rows`` tells how many rows are in use. Nothing is opened yet."""
        self._directory = directory
        self._rows = rows
        self._pipes: dict[int, _Open] = {}  # by row

    def wake(self) -> None:
        """Have the gateways of this host look at its events. Take no lock, and do nothing if there is no gateway."""
        for row in range(self._rows()):
            path = pipe_of(self._directory, row)
            found = _identity_at(path)
            pipe = self._pipes.get(row)
            if found is None:
                self._pipes.pop(row, None)
                continue
            if pipe is None or pipe.identity != found:
                pipe = _opened(path)
                if pipe is None:
                    continue
                self._pipes[row] = pipe
            try:
                os.write(pipe.number, b"!")
            except OSError as error:  # it is full: the gateway is awake, or stopped
                raise_if_from_handler(error)

    def forget_after_fork(self) -> None:
        """In a forked child, let go of what was inherited."""
        self._pipes = {}


class _Open:
    """An open pipe, which is closed with its last reference."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = Descriptor(descriptor)
        self.number = descriptor
        self.identity = identity(os.fstat(descriptor))

    def __del__(self) -> None:
        self._descriptor.close()


def _opened(path: str) -> _Open | None:
    try:
        pipe = _Open(os.open(path, _FLAGS))
        return pipe if _is_ours(os.fstat(pipe.number)) else None
    except OSError as error:
        raise_if_from_handler(error)
        return None


def _is_ours(found: os.stat_result) -> bool:
    return stat.S_ISFIFO(found.st_mode) and found.st_uid == os.geteuid()


def _identity_at(path: str) -> tuple[int, int] | None:
    try:
        return identity(os.lstat(path))
    except OSError as error:
        raise_if_from_handler(error)
        return None
