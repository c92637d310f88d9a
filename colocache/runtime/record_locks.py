"""Record locks of single bytes: what excludes the processes of a host from each other, and ends when a process ends.

They are taken without giving up the interpreter lock, by ctypes. `fcntl.lockf` gives it up while it takes the record
lock. Beside a thread that computes, it gets the interpreter lock back 5 ms later (`sys.getswitchinterval`), and all
that time others wait for the record lock. Without ctypes there is only `fcntl.lockf`.

The kernel does not exclude the threads of one process from each other. `RingLocks` and `ClaimLocks` do.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sys
from collections.abc import Callable
from functools import partial
from time import monotonic
from typing import Final, Protocol

from ..core.hosts.layout import LANES
from ..interruptions import raise_if_from_handler
from .files import Descriptor, Held, flock, owner_in
from .holds import FIRST_PAUSE, FOR_EVER, LONGEST_PAUSE, Hold, Holds, rest
from .waiting.threads import thread_id

PATIENCE = 0.02  # s: how long a lock of a ring is waited for
ATTEMPTS = 32  # at least

CLAIM_FILES = 16  # because the kernel looks at all locks of a file, one by one

BUSY = (errno.EACCES, errno.EAGAIN)

SetLock = Callable[[int, bytes], int]  # descriptor, struct flock; returns 0 or the number of an error


def _by_ctypes(command: int) -> SetLock | None:
    try:
        import ctypes

        function = ctypes.PyDLL(None, use_errno=True).fcntl
    except (ImportError, OSError, AttributeError) as error:  # a Python without ctypes, or one that is linked statically
        raise_if_from_handler(error)
        return None
    # The third argument is variadic. Some machines pass such arguments in another way, so it must not be named here.
    function.argtypes, function.restype = [ctypes.c_int, ctypes.c_int], ctypes.c_int
    get_errno = ctypes.get_errno

    def set_lock(descriptor: int, lock: bytes) -> int:
        return 0 if function(descriptor, command, lock) == 0 else get_errno()

    return set_lock


def _by_fcntl(descriptor: int, lock: bytes, command: int = fcntl.F_SETLK) -> int:
    try:
        fcntl.fcntl(descriptor, command, lock)
    except OSError as error:
        raise_if_from_handler(error)
        return error.errno or errno.EIO
    except ValueError as error:  # a negative number stands for a file that is closed
        raise_if_from_handler(error)
        return errno.EBADF
    return 0


set_lock: SetLock = _by_ctypes(fcntl.F_SETLK) or _by_fcntl

#: How `lane_locks` has the kernel lock for an open file. Where there is no such lock, it is for the whole process.
_OPEN_FILE: Final = getattr(fcntl, "F_OFD_SETLK", fcntl.F_SETLK)
set_open_file_lock: SetLock = _by_ctypes(_OPEN_FILE) or partial(_by_fcntl, command=_OPEN_FILE)


class Attempts(Protocol):
    """Locks of bytes that exclude processes."""

    def attempt(self, lock: bytes) -> int:
        """Do what a struct flock says, and return 0, or the number of an error."""


class RecordLocks:
    """The record locks of this process on one file. Any thread may call all methods."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._descriptor = descriptor

    def take(self, byte: int) -> bool:
        """Take the lock of a byte; return False if another process has it. This process always gets it again.

        Raise OSError if locks do not work, or if the file is closed.
        """
        return self.ask(flock(fcntl.F_WRLCK, byte))

    def attempt(self, lock: bytes) -> int:
        """Do what a struct flock says, and return 0, or the number of the error.

        So each exception that comes out of this is a signal handler's, and must not be passed over: time limits are
        often OSErrors.
        """
        return set_lock(self._descriptor.number_if_open, lock)

    def ask(self, lock: bytes) -> bool:
        """Do what a struct flock says; return False if another process is in the way. Raise as `take` does."""
        number = self.attempt(lock)
        if number in BUSY:
            return False
        if number:
            raise OSError(number, os.strerror(number))
        return True

    def take_soon(self, byte: int, patience: float) -> bool:
        """Take the lock of a byte; return False if another process has it all the time. Raise as `take` does."""
        ends, pause = monotonic() + patience, FIRST_PAUSE
        while not self.take(byte):
            if monotonic() >= ends:
                return False
            rest(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
        return True

    def free(self, byte: int) -> None:
        """Give a lock back. Nothing is to be done if that fails: then there was none."""
        self.attempt(flock(fcntl.F_UNLCK, byte))

    def holder(self, byte: int) -> int | None:
        """Return the pid of another process that has the lock, 0 if it is in another pid namespace; None if none has.

        Raise OSError as `take` does.
        """
        lock = flock(fcntl.F_WRLCK, byte)
        number = self._descriptor.number_if_open
        if number < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return owner_in(fcntl.fcntl(number, fcntl.F_GETLK, lock))


class RingLocks:
    """The locks of a shelf's rings: each excludes other processes, and the other threads of this one.

    A signal handler that interrupts the very function that has a lock gets False at once: it would wait in vain.
    """

    def __init__(self, locks: Attempts | None, first: int, count: int) -> None:
        """Ring r is byte ``first + r`` of a file. Without ``locks`` only threads are excluded."""
        self._locks = locks
        self._taking = [flock(fcntl.F_WRLCK, first + ring) for ring in range(count)]
        self._freeing = [flock(fcntl.F_UNLCK, first + ring) for ring in range(count)]
        self._holds = Holds()
        self._held = self._holds.held
        self._closed = False

    def lock(self, ring: int, /) -> bool:
        """Take the lock of a ring; return False if that fails. Only the function that calls this has it.

        It tries for `PATIENCE` seconds, and at least `ATTEMPTS` times. Where threads compute, or the machine is busy,
        one attempt can take half of that time, so the time alone would mean very few attempts.
        """
        hold = thread_id(), sys._getframe(1), os.getpid()
        try:
            return (self._held.setdefault(ring, hold) is hold and self._has_record_lock(ring)) or self._wait(ring, hold)
        except BaseException:  # of a signal handler
            if self._holds.has(ring, hold):
                self._free(ring)
            raise

    def _wait(self, ring: int, hold: Hold) -> bool:
        ends, pause, attempts = monotonic() + PATIENCE, FIRST_PAUSE, 0
        while (attempts < ATTEMPTS or monotonic() < ends) and not self._closed and not self._holds.is_mine(ring, hold):
            rest(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
            attempts += 1
            if self._holds.take(ring, hold) and self._has_record_lock(ring):
                return True
        return not self._closed and self._holds.take_over(ring, hold) and self._has_record_lock(ring)

    def _has_record_lock(self, ring: int) -> bool:
        if self._locks is None or self._locks.attempt(self._taking[ring]) == 0:
            return True
        self._holds.give_back(ring)
        return False

    def close(self) -> None:
        """Wait until no function has a lock, 20 ms for each ring at most, and give out none any more.

        Otherwise whoever closes the file would take away a lock that is in use.
        """
        self._closed = True
        for ring in range(len(self._taking)):
            self._holds.take_soon(ring, FOR_EVER, PATIENCE)

    def unlock(self, ring: int, /) -> None:
        """Give the lock back, if the very function that calls this has it. Callable twice: see the protocol."""
        hold = self._held.get(ring)
        if hold is not None and hold[1] is sys._getframe(1):
            self._free(ring)

    def _free(self, ring: int) -> None:
        """The record lock goes first: a thread that comes in between must not lose its own."""
        if self._locks is not None:
            self._locks.attempt(self._freeing[ring])
        self._held.pop(ring, None)


class OpenFileLocks:
    """The locks of one open file of this process, on bytes. Any thread may call all methods.

    On Linux they belong to the open file, and not to the process as record locks do. So they are not lost when another
    descriptor of the file is closed. A forked child has the open file in common with its parent, and could unlock what
    the parent has locked, or lock it once more. So it gets no lock here, and has to open the file itself. As long as it
    has the descriptor, the kernel does not free what its parent had locked when that was killed.

    Where the kernel has no such locks they are record locks. Both kinds exclude each other.
    """

    def __init__(self, descriptor: Held) -> None:
        """``descriptor`` is used for nothing else, and nobody has a duplicate of it."""
        self._descriptor = descriptor
        self._pid = os.getpid()

    def attempt(self, lock: bytes) -> int:
        """Do what a struct flock says, and return 0, or the number of the error.

        EBADF says that somebody has closed the descriptor, or that this is a child.
        """
        if os.getpid() != self._pid or not self._descriptor.is_ours():
            return errno.EBADF
        number = set_open_file_lock(self._descriptor.number_if_open, lock)
        return number if number != errno.EINVAL else set_lock(self._descriptor.number_if_open, lock)


def lane_locks(descriptor: Held) -> RingLocks:
    """Return the locks of a log's lanes: `colocache.core.hosts.log.LaneLocks`. ``descriptor`` is as above.

    Two who have one lane would lose an event of which others rely on being told. Two who have one ring lose a value at
    most. So these are the locks that are not lost.
    """
    return RingLocks(OpenFileLocks(descriptor), 0, LANES)


class ClaimLocks:
    """The claims of this process: each is the lock of a byte. A place is a number of 64 bits."""

    def __init__(self, files: list[RecordLocks]) -> None:
        """``files`` are `CLAIM_FILES`, or none: then only this process claims anything."""
        self._files = files
        self._mine: dict[int, object] = {}

    def take(self, place: int, /) -> bool:
        """Claim a place; return False if it is claimed. Where locks do not work, everybody gets everything."""
        mine = object()
        if self._mine.setdefault(place, mine) is not mine:
            return False
        locks = self._locks(place)
        if locks is None or locks.attempt(flock(fcntl.F_WRLCK, place >> 4)) not in BUSY:
            return True
        self._mine.pop(place, None)
        return False

    def free(self, place: int, /) -> None:
        """Give a claim up."""
        locks = self._locks(place)
        if locks is not None:
            locks.free(place >> 4)
        self._mine.pop(place, None)

    def is_taken(self, place: int, /) -> bool:
        """Tell whether anybody has claimed a place. Where locks do not work, somebody has."""
        locks = self._locks(place)
        if place in self._mine or locks is None:
            return True
        try:
            return locks.holder(place >> 4) is not None
        except OSError as error:
            raise_if_from_handler(error)
            return True

    def _locks(self, place: int) -> RecordLocks | None:
        return self._files[place % CLAIM_FILES] if self._files else None
