"""Fences: in which order other processes see what this thread stores, and what it sees of theirs.

Python has no instruction for that. On x86 stores become visible in their order, and loads are made in theirs; only a
load may be made before an earlier store is visible, and any locked instruction prevents that. Elsewhere a system call
has to do it.
"""

from __future__ import annotations

import fcntl
import platform
from collections.abc import Callable
from typing import Protocol

from ..interruptions import raise_if_from_handler
from .files import flock
from .record_locks import RecordLocks
from .waiting.threads import allocate_lock

_X86 = ("x86_64", "AMD64", "i386", "i686")

# membarrier(2). The number of the call is the same on all machines that Linux has gained since 2012. The "private"
# command would not do: in a process of one thread it returns at once, without any barrier.
_MEMBARRIER = {"aarch64": 283, "riscv64": 283, "loongarch64": 283, "ppc64le": 365, "s390x": 356}
_QUERY, _GLOBAL_EXPEDITED = 0, 2


class Fences(Protocol):
    """What `colocache.core.host.memory.Fences` says."""

    @property
    def order(self) -> Callable[[], object]:
        """Keep stores in order, and loads."""

    def full(self) -> None:
        """Keep everything in order."""


class LockedInstruction:
    """The fences of x86."""

    def __init__(self) -> None:
        #: Nothing is needed. This is the function that takes the least time, because it is called at each read.
        self.order: Callable[[], object] = allocate_lock().locked

    def full(self) -> None:
        """Take a lock that nobody else knows: that is a locked instruction, and never waits."""
        allocate_lock().acquire()


class SystemCall:
    """The fences of other machines: a system call that makes a full one."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.order = call
        self._call = call

    def full(self) -> None:
        """Make a full fence."""
        self._call()


class _LockAndUnlock:
    """Two system calls, each with a lock in the kernel that is taken and given back.

    What comes before the first one is over when its lock is given back, and that comes before the second one's is
    taken.
    """

    def __init__(self, locks: RecordLocks, byte: int) -> None:
        self._locks = locks
        self._byte = byte
        self._lock = flock(fcntl.F_WRLCK, byte)

    def __call__(self) -> None:
        self._locks.attempt(self._lock)  # which fails where somebody has closed the file
        self._locks.free(self._byte)


def fences_for(locks: RecordLocks | None, byte: int) -> Fences:
    """Return the fences of this machine. ``byte`` of a file, whose ``locks`` they are, is nobody else's.

    A private cache has no file. Where only the lock of a byte would do, its threads have Python's own locks.
    """
    if platform.machine() in _X86:
        return LockedInstruction()
    call = _membarrier()
    if call is None and locks is not None:
        call = _LockAndUnlock(locks, byte)
    return SystemCall(call) if call is not None else LockedInstruction()


def _membarrier() -> Callable[[], object] | None:
    number = _MEMBARRIER.get(platform.machine())
    if platform.system() != "Linux" or number is None:
        return None
    try:
        import ctypes

        call = ctypes.PyDLL(None).syscall
    except (ImportError, OSError, AttributeError) as error:
        raise_if_from_handler(error)
        return None
    call.argtypes, call.restype = [ctypes.c_long], ctypes.c_long
    known = call(number, _QUERY, 0, 0)
    if known < 0 or not known & _GLOBAL_EXPEDITED or call(number, _GLOBAL_EXPEDITED, 0, 0) < 0:
        return None
    return lambda: call(number, _GLOBAL_EXPEDITED, 0, 0)
