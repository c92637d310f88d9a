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
from ..core.host.memory import Fences
from ..core.host.scores import SIZE, Block, Event, Writer
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


class Scores:
    """All blocks of a host, to be read. As a context manager it lets go of the memory at the end."""

    def __init__(self, words: memoryview, fences: OurFences, mapping: mmap.mmap | None = None) -> None:
        """``words`` are those of all blocks; they are let go of, and ``mapping`` is closed, at the end."""
        self._words = words
        self._fences = fences
        self._map = mapping
        self.seats: Final = len(words) // scores.WORDS

    @classmethod
    def mapped(cls, descriptor: int, fences: OurFences) -> Scores:
        """Map what there is of an open file now, only to read it. Raise OSError if that fails."""
        size = os.fstat(descriptor).st_size // SIZE * SIZE
        mapping = mmap.mmap(descriptor, size, prot=mmap.PROT_READ) if size else anonymous(mmap.PAGESIZE)
        return cls(memoryview(mapping).cast("Q"), fences, mapping)

    def block(self, seat: int) -> Block:
        """Return what the block of a seat says."""
        return scores.read_block(self._of(seat), self._fences)

    def events(self, seat: int, after: int = 0) -> list[Event]:
        """Return the last events of a seat, those with a number above ``after``, the oldest first."""
        return scores.read_events(self._of(seat), self._fences, after)

    def tag(self, hash: int) -> str | None:
        """Return the name of a tag, as far as any process has noted it lately."""
        return next((tag for seat in range(self.seats) if (tag := scores.read_tag(self._of(seat), hash))), None)

    def _of(self, seat: int) -> memoryview:
        return self._words[seat * scores.WORDS : (seat + 1) * scores.WORDS]

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        if self._map is not None:
            self._map.close()

    def __enter__(self) -> Scores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
