"""What the processes of `chaos.py` read and write, and what each of them knows of all the others.

What is acknowledged stands on a **board** that all processes map: a reader looks there first, and then reads; what it
gets must be at least as new. So nobody compares clocks, and nothing is lost when a process is killed: what it wrote on
the board stays there.
"""

from __future__ import annotations

import json
import mmap
import os
from pathlib import Path
from time import monotonic_ns
from typing import Any, NamedTuple

SPACES = {"": range(18), "n": range(18, 27), "n/m": range(27, 36)}
SPACE = {f"k{number}": space for space, numbers in SPACES.items() for number in numbers}
KEYS = tuple(SPACE)  # written by everybody, and then invalidated
PAGES = {"p0": ("k0", "k9", "k18"), "p1": ("k1", "k10", "k19")}  # by loaders that read these through the cache
TAGS = {key: (f"t{number % 9}",) for number, key in enumerate(KEYS)} | {page: (f"t{page[1]}",) for page in PAGES}
WRITERS = 3  # threads and tasks per process that write: each of them has its own cells, and so its own version of a key
ROWS = 5  # threads per process that count something
COUNTERS = (
    "reads", "async_reads", "loads", "impatient", "late_sets", "by_key", "by_tag", "by_namespace", "by_set", "awaited",
    "complete", "unawaited",
)  # fmt: skip

_VERSION = 24  # bits; the rest of a word is an instant in us


class Due(NamedTuple):
    """The least version that a read may give, and why."""

    version: int
    why: str


def own_key(slot: int) -> str:
    """The key that one slot alone writes: a `set` is unconditional, and of two writers the slower one would win."""
    return f"s{slot}"


def keys_of(slots: int) -> tuple[str, ...]:
    """All keys that have a version."""
    return KEYS + tuple(own_key(slot) for slot in range(slots))


class Board:
    """Floors under what may be read, by key and writer; and counters. One process at a time has a slot."""

    def __init__(self, directory: Path, slots: int) -> None:
        self._writers = slots * WRITERS
        with open(directory / "board", "r+b") as file:
            words = memoryview(mmap.mmap(file.fileno(), self._size(slots))).cast("Q")
        self._began = words[:1]
        self._setting, words = words[1 : 1 + slots], words[1 + slots :]  # by slot: the version of a set under way
        self._keys = keys_of(slots)
        cells = len(self._keys) * self._writers
        self._settled, self._announced, self._counters = words[:cells], words[cells : 2 * cells], words[2 * cells :]
        self._directory = directory
        self._history, self._violations, self._late = (
            os.open(directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            for name in ("history", "violations", "late")
        )

    @classmethod
    def create(cls, directory: Path, slots: int) -> Board:
        """Make an empty board."""
        (directory / "board").write_bytes(bytes(cls._size(slots)))
        board = cls(directory, slots)
        board._began[0] = monotonic_ns() // 1000
        return board

    @staticmethod
    def _size(slots: int) -> int:
        return 8 * slots * (1 + 2 * len(keys_of(slots)) * WRITERS + len(COUNTERS) * ROWS) + 8

    # --- Floors

    def acknowledge(self, writer: int, versions: dict[str, int]) -> None:
        """An invalidation has returned, and was complete."""
        for cell, version in self._cells(writer, versions):
            self._settled[cell] = max(self._settled[cell], version)

    def announce(self, writer: int, versions: dict[str, int], within: float) -> None:
        """An invalidation has returned; all will follow ``within`` seconds. Kept until then: one is enough."""
        now = self._now()
        for cell, version in self._cells(writer, versions):
            word = self._announced[cell]
            if word >> _VERSION <= now:
                self._settled[cell] = max(self._settled[cell], word % (1 << _VERSION))
                self._announced[cell] = (now + int(within * 1e6) << _VERSION) + version

    def due(self, key: str) -> Due:
        """What a read that begins now must give at least."""
        place, now = self._keys.index(key) * self._writers, self._now()
        acknowledged = max(self._settled[place : place + self._writers])
        words = self._announced[place : place + self._writers]
        announced = max(word % (1 << _VERSION) if word >> _VERSION <= now else 0 for word in words)
        return max(Due(acknowledged, "acknowledged, or announced long ago"), Due(announced, "announced long ago"))

    def _cells(self, writer: int, versions: dict[str, int]) -> list[tuple[int, int]]:
        return [(self._keys.index(key) * self._writers + writer, version) for key, version in versions.items()]

    def _now(self) -> int:
        return monotonic_ns() // 1000 - self._began[0]

    # --- Sets

    def begin_set(self, slot: int, version: int) -> None:
        """A set is under way."""
        self._setting[slot] = version

    def end_set(self, slot: int) -> None:
        """It has returned."""
        self._setting[slot] = 0

    def inherit(self, slot: int) -> None:
        """Note the set that a dead predecessor in the slot had under way."""
        if self._setting[slot]:
            os.write(self._late, f"{own_key(slot)} {self._setting[slot]}\n".encode())
            self._setting[slot] = 0

    def may_come_late(self, key: str, version: int) -> bool:
        """Whether a version is of a set that a killed process had under way: it arrives whenever it does.

        To nobody did it ever return; so it may take effect even after later ones, as in every other store.
        """
        if not key.startswith("s"):
            return False
        late = (self._directory / "late").read_text().splitlines()
        return self._setting[int(key[1:])] == version or f"{key} {version}" in late

    # --- The past

    def count(self, row: int, **counts: int) -> None:
        """Add to the counters of one thread."""
        for name, by in counts.items():
            self._counters[row * len(COUNTERS) + COUNTERS.index(name)] += by

    def sums(self) -> dict[str, int]:
        """The counters of all."""
        return {name: sum(self._counters[place :: len(COUNTERS)]) for place, name in enumerate(COUNTERS)}

    def note(self, what: str, **details: Any) -> None:
        """Write down what happens."""
        self._write(self._history, what, details)

    def accuse(self, what: str, **details: Any) -> None:
        """Write down what must not be."""
        self._write(self._violations, what, details)

    def history(self) -> list[dict[str, Any]]:
        """What was written down, in order."""
        return _lines(self._directory / "history")

    def violations(self) -> list[dict[str, Any]]:
        """What must not be, in order."""
        return _lines(self._directory / "violations")

    def _write(self, file: int, what: str, details: dict[str, Any]) -> None:
        line = {"at": monotonic_ns(), "pid": os.getpid(), "what": what, **details}
        os.write(file, json.dumps(line).encode() + b"\n")  # one write to a file that is appended to is never torn


def _lines(path: Path) -> list[dict[str, Any]]:
    return sorted(map(json.loads, path.read_text().splitlines()), key=lambda line: line["at"])
