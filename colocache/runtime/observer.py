"""A look at the memory of a group's host by a process that does not belong to the group: it joins nothing.

It maps the files to read them, takes no seat and no lock, and is seen by nobody. So to look changes nothing, and the
last process that leaves ends the region, whoever looks on.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from functools import partial
from time import monotonic
from types import TracebackType
from typing import Any, Final

from ..core.host.board import Board
from ..core.host.layout import ShelfMemory, geometry
from ..core.host.shelf import Shelf
from ..core.hosts import layout
from ..core.hosts.lease import FOREVER
from ..errors import CannotJoin
from ..interruptions import raise_if_from_handler
from . import board_file
from .board_file import BoardMemory, Head, Seat
from .fences import fences_for
from .files import Descriptor
from .places import base_directory, directory_name
from .record_locks import RecordLocks
from .region import SEATS_AT, region_of
from .region_files import HOSTS, SCORES
from .scores_file import Scores
from .view import View

_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


class NobodyThere(CannotJoin):
    """No process of the group runs on this host, as far as this one can see."""


class Observer:
    """The memory of a group on this host, while somebody looks. As a context manager it lets go of it at the end.

    It must not be used in a process that has joined the group: to close a file gives up the process's locks on it.
    """

    def __init__(self, group: str, directory: str | None) -> None:
        """``directory`` is the setting: an absolute path, or None for the default.

        Raise NobodyThere if no process of the group runs here, CannotJoin if its memory cannot be read, as that of
        another version, and OSError if the files cannot.
        """
        self.path = f"{os.path.realpath(base_directory(directory))}/{directory_name(group)}"
        if region_of(self.path) is not None:
            raise RuntimeError(f"this process has joined the group in {self.path}: look by its cache")
        with contextlib.ExitStack() as owned:
            self._open(owned, group)
            self._owned = owned.pop_all()

    def _open(self, owned: contextlib.ExitStack, group: str) -> None:
        try:
            board = self._file(owned, "board")
        except FileNotFoundError as error:
            raise_if_from_handler(error)
            raise NobodyThere(
                f"no process of the group {group!r} runs on this host, as far as {self.path} says: is the group's name "
                "right, and COLOCACHE_DIR, and is this the same user, and the same container?"
            ) from None
        self.head = head = Head(board)
        if not head.is_a_board or head.layout != board_file.LAYOUT:
            raise CannotJoin(
                f"the processes of the group in {self.path} run another version of colocache, whose memory has layout "
                f"{head.layout}, and this one's has layout {board_file.LAYOUT}"
            )
        if not head.lives or not head.is_whole:
            raise CannotJoin(f"the group in {self.path} has ended just now, or has just begun: try again")
        self._scores = self._file(owned, SCORES)
        self._locks = RecordLocks(Descriptor(self._file(owned, "locks")))
        self._fences = fences_for(None, 0)
        self._board = memory = BoardMemory(_mapped(board, head.size))
        self.geometry = sizes = geometry(head.capacity)
        numbers: Any = None  # nothing is written
        marks = Board(memory.bell, memory.marks, memory.count, numbers, self._fences, memory.heard)
        memory_of_shelf = self._mapped_whole(owned, "shelf", sizes.total_size)
        shelf = ShelfMemory.over(memory_of_shelf, sizes, lambda start, end: False)
        locks: Any = None
        self.shelf = Shelf(shelf, marks, numbers, self._fences, locks, monotonic, FOREVER)
        self.hosts: memoryview | None = None
        if head.hosts:
            self.hosts = memoryview(self._mapped_whole(owned, HOSTS, layout.WORD * layout.WORDS)).cast("Q")

    def _file(self, owned: contextlib.ExitStack, name: str) -> int:
        number = os.open(f"{self.path}/{name}", _READ)
        owned.callback(partial(os.close, number))
        return number

    def _mapped_whole(self, owned: contextlib.ExitStack, name: str, size: int) -> mmap.mmap:
        """Map a file that has a certain length. Otherwise somebody has cut it: to touch what is gone would kill us."""
        file = self._file(owned, name)
        if os.fstat(file).st_size != size:
            raise CannotJoin(f"somebody has cut {self.path}/{name}, or put another file there")
        return _mapped(file, size)

    @property
    def is_alive(self) -> bool:
        """Whether the region has not ended meanwhile."""
        return self._board.state[0] == board_file.LIVES

    def seats_ever(self) -> list[tuple[Seat, bool]]:
        """Return who has each seat, or had it last, and whether that process lives."""
        living = {}
        for number in range(self._board.used_seats):
            pid = self._locks.holder(SEATS_AT + number)
            if pid is not None:
                nonce = self._board.seat(number)[1]
                living[number] = Seat(number, pid, nonce, self._board.role(number), self._board.release(number))
        return self._board.seats_ever(living)

    def view(self) -> View:
        """Return the memory for somebody who looks what is there; he closes it."""
        return View(self.shelf, monotonic, self.seats_ever, Scores.mapped(self._scores, self._fences))

    def close(self) -> None:
        """Close the files."""
        self._owned.close()

    def __enter__(self) -> Observer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _mapped(descriptor: int, size: int) -> mmap.mmap:
    return mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
