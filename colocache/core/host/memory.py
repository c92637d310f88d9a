"""What this package asks of shared memory, of its order, and of locks. The shell gives the real ones.

A simulated memory shows stores late and in another order, cuts slices, and lets a process die between any two stores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Words(Protocol):
    """Words of 8 bytes. Each is loaded and stored whole, and nobody sees a word go back to an older value."""

    def __getitem__(self, place: int, /) -> int: ...

    def __setitem__(self, place: int, value: int, /) -> None: ...


class Heard(Protocol):
    """A word that is only loaded, and compared with what was loaded before."""

    def __getitem__(self, place: int, /) -> float: ...


class Bytes(Protocol):
    """Bytes. A slice that others store to or load from meanwhile may be torn anywhere."""

    def __getitem__(self, part: slice, /) -> bytes: ...

    def __setitem__(self, part: slice, value: bytes, /) -> None: ...


class Fences(Protocol):
    """The order in which others see what this thread loads and stores."""

    @property
    def order(self) -> Callable[[], object]:
        """Keep the stores before it before those after it, and the loads likewise. Nothing on x86."""

    def full(self) -> None:
        """Have all stores before it seen by everybody, before anything after it is loaded. A full fence, everywhere."""


class HostLease(Protocol):
    """What may be served, as far as other hosts decide that; see `colocache.core.hosts.lease`. Times are in seconds.

    Whoever asks has read ``now`` before, and reads the bell and the stamps after.
    """

    @property
    def known(self) -> float:
        """The instant until which everything may be served, and perhaps longer. It is read at no cost."""

    def until(self, now: float, /) -> float:
        """Return the instant until which everything may be served. It may be past."""

    def as_of(self, now: float, /) -> float:
        """Return the instant from which the age of a value counts whose loader begins now."""

    def as_of_end(self, began: float, now: float, /) -> float:
        """Return the same for a value whose loader has ended, and began while the host was behind."""

    def loaded_after(self, now: float, /) -> float:
        """Return the instant after which a value must have been loaded to be served."""


class RingLocks(Protocol):
    """One lock for each ring. The kernel releases them when their holder dies.

    An exception of a signal handler may come as soon as a lock is taken, and in the middle of giving it back. So call
    ``lock`` in a ``try`` block, and ``unlock`` at its end, and once more in its ``finally``.
    """

    def lock(self, ring: int, /) -> bool:
        """Take the lock of a ring; return False if that fails for some milliseconds."""

    def unlock(self, ring: int, /) -> None:
        """Give it back, if the very function that calls this has it."""


class Announcer(Protocol):
    """Tells other hosts of the group that a key was written. Its methods are called under the lock of the ring."""

    def announce(self, hash: int, /) -> object:
        """Announce the write, given the hash of the writes to a key. Return what `done` is given; None if that failed.

        The record is committed, and nothing is stamped for it yet.
        """

    def done(self, announced: object, /) -> None:
        """Note that the write is stamped."""
