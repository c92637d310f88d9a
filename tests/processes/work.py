"""What the processes of `chaos.py` do: read and write without end, and judge every read.

The truth is a register of versions in SQLite. What is acknowledged stands on a **board** that all processes map: a
reader looks there first, and then reads; what it gets must be at least as new. So nobody compares clocks, and nothing
is lost when a process is killed: what it wrote on the board stays there.
"""

from __future__ import annotations

import json
import mmap
import os
import sqlite3
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from time import monotonic_ns
from typing import Any

import colocache

KEYS = tuple(f"k{number}" for number in range(12))
TAGS = {key: (f"t{number % 3}",) for number, key in enumerate(KEYS)}
READERS = 2  # threads per process, beside one that writes
COUNTERS = ("reads", "loads", "writes", "complete", "incomplete")
MARGIN = 100_000  # us beyond the lease, for a scheduler that is late between a look at the clock and the next step

_VERSION = 24  # bits; the rest of a word is an instant in us


class Register:
    """The source of truth: a version per key. Each thread has its own connection."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "register.sqlite"
        self._mine = threading.local()

    @classmethod
    def create(cls, directory: Path) -> None:
        """Make the register, all versions 0."""
        register = cls(directory)
        register._connection.execute("PRAGMA journal_mode=WAL")
        register._connection.execute("CREATE TABLE register (key TEXT PRIMARY KEY, version INTEGER)")
        register._connection.executemany("INSERT INTO register VALUES (?, 0)", [(key,) for key in KEYS])
        register.close()

    def read(self, key: str) -> int:
        """The version of a key."""
        found = self._connection.execute("SELECT version FROM register WHERE key = ?", (key,)).fetchone()
        return int(found[0])

    def write(self, keys: tuple[str, ...]) -> dict[str, int]:
        """Commit a new version of each key; return them."""
        with self._transaction() as connection:
            marks = ",".join("?" * len(keys))
            connection.execute(f"UPDATE register SET version = version + 1 WHERE key IN ({marks})", keys)
            found = connection.execute(f"SELECT key, version FROM register WHERE key IN ({marks})", keys)
            return dict(found.fetchall())

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        finally:
            connection.execute("COMMIT")

    @property
    def _connection(self) -> sqlite3.Connection:
        if not hasattr(self._mine, "connection"):
            # A process that is stopped in the middle of a transaction keeps the others waiting.
            self._mine.connection = sqlite3.connect(self._path, timeout=120, isolation_level=None)
            self._mine.connection.execute("PRAGMA synchronous=OFF")
        return self._mine.connection  # type: ignore[no-any-return]

    def close(self) -> None:
        """Close this thread's connection."""
        self._connection.close()
        del self._mine.connection


