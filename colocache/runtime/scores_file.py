"""The file ``scores`` of a region: a block for each seat. What lies in a block says `colocache.core.host.scores`.

It is as long as seats were ever taken. A process maps its own block. Whoever reads maps all of them for a moment, and
can only read. Nothing else depends on this file: where there is no room for a block, its process counts for itself.
"""

from __future__ import annotations

import mmap
import os
import time
from types import TracebackType
from typing import Final

from ..core.host import scores
from ..core.host.memory import Fences, Words
from ..core.host.scores import HEAD, SIZE, Block, Event, Writer
from ..interruptions import raise_if_from_handler
from .board_file import anonymous
from .fences import Fences as OurFences
from .files import allocate, lengthen
from .region_files import SCORES, Files


def sit_down(files: Files | None, seat: int, nonce: int, fences: Fences) -> Writer:
    """Return this process's block, for whoever has the lock of joining.

    Without files, or if there is no room for the block, nobody else sees it.
    """
    writer = None
    if files is not None:
        try:
            writer = _shared(files, seat, fences)
        except OSError as error:  # there is no room, or a limit
            raise_if_from_handler(error)
    if writer is None:
        writer = Writer(memoryview(anonymous(SIZE)).cast("Q"), fences, lambda start, end: True)
    writer.sit_down(nonce, os.getpid(), time.time_ns())
    return writer


def _shared(files: Files, seat: int, fences: Fences) -> Writer:
    file, start = files.held[SCORES].number, seat * SIZE
    if os.fstat(file).st_size < start + SIZE:
        lengthen(file, start + SIZE)
    first, end = scores.first_part()
    allocate(file, start + first, start + end)

    def grow(first: int, end: int) -> bool:
        try:
            allocate(files.held[SCORES].number, start + first, start + end)
        except (OSError, IndexError, KeyError) as error:
            raise_if_from_handler(error)
            return False
        return True

    return Writer(memoryview(files.map(SCORES, SIZE, start)).cast("Q"), fences, grow)


class _Zeros:
    """The words of a block that is not there."""

    def __getitem__(self, place: int) -> int:
        return 0

    def __setitem__(self, place: int, value: int) -> None:
        raise TypeError("nobody writes to what is only read")


class Scores:
    """All blocks of a host, to be read. As a context manager it lets go of the memory at the end."""

    def __init__(self, descriptor: int, fences: OurFences) -> None:
        """Map what there is of an open file now. Raise OSError if that fails.

        Where there was no room for a block, the file has a hole. Whoever reads a hole by a map needs memory for it, and
        where a tmpfs has none, the process is killed. So it is read by the file first whether anybody has sat there.
        """
        self._fences = fences
        size = os.fstat(descriptor).st_size // SIZE * SIZE
        self.seats: Final = size // SIZE
        self._there = [any(os.pread(descriptor, HEAD, seat * SIZE)) for seat in range(self.seats)]
        self._map = mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else mmap.mmap(-1, mmap.PAGESIZE)
        self._bytes = memoryview(self._map)
        self._words = self._bytes.cast("Q")

    def block(self, seat: int) -> Block:
        """Return what the block of a seat says; one that is not there says nothing."""
        return scores.read_block(self._of(seat), self._fences)

    def events(self, seat: int, after: int = 0) -> list[Event]:
        """Return the last events of a seat, those with a number above ``after``, the oldest first."""
        return scores.read_events(self._of(seat), self._fences, after)

    def tag(self, hash: int) -> str | None:
        """Return the name of a tag, as far as any process has noted it lately."""
        return next(
            (tag for seat in range(self.seats) if (tag := scores.read_tag(self._of(seat), hash, self._fences))), None
        )

    def _of(self, seat: int) -> Words:
        there = seat < self.seats and self._there[seat]
        return self._words[seat * scores.WORDS : (seat + 1) * scores.WORDS] if there else _Zeros()

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._bytes.release()
        self._map.close()

    def __enter__(self) -> Scores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
