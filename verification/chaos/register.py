"""The source of truth of `chaos.py`: a register of versions in SQLite, which only ever grow."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


class Register:
    """A version per key. Each thread has its own connection.

    A process that forks has no connection open at that moment. For SQLite keeps count of its locks in memory, too:

    1. P has a connection, and forks; 2. its child opens one, and takes no lock, for it inherited the count that says
    that its process has one; 3. P closes its own, finds nobody else's lock, and deletes the log; 4. what the child
    commits into the deleted log nobody else will ever read.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / "register.sqlite"
        self._mine = threading.local()

    @classmethod
    def create(cls, directory: Path, keys: Iterable[str]) -> None:
        """Make the register, all versions 0."""
        register = cls(directory)
        with register._connected() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE register (key TEXT PRIMARY KEY, version INTEGER)")
            connection.executemany("INSERT INTO register VALUES (?, 0)", [(key,) for key in keys])
        register.close()

    def read(self, key: str) -> int:
        """The version of a key."""
        with self._connected() as connection:
            found = connection.execute("SELECT version FROM register WHERE key = ?", (key,)).fetchone()
        return int(found[0])

    def write(self, keys: Iterable[str]) -> dict[str, int]:
        """Commit a new version of each key; return them."""
        keys = tuple(keys)
        marks = ",".join("?" * len(keys))
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute(f"UPDATE register SET version = version + 1 WHERE key IN ({marks})", keys)
            found = connection.execute(f"SELECT key, version FROM register WHERE key IN ({marks})", keys).fetchall()
            connection.execute("COMMIT")
        return dict(found)

    def close(self) -> None:
        """Close this thread's connection."""
        self._line.close()

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        line = self._line
        with line.busy:
            yield line.connection(self._path)

    @property
    def _line(self) -> _Line:
        if not hasattr(self._mine, "line"):
            self._mine.line = _Line()
        return self._mine.line  # type: ignore[no-any-return]


class _Line:
    """One thread's connection, open or not."""

    def __init__(self) -> None:
        self.busy = threading.Lock()  # held in every statement, and by each fork
        self._connection: sqlite3.Connection | None = None
        with _all_lines:
            _lines.add(self)

    def connection(self, path: Path) -> sqlite3.Connection:
        if self._connection is None:
            # A process that is stopped in the middle of a transaction keeps the others waiting.
            self._connection = sqlite3.connect(path, timeout=120, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA synchronous=OFF")
        return self._connection

    def close(self) -> None:
        with self.busy:
            self.disconnect()

    def disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


_lines: weakref.WeakSet[_Line] = weakref.WeakSet()
_all_lines = threading.Lock()
_held: list[_Line] = []  # by a fork that is under way


def _hold() -> None:
    _all_lines.acquire()
    for line in list(_lines):
        line.busy.acquire()
        _held.append(line)
        line.disconnect()


def _let_go() -> None:
    while _held:
        _held.pop().busy.release()
    _all_lines.release()


os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_let_go)
