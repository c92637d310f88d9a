"""The counters of `chaos.py`: whoever counts says so before and after, and so everybody knows what a counter may show.

A counter shows each count since it was last **reset**: invalidated, evicted, or lost with its region. So at a read,

* it is at least what was acknowledged before, less all that was begun before the end of the last reset,
* and at most what was begun until now, less what was acknowledged before the last invalidation.

Without a reset these are equal, but for the calls that are under way, and those of processes that were killed in the
middle of one. A count that is lost, or counted twice, is out of these bounds for good.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from colocache.core.host.hashes import key_hash
from colocache.core.host.logs import NO_WAY, TAG_SHIFT, Logs
from colocache.core.host.record import label_of
from colocache.runtime import board_file, region
from verification.chaos.board import ROWS

SPACE_OF = {"c0": "", "c1": "", "c2": "n", "c3": "n/m"}  # counters, and where they are
COUNTERS = tuple(SPACE_OF)

#: The words of a counter and a thread: what it has begun to count, and what was acknowledged; what dead predecessors
#: had begun; the resets that it has begun, and that are over; what all had begun when the last one was over; what was
#: acknowledged to all before it began its last invalidation.
_BEGUN, _COUNTED, _PERHAPS, _RESETS, _OVER, _BASE, _VOID = range(7)
_WORDS = 7


class Known(NamedTuple):
    """What is known before a read."""

    counted: int
    void: int
    base: int | None  # None while a reset is under way
    resets: int


class Bounds(NamedTuple):
    """What a read may show."""

    least: int | None  # None: a reset was under way
    most: int


class Counting:
    """What all processes have counted. A thread of work has a row; the others of a process share its last one."""

    def __init__(self, directory: Path, slots: int, slot: int | None = None) -> None:
        with open(directory / "counters", "r+b") as file:
            words = memoryview(mmap.mmap(file.fileno(), self._size(slots))).cast("Q")
        rows = slots * ROWS
        self._columns = {
            counter: [words[(number * _WORDS + word) * rows :][:rows] for word in range(_WORDS)]
            for number, counter in enumerate(COUNTERS)
        }
        self._slot = slot
        self._mine = threading.local()
        self._others = threading.RLock()  # whoever has the last row

    @classmethod
    def create(cls, directory: Path, slots: int) -> Counting:
        """Make it, with nothing counted."""
        (directory / "counters").write_bytes(bytes(cls._size(slots)))
        return cls(directory, slots)

    @staticmethod
    def _size(slots: int) -> int:
        return 8 * len(COUNTERS) * _WORDS * slots * ROWS

    def inherit(self) -> None:
        """Take over the slot of a dead process: whether it came to count what it had begun, nobody will know."""
        assert self._slot is not None
        for columns in self._columns.values():
            for row in range(self._slot * ROWS, self._slot * ROWS + ROWS):
                perhaps = columns[_BEGUN][row] - columns[_COUNTED][row]
                columns[_PERHAPS][row] += perhaps  # first: `judge` reads it last
                columns[_BEGUN][row] -= perhaps
                while columns[_OVER][row] != columns[_RESETS][row]:
                    self._end_reset(columns, row, happened=True)

    def work_as(self, row: int) -> None:
        """Have this thread a row of its own."""
        self._mine.row = row

    # --- Counting

    @contextmanager
    def count(self, counter: str, by: int) -> Iterator[Callable[[], None]]:
        """Say that this thread begins to count; what is yielded is called if it was counted."""
        columns, row = self._columns[counter], self._mine.row
        was_counted = []
        columns[_BEGUN][row] += by
        yield lambda: was_counted.append(True)
        if was_counted:
            columns[_COUNTED][row] += by
        else:
            columns[_BEGUN][row] -= by

    @contextmanager
    def reset(self, counters: Iterable[str]) -> Iterator[_Reset]:
        """Say that counters are about to be reset, for whatever reason."""
        with self._row() as row:
            some = [self._columns[counter] for counter in counters]
            reset = _Reset([sum(columns[_COUNTED]) for columns in some])
            for columns in some:
                columns[_RESETS][row] += 1
            try:
                yield reset
            finally:
                for columns, counted in zip(some, reset.counted, strict=True):
                    if reset.voids:
                        columns[_VOID][row] = max(columns[_VOID][row], counted)
                    self._end_reset(columns, row, reset.happened)

    @contextmanager
    def _row(self) -> Iterator[int]:
        row = getattr(self._mine, "row", None)
        if row is not None:
            yield row
            return
        assert self._slot is not None
        with self._others:
            yield self._slot * ROWS + ROWS - 1

    @staticmethod
    def _end_reset(columns: list[memoryview], row: int, happened: bool) -> None:
        """One reset less is under way. There can be two of a thread, one in the other:

        1. It clears everything. The files have been deleted meanwhile, so it joins anew, and makes a region.
        2. Others join, and count.
        3. It clears everything in the new region, too.
        """
        if happened:
            columns[_BASE][row] = sum(columns[_BEGUN])
        columns[_OVER][row] += 1

    # --- Reading

    def look(self, counter: str) -> Known:
        """What is known now."""
        columns = self._columns[counter]
        resets = sum(columns[_RESETS])
        under_way = sum(columns[_OVER]) != resets
        return Known(sum(columns[_COUNTED]), max(columns[_VOID]), None if under_way else max(columns[_BASE]), resets)

    def bounds(self, counter: str, known: Known) -> Bounds:
        """What a read may show that has just ended, and before which so much was known."""
        columns = self._columns[counter]
        begun = sum(columns[_BEGUN])
        most = begun + sum(columns[_PERHAPS]) - known.void
        if known.base is None or sum(columns[_RESETS]) != known.resets:
            return Bounds(None, most)
        return Bounds(known.counted - known.base, most)


class _Reset:
    """A reset that is under way."""

    def __init__(self, counted: list[int]) -> None:
        self.counted = counted
        self.happened = True
        self.voids = False  # whether it is an invalidation, and acknowledged


# --- What resets counters without being asked to


class _Watch(NamedTuple):
    pid: int
    counting: Counting
    counters: dict[int, str]  # by the hashes of their keys
    accuse: Callable[..., None]


_watch: _Watch | None = None


def watch(counting: Counting, wires: dict[str, bytes], accuse: Callable[..., None]) -> None:
    """Have this process note when it evicts a counter, or ends a region, or makes one."""
    global _watch
    is_first = _watch is None
    _watch = _Watch(os.getpid(), counting, {key_hash(wire): counter for counter, wire in wires.items()}, accuse)
    if is_first:
        _patch_logs()
        _patch_regions()


def _watching() -> _Watch | None:
    """None in a child that does not work yet."""
    return _watch if _watch is not None and _watch.pid == os.getpid() else None


def _patch_logs() -> None:
    retire: Any = Logs._retire
    commit: Any = Logs.commit
    reset: Any = Logs.reset

    def retire_and_tell(logs: Any, ring: int, log: int, way: int, header: Any, body: bytes, *others: Any) -> None:
        watched = _watching()
        counter = watched.counters.get(header.hash) if watched else None
        if watched is None or counter is None or not logs._board.stands(label_of(body)):
            retire(logs, ring, log, way, header, body, *others)
            return
        with watched.counting.reset([counter]) as begun:
            retire(logs, ring, log, way, header, body, *others)
            begun.happened = not logs._index[way]

    def commit_and_tell(logs: Any, base: int, way: int, old: int, word: int) -> int:
        watched = _watching()
        if watched is None or way != NO_WAY:
            return int(commit(logs, base, way, old, word))
        near = {hash: each for hash, each in watched.counters.items() if hash & logs._way_mask == base}
        with watched.counting.reset(near.values()) as begun:
            way = commit(logs, base, way, old, word)
            tags = {each >> TAG_SHIFT for each in logs.bucket(base)}
            begun.happened = not all(hash >> TAG_SHIFT | 1 in tags for hash in near)
        return way

    def reset_and_tell(logs: Any, ring: int) -> None:
        watched = _watching()
        if watched is not None:
            watched.accuse("garbage", ring=ring)
        reset(logs, ring)

    Logs._retire = retire_and_tell  # type: ignore[method-assign]
    Logs.commit = commit_and_tell  # type: ignore[method-assign]
    Logs.reset = reset_and_tell  # type: ignore[method-assign]


def _patch_regions() -> None:
    for owner, name in ((board_file, "end"), (region, "_make")):
        genuine = getattr(owner, name)

        def tell(*arguments: Any, genuine: Any = genuine) -> Any:
            watched = _watching()
            if watched is None:
                return genuine(*arguments)
            with watched.counting.reset(COUNTERS):
                return genuine(*arguments)

        setattr(owner, name, tell)
