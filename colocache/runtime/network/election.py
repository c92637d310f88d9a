"""Which process of a host is its gateway: the one that has a record lock.

The kernel gives the lock to one process, and takes it back when that process ends, in whatever way. So there are no
votes and no terms. A process that is stopped keeps it. Two gateways at the same time would be harmless: each only says
what stands in the memory of the host, and each writes in a row of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..record_locks import RecordLocks

_GATEWAY, _PREFERRED = 0, 1  # bytes


class Election(Protocol):
    """The offices of one host. Only the network thread calls it, and raises OSError if locks do not work."""

    def take(self) -> int | None:
        """Become the gateway, and return the number of the row to write in; None if another process is it."""

    def give_back(self) -> None:
        """Be the gateway no more. Callable twice."""

    def is_vacant(self) -> bool:
        """Tell whether no other process is the gateway."""

    def prefer(self) -> None:
        """Have other processes leave the office to this one. It need not be given back."""

    def must_wait(self) -> bool:
        """Tell whether another process is preferred."""

    def version(self) -> int:
        """Return a number that is another one after each coming and going of a process."""


class LockElection:
    """An election by locks of bytes of one file."""

    def __init__(
        self, locks: RecordLocks, first: int, version: Callable[[], int],
        take_row: Callable[[], int | None] = lambda: 0, free_row: Callable[[int], object] = lambda row: None,
    ) -> None:  # fmt: skip
        """``first`` is the first of the two bytes that this uses. ``take_row`` gives the row of a gateway."""
        self._locks = locks
        self._first = first
        self._take_row, self._free_row = take_row, free_row
        self._row: int | None = None
        self.version = version

    def take(self) -> int | None:
        """Become the gateway; None if another process is it, or if there is no row."""
        if self._locks.is_open and self._locks.take(self._first + _GATEWAY):
            self._row = self._take_row()
            if self._row is None:
                self.give_back()
        return self._row

    def give_back(self) -> None:
        """Be the gateway no more."""
        row, self._row = self._row, None
        if row is not None:
            self._free_row(row)
        self._locks.free(self._first + _GATEWAY)

    def is_vacant(self) -> bool:
        """Tell whether no other process is the gateway."""
        return self._locks.holder(self._first + _GATEWAY) is None

    def prefer(self) -> None:
        """Have other processes leave the office to this one."""
        self._locks.take(self._first + _PREFERRED)

    def must_wait(self) -> bool:
        """Tell whether another process is preferred."""
        return self._locks.is_open and self._locks.holder(self._first + _PREFERRED) is not None