class Board:
    """What every process knows of every other: what was acknowledged, and counters. One writing thread per slot."""

    def __init__(self, directory: Path, slots: int) -> None:
        self._slots = slots
        with open(directory / "board", "r+b") as file:
            words = memoryview(mmap.mmap(file.fileno(), self.size(slots))).cast("Q")
        cells = len(KEYS) * slots
        self._acknowledged, self._announced = words[:cells], words[cells : 2 * cells]
        self.counters = words[2 * cells :]
        self._violations = os.open(directory / "violations", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    @staticmethod
    def size(slots: int) -> int:
        """Its length in bytes."""
        return 8 * slots * (2 * len(KEYS) + len(COUNTERS) * (READERS + 1))

    def acknowledge(self, slot: int, versions: dict[str, int]) -> None:
        """An invalidation has returned, and was complete."""
        for key, version in versions.items():
            cell = KEYS.index(key) * self._slots + slot
            self._acknowledged[cell] = max(self._acknowledged[cell], version)

    def announce(self, slot: int, versions: dict[str, int], due: int) -> None:
        """An invalidation has returned; all will have followed at ``due``, in us. Kept until then: one is enough."""
        for key, version in versions.items():
            cell = KEYS.index(key) * self._slots + slot
            if self._announced[cell] >> _VERSION <= monotonic_ns() // 1000:
                self._announced[cell] = (due << _VERSION) + version

    def floor(self, key: str) -> tuple[int, str]:
        """The least version that a read which begins now may give, and why."""
        place, now = KEYS.index(key) * self._slots, monotonic_ns() // 1000
        acknowledged = max(self._acknowledged[place : place + self._slots])
        mask = (1 << _VERSION) - 1
        announced = max(
            word & mask if word >> _VERSION <= now else 0 for word in self._announced[place : place + self._slots]
        )
        return (acknowledged, "acknowledged") if acknowledged >= announced else (announced, "announced long ago")

    def count(self, row: int, **counts: int) -> None:
        """Add to the counters of one thread."""
        for name, by in counts.items():
            self.counters[row * len(COUNTERS) + COUNTERS.index(name)] += by

    def sums(self) -> dict[str, int]:
        """The counters of all."""
        return {name: sum(self.counters[place :: len(COUNTERS)]) for place, name in enumerate(COUNTERS)}

    def accuse(self, **violation: Any) -> None:
        """Write down what must not be."""
        os.write(self._violations, json.dumps({**violation, "pid": os.getpid(), "at": monotonic_ns()}).encode() + b"\n")


class Work:
    """Threads that read and write through one cache until they are told to finish."""

    def __init__(self, cache: colocache.Cache, directory: Path, slot: int, slots: int, seed: int) -> None:
        self._cache = cache
        self._slot = slot
        self._board = Board(directory, slots)
        self._register = Register(directory)
        self._own = dict.fromkeys(KEYS, 0)  # what this process has announced, it never reads back old
        self._enough = threading.Event()
        bodies = [self._write, *[self._read] * READERS]
        self._threads = [
            threading.Thread(target=self._run, args=(body, slot * len(bodies) + number, Random(f"{seed} {number}")))
            for number, body in enumerate(bodies)
        ]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """End the threads."""
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _run(self, body: Any, row: int, dice: Random) -> None:
        try:
            while not self._enough.is_set():
                body(row, dice)
        except Exception:
            self._board.accuse(error=traceback.format_exc())
        finally:
            self._register.close()

    # --- Reading

    def _read(self, row: int, dice: Random) -> None:
        for _ in range(dice.randrange(1, 60)):
            if dice.random() < 0.05:
                self._look(row, dice.sample(KEYS, 4))
            else:
                self._load(row, dice.choice(KEYS))
        self._enough.wait(dice.uniform(0, 0.02))  # or nobody else would come to anything on two cores

    def _load(self, row: int, key: str) -> None:
        def load() -> int:
            self._board.count(row, loads=1)
            return self._register.read(key)

        due = self._due(key)
        self._judge(row, key, due, self._cache.get_or_load(key, load, tags=TAGS[key]))

    def _look(self, row: int, keys: list[str]) -> None:
        dues = {key: self._due(key) for key in keys}
        for key, version in self._cache.get_many(keys).items():
            self._judge(row, str(key), dues[str(key)], version)

    def _due(self, key: str) -> tuple[int, str, int]:
        own, (floor, why) = self._own[key], self._board.floor(key)
        return (own, "own", monotonic_ns()) if own > floor else (floor, why, monotonic_ns())

    def _judge(self, row: int, key: str, due: tuple[int, str, int], version: int) -> None:
        self._board.count(row, reads=1)
        floor, why, began = due
        if version < floor:
            stats = self._cache.stats()
            self._board.accuse(
                key=key, got=version, due=floor, why=why, began=began, current=stats.current, members=stats.members
            )

    # --- Writing

    def _write(self, row: int, dice: Random) -> None:
        what, wait = dice.random(), dice.choice((True, True, True, False, 0.02))
        if what < 0.75:
            self._invalidate(row, tuple(dice.sample(KEYS, dice.choice((1, 1, 1, 3)))), wait)
        elif what < 0.95:
            self._invalidate_tag(row, dice.choice(list(TAGS.values()))[0], wait)
        else:
            self._settle(row, self._register.write(KEYS), self._cache.clear(wait=wait))
        self._enough.wait(dice.expovariate(20))

    def _invalidate(self, row: int, keys: tuple[str, ...], wait: bool | float) -> None:
        self._settle(row, self._register.write(keys), self._cache.invalidate(*keys, wait=wait))

    def _invalidate_tag(self, row: int, tag: str, wait: bool | float) -> None:
        keys = tuple(key for key in KEYS if tag in TAGS[key])
        self._settle(row, self._register.write(keys), self._cache.invalidate_tag(tag, wait=wait))

    def _settle(self, row: int, versions: dict[str, int], receipt: colocache.Receipt) -> None:
        self._own.update(versions)
        lease = int(self._cache.config.lease * 1.05e6)
        self._board.announce(self._slot, versions, monotonic_ns() // 1000 + lease + MARGIN)
        if receipt.complete:
            self._board.acknowledge(self._slot, versions)
        self._board.count(row, writes=1, complete=receipt.complete, incomplete=not receipt.complete)
