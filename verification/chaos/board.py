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
from typing import Any

SPACES = {"": range(18), "n": range(18, 27), "n/m": range(27, 36), "f": range(36, 45)}
FENCED = "f"  # the namespace of those who get, compute, and set
SPACE = {f"k{number}": space for space, numbers in SPACES.items() for number in numbers}
KEYS = tuple(SPACE)  # written by everybody, and then invalidated
PAGES = {"p0": ("k0", "k9", "k18"), "p1": ("k1", "k10", "k19")}  # by loaders that read these through the cache
TAGS = {key: (f"t{number % 9}",) for number, key in enumerate(KEYS)} | {page: (f"t{page[1]}",) for page in PAGES}
ROWS = 7  # threads per process that count something: six that work, and all others, the main thread among them
TALLIES = (
    "reads", "async_reads", "loads", "impatient", "fenced", "by_key", "by_tag", "by_namespace", "by_set", "busy",
    "complete", "prompt", "excused", "counted", "not_counted", "counts_read", "counts_exact", "interrupted", "handled",
)  # fmt: skip


def own_key(slot: int) -> str:
    """The key that one slot alone sets: of two that are set at once, either may be the last."""
    return f"s{slot}"


def keys_of(slots: int) -> tuple[str, ...]:
    """All keys that have a version."""
    return KEYS + tuple(own_key(slot) for slot in range(slots))


class Board:
    """What is acknowledged, by key and by the thread that was told; and figures. One process at a time has a slot."""

    def __init__(self, directory: Path, slots: int) -> None:
        self._rows = slots * ROWS
        with open(directory / "board", "r+b") as file:
            words = memoryview(mmap.mmap(file.fileno(), self._size(slots))).cast("Q")
        self._deletions, words = words[:1], words[1:]
        self._keys = {key: number * self._rows for number, key in enumerate(keys_of(slots))}
        cells = len(self._keys) * self._rows
        self._acknowledged, self._tallies = words[:cells], words[cells:]
        self._directory = directory
        self._history, self._violations = (
            os.open(directory / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT) for name in ("history", "violations")
        )

    @classmethod
    def create(cls, directory: Path, slots: int) -> Board:
        """Make an empty board."""
        (directory / "board").write_bytes(bytes(cls._size(slots)))
        return cls(directory, slots)

    @staticmethod
    def _size(slots: int) -> int:
        return 8 * (1 + slots * ROWS * (len(keys_of(slots)) + len(TALLIES)))

    # --- Versions

    def acknowledge(self, row: int, versions: dict[str, int]) -> None:
        """Nobody may read anything older from now on."""
        for key, version in versions.items():
            cell = self._keys[key] + row
            self._acknowledged[cell] = max(self._acknowledged[cell], version)

    def due(self, key: str) -> int:
        """The least version that a read may give which begins now."""
        place = self._keys[key]
        return max(self._acknowledged[place : place + self._rows])

    # --- Deletions

    @property
    def deletions(self) -> int:
        """A number that is odd from a deletion of the group's files until all processes share new ones."""
        return self._deletions[0]

    def change_deletions(self) -> None:
        """Files are about to be deleted, or all processes share new ones."""
        self._deletions[0] += 1

    # --- The past

    def count(self, row: int, **counts: int) -> None:
        """Add to the figures of one thread."""
        for name, by in counts.items():
            self._tallies[row * len(TALLIES) + TALLIES.index(name)] += by

    def sums(self) -> dict[str, int]:
        """The figures of all."""
        return {name: sum(self._tallies[place :: len(TALLIES)]) for place, name in enumerate(TALLIES)}

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
