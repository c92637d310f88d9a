"""The file ``scores`` of a region: a block for each seat. What lies in a block says `colocache.core.host.scores`.

It is as long as seats were ever taken. A process maps its own block. Whoever reads maps all of them for a moment, and
can only read. Nothing else depends on this file: where there is no room for a block, its process counts for itself.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Mapping
from types import TracebackType

from ..core.host import scores
from ..core.host.memory import Fences, Words
from ..core.host.scores import HEAD, NOTHING, SIZE, WORDS, Block, Event, Writer
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

    def __init__(self, blocks: Mapping[int, Words], fences: OurFences) -> None:
        """``blocks`` are the words of those that there are, by their seats."""
        self._blocks = {**blocks}
        self._fences = fences
        self._map: mmap.mmap | None = None
        self._views: list[memoryview] = []

    @classmethod
    def mapped(cls, descriptor: int, fences: OurFences, mine: Mapping[int, Words] | None = None) -> Scores:
        """Map what there is of an open file now, only to read it. Raise OSError if that fails.

        ``mine`` has the block of this process, which need not be in the file.

        Where there was no room for a block, the file has a hole. Whoever reads a hole by a map needs memory for it, and
        where a tmpfs has none, the process is killed. So it is read by the file first whether anybody has sat there.
        """
        found, seats = cls({}, fences), os.fstat(descriptor).st_size // SIZE
        there = [seat for seat in range(seats) if any(os.pread(descriptor, HEAD, seat * SIZE))]
        if there:
            found._map = mmap.mmap(descriptor, seats * SIZE, prot=mmap.PROT_READ)
            all_words = memoryview(found._map).cast("Q")
            found._views = [all_words[seat * WORDS : (seat + 1) * WORDS] for seat in there]
            found._blocks.update(zip(there, found._views, strict=True))
            all_words.release()
        found._blocks.update(mine or {})
        return found

    def block(self, seat: int) -> Block:
        """Return what the block of a seat says; one that is not there says nothing."""
        words = self._blocks.get(seat)
        return NOTHING if words is None else scores.read_block(words, self._fences)

    def events(self, seat: int, after: int = 0) -> list[Event]:
        """Return the last events of a seat, those with a number above ``after``, the oldest first."""
        words = self._blocks.get(seat)
        return [] if words is None else scores.read_events(words, self._fences, after)

    def tag(self, hash: int) -> str | None:
        """Return the name of a tag, as far as any process has noted it lately."""
        found = (scores.read_tag(words, hash, self._fences) for words in self._blocks.values())
        return next((tag for tag in found if tag is not None), None)

    def close(self) -> None:
        """Let go of the memory."""
        self._blocks.clear()
        for view in self._views:
            view.release()
        if self._map is not None:
            self._map.close()

    def __enter__(self) -> Scores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
