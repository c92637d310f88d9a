"""The locks by which a process is the gateway of its host, and by which a row of what hosts know is its own.

They are locks of an open file that only the network thread has, and so they last exactly as long as that thread needs
them. Record locks would not do: they end when any descriptor of the file is closed.

1. A process leaves its region, and closes the files. Its network thread still works, and writes its row.
2. Another process takes the office, and the same row. Now two write there, and a number goes back.

Where the kernel has no locks of open files, these are record locks. Then the thread has to end first.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from ...core.hosts.layout import ROWS
from ...interruptions import raise_if_from_handler
from ..files import Held, flock, owner_in
from ..record_locks import BUSY, OpenFileLocks

GATEWAY, PREFERRED = 1 << 20, (1 << 20) + 1  # bytes; those of lanes are below
_ROWS = 1 << 21

_GETLK = getattr(fcntl, "F_OFD_GETLK", fcntl.F_GETLK)


class Office:
    """The office of one host, for one process: an election of the network thread. For that thread alone."""

    def __init__(
        self, open: Callable[[], Held], grow_row: Callable[[int], bool], version: Callable[[], int]
    ) -> None:  # fmt: skip
        """``open`` opens the file anew, or raises OSError. ``grow_row`` gives a row its memory.

        ``version`` returns a number that is another one after each coming and going of a process.
        """
        self.version = version
        self._open = open
        self._grow_row = grow_row
        self._file: Held | None = None
        self._locks: OpenFileLocks | None = None
        self._row: int | None = None
        self._is_preferred = False

    def take(self) -> int | None:
        """Become the gateway, and return the number of the row to write in; None if another process is it."""
        if self._row is None and self._take(GATEWAY):
            self._row = next(filter(self._take_row, range(ROWS)), None)
            if self._row is None:
                self._free(GATEWAY)
        return self._row

    def _take_row(self, row: int) -> bool:
        if not self._take(_ROWS + row):
            return False
        if not self._grow_row(row):
            self._free(_ROWS + row)
            return False
        return True

    def give_back(self) -> None:
        """Be the gateway no more. Callable twice."""
        self._row = None
        file, self._file, self._locks = self._file, None, None
        if file is not None:
            file.close()

    def is_vacant(self) -> bool:
        """Tell whether no other process is the gateway."""
        return not self._is_taken(GATEWAY)

    def prefer(self) -> None:
        """Have other processes leave the office to this one."""
        self._is_preferred = True
        self._opened()

    def must_wait(self) -> bool:
        """Tell whether another process is preferred."""
        return self._is_taken(PREFERRED)

    def _opened(self) -> tuple[Held, OpenFileLocks]:
        if self._file is None or self._locks is None:
            self._file = self._open()
            self._locks = OpenFileLocks(self._file)
            if self._is_preferred:
                self._take(PREFERRED)
        return self._file, self._locks

    def _take(self, byte: int) -> bool:
        number = self._opened()[1].attempt(flock(fcntl.F_WRLCK, byte))
        if number and number not in BUSY:
            raise OSError(number, os.strerror(number))
        return not number

    def _free(self, byte: int) -> None:
        self._opened()[1].attempt(flock(fcntl.F_UNLCK, byte))

    def _is_taken(self, byte: int) -> bool:
        file = self._opened()[0]
        try:
            return owner_in(fcntl.fcntl(file.number, _GETLK, flock(fcntl.F_WRLCK, byte))) is not None
        except OSError as error:
            raise_if_from_handler(error)
            raise
