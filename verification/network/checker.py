"""Judges reads by what every process of every host has written down before they began.

Three rules. A read that began after a complete receipt for version v, and gives less than v, is **stale**. One that
began more than the lease and a tenth after v was announced, be it without any receipt, and gives less than v, is
**late**: what is not acknowledged must not be served for longer than that, whatever was cut. And what is no version of
its key at all is **torn**.

All hosts are this machine, so they have one clock and share files: the register of versions and the board of
`verification.chaos`, and beside the board a file of what was announced, and one of the calls that are under way.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic_ns
from typing import Any, Final, NamedTuple

from verification.chaos.board import PAGES, ROWS, Board, keys_of
from verification.chaos.register import Register
from verification.chaos.values import Torn, version_of

LEASE: Final = 3.0  # s, as the group has it
MARGIN: Final = 0.2  # s
BOUND: Final = LEASE * 1.1 + MARGIN
KEPT: Final = 8  # announcements of one thread about one key; older ones cannot find anything late
_NEVER: Final = (1 << 63) - 1  # ns


class _Words:
    """A file of 64-bit words that all processes map."""

    def __init__(self, path: Path, count: int) -> None:
        if not path.exists():
            path.write_bytes(bytes(8 * count))
        with open(path, "r+b") as file:
            self.words = memoryview(mmap.mmap(file.fileno(), 8 * count)).cast("Q")


class Announced:
    """When which version was announced. One thread writes in a row; any process reads all rows."""

    def __init__(self, directory: Path, slots: int) -> None:
        """Make the file if there is none, which only one process may do at a time."""
        self._rows = slots * ROWS
        self._keys = {key: number * self._rows for number, key in enumerate(keys_of(slots))}
        cells = len(self._keys) * self._rows
        words = _Words(directory / "announced", cells * (1 + 2 * KEPT)).words
        self._newest, self._kept = words[:cells], words[cells:]  # a version; pairs of a version and an instant

    def announce(self, row: int, versions: dict[str, int], at: int) -> None:
        """Others have been told of these versions, at the latest at an instant in ns."""
        for key, version in versions.items():
            cell = self._keys[key] + row
            place = 2 * (cell * KEPT + version % KEPT)
            # Whoever reads in between, or after a kill in between, sees an instant that never comes.
            self._kept[place + 1] = _NEVER
            self._kept[place] = version
            self._kept[place + 1] = at
            self._newest[cell] = max(self._newest[cell], version)

    def newest(self, key: str) -> int:
        """The newest version that was announced, by anybody."""
        place = self._keys[key]
        return max(self._newest[place : place + self._rows])

    def due(self, key: str, before: int) -> int:
        """The newest version that was announced before an instant, as far as is kept."""
        place = self._keys[key]
        kept = self._kept[2 * place * KEPT : 2 * (place + self._rows) * KEPT].tolist()
        return max((version for version, at in zip(kept[::2], kept[1::2], strict=True) if at <= before), default=0)


class UnderWay:
    """Since when each thread is in a call of the cache."""

    def __init__(self, directory: Path, slots: int) -> None:
        """Make the file if there is none."""
        self._words = _Words(directory / "under_way", slots * ROWS).words

    @contextmanager
    def call(self, row: int) -> Iterator[None]:
        """Note that a call is under way."""
        self._words[row] = monotonic_ns()
        try:
            yield
        finally:
            self._words[row] = 0

    def clear(self, slot: int) -> None:
        """Forget the calls of a process that has ended."""
        for row in range(slot * ROWS, (slot + 1) * ROWS):
            self._words[row] = 0

    def longest(self, slot: int) -> tuple[int, int]:
        """The thread of a process that is in a call for longest, and since when in ns; 0 if none is in any."""
        calls = [(self._words[row], row % ROWS) for row in range(slot * ROWS, (slot + 1) * ROWS)]
        began, thread = min((call for call in calls if call[0]), default=(0, 0))
        return thread, began


class Look(NamedTuple):
    """What is known before a read begins."""

    dues: dict[str, int]  # by part: a key, or what a page is made of
    began: int  # ns


class Checker:
    """Writes versions, and judges reads. Any thread may use it, each with a row of its own."""

    def __init__(self, directory: Path, slots: int, slot: int, bound: float = BOUND) -> None:
        """``bound`` is how long after its announcement, in s, an older version may be served."""
        self.board = Board(directory, slots)
        self.announced = Announced(directory, slots)
        self.register = Register(directory)
        self._slot = slot
        self._bound = int(bound * 1e9)

    @classmethod
    def create(cls, directory: Path, slots: int) -> Checker:
        """Make all files: versions are 0, and nothing is announced."""
        Register.create(directory, keys_of(slots))
        Board.create(directory, slots)
        UnderWay(directory, slots)
        return cls(directory, slots, 0)

    # --- Reading

    def look(self, key: str) -> Look:
        """Look what a read must give at least; it begins now."""
        dues = {part: self.board.due(part) for part in PAGES.get(key, (key,))}
        return Look(dues, monotonic_ns())

    def judge(self, row: int, key: str, look: Look, value: Any) -> None:
        """Accuse what a read should not have given."""
        self.board.count(row, reads=1)
        try:
            versions = {part: version_of(part, each) for part, each in _parts(key, value)}
        except Torn as error:
            self.board.accuse("torn", slot=self._slot, key=key, began=look.began, value=str(error))
            return
        for part, version in versions.items():
            if version < look.dues[part]:
                self._accuse("stale", key, part, version, look.dues[part], look)
            elif version < self.announced.newest(part):
                due = self.announced.due(part, look.began - self._bound)
                if version < due:
                    self._accuse("late", key, part, version, due, look)

    def _accuse(self, what: str, key: str, part: str, got: int, due: int, look: Look) -> None:
        self.board.accuse(
            what, slot=self._slot, key=key, part=part, got=got, due=due, began=look.began, returned=monotonic_ns(),
            truth=self.register.read(part),
        )  # fmt: skip

    # --- Writing

    def commit(self, how: str, keys: Iterable[str]) -> dict[str, int]:
        """Write new versions to the source; they are announced next."""
        versions = self.register.write(keys)
        self.board.note("commits", slot=self._slot, how=how, versions=versions)
        return versions

    def told(self, row: int, versions: dict[str, int], *, complete: bool, is_announced: bool, **details: Any) -> None:
        """Note that a call has returned which announces versions.

        ``is_announced``: the host was established before, so that others are told although nobody may have said so.
        """
        now = monotonic_ns()
        if is_announced:
            self.announced.announce(row, versions, now)
        if complete:
            self.board.acknowledge(row, versions)
        self.board.note("is told", slot=self._slot, versions=versions, complete=complete, **details)
        self.board.count(row, complete=complete)


def _parts(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    if key not in PAGES:
        return [(key, value)]
    if not isinstance(value, dict) or tuple(value) != PAGES[key]:
        raise Torn(f"{value!r:.200}")
    return value.items()
