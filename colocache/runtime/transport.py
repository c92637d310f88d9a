"""How frames travel between the processes of a host: each has a socket for datagrams, named in the group's directory.

Nothing is accepted and no thread runs beside the bus's own. So nothing here can end the process, whatever has run out:
where the system refuses something, that is an OSError.
"""

from __future__ import annotations

import _socket as system  # gevent patches the other module, and the bus's thread has no greenlets
import contextlib
import errno
import math
import os
import select
from collections.abc import Iterator
from typing import Final

from .files import Held, identity
from .waiting.threads import genuine_poll

BATCH: Final = 256  # frames taken before the clock gets its turn
BUFFER: Final = 1 << 18  # bytes; macOS takes no frame that is larger than its buffer, which has 2 KiB there by default

_FULL: Final = (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
_NO_SIGNAL: Final = getattr(system, "MSG_NOSIGNAL", 0)


class Full(OSError):
    """The other end takes no more frames at the moment: it computes, or is stopped."""


class _Socket:
    """A socket for datagrams that never waits. It is closed only if it still is this one: see `Held`."""

    def __init__(self) -> None:
        self._held = Held(system.socket(system.AF_UNIX, system.SOCK_DGRAM).detach())
        try:
            self.end = system.socket(system.AF_UNIX, system.SOCK_DGRAM, 0, self._held.number)
            self.end.setblocking(False)
            for option in (system.SO_SNDBUF, system.SO_RCVBUF):
                self.end.setsockopt(system.SOL_SOCKET, option, BUFFER)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close it. Callable twice, and in a forked child."""
        end: system.socket | None = getattr(self, "end", None)
        if end is not None:
            end.detach()
        self._held.close()


class Ear:
    """What one process hears. For one thread at a time."""

    def __init__(self, largest: int) -> None:
        """``largest`` is the size of the largest frame, in bytes. Open nothing yet."""
        self._largest = largest
        self._socket: _Socket | None = None
        self._path = ""
        self._file: tuple[int, int] | None = None
        self._ready = False
        self._poll = genuine_poll()
        self._watched: list[int] = []

    def bind(self, path: str) -> None:
        """Begin to hear those that send to a path, where this replaces what is there. Raise OSError if that fails."""
        self.unbind()
        socket = _Socket()
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            socket.end.bind(path)
            self._file = _identity_at(path)
            self._poll.register(socket.end.fileno(), select.POLLIN)
        except BaseException:
            socket.close()
            raise
        self._socket, self._path = socket, path

    def unbind(self) -> None:
        """Hear nobody any more. Callable twice."""
        socket, self._socket = self._socket, None
        if socket is not None:
            with contextlib.suppress(OSError):
                if _identity_at(self._path) == self._file:  # it may be a successor's by now
                    os.unlink(self._path)
            self._poll.unregister(socket.end.fileno())
            socket.close()

    @property
    def can_be_found(self) -> bool:
        """Whether others can send: nobody has deleted the socket."""
        return self._socket is not None and _identity_at(self._path) is not None

    def watch(self, descriptor: int) -> None:
        """Have `wait` return when something can be read from a descriptor."""
        self._poll.register(descriptor, select.POLLIN)
        self._watched.append(descriptor)

    def wait(self, seconds: float) -> bool:
        """Wait until there is something to do, and tell whether a watched descriptor can be read.

        Raise OSError if somebody has closed what this waits for.
        """
        found = dict(self._poll.poll(min(math.ceil(seconds * 1000), 1 << 30)))
        if any(event & select.POLLNVAL for event in found.values()):
            raise OSError(errno.EBADF, "somebody has closed its sockets")
        self._ready = any(number not in self._watched for number in found)
        return any(number in found for number in self._watched)

    def receive(self) -> Iterator[bytes]:
        """Return frames that have come before `wait` returned, and some that have come since.

        Each call that receives gives the interpreter lock up, and in a process that computes gets it back 5 ms later.
        So nothing is tried where `wait` has seen nothing. A frame that is too large comes with one byte too many.
        """
        socket, self._ready = self._socket if self._ready else None, False
        if socket is None:
            return
        for _ in range(BATCH):
            try:
                yield socket.end.recv(self._largest + 1)
            except BlockingIOError:
                return

    def close(self) -> None:
        """Close the socket, and delete it."""
        self.unbind()

    def forget_after_fork(self) -> None:
        """In a forked child, close the descriptor of the parent's socket, and leave its file alone."""
        if self._socket is not None:
            self._socket.close()


class Voice:
    """A way to the ear of one other process. For one thread at a time.

    Each way has a socket of its own, because frames that are not read fill the buffer of the socket that has sent them:
    a process that is stopped must not silence this one for all others.
    """

    def __init__(self, path: str) -> None:
        """Raise OSError if nobody is there, or if the system refuses."""
        self._socket = _Socket()
        try:
            self._socket.end.connect(path)
        except BaseException:
            self._socket.close()
            raise

    def send(self, frame: bytes) -> None:
        """Send a frame. Raise `Full` if the other end takes none now, and another OSError if it is gone."""
        try:
            self._socket.end.send(frame, _NO_SIGNAL)
        except OSError as error:
            if error.errno in _FULL:
                raise Full(*error.args) from None
            raise

    def close(self) -> None:
        """Close it. Callable twice, and in a forked child."""
        self._socket.close()


def _identity_at(path: str) -> tuple[int, int] | None:
    try:
        return identity(os.lstat(path))
    except OSError:
        return None
