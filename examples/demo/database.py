"""The SQLite file of the demo: a connection for each process, a snapshot for each page, and a count of reads."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Row = dict[str, Any]


class Database:
    """A connection that is opened at its first use, so each worker process has its own. It is for one thread.

    ``reads`` counts the SELECTs and ``pages`` the snapshots of this process.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.reads = 0
        self.pages = 0
        self._connection: sqlite3.Connection | None = None

    @contextmanager
    def snapshot(self) -> Iterator[Database]:
        """Select everything inside from one state of the database, that of the first SELECT."""
        self.pages += 1
        with self._transaction("BEGIN"):
            yield self

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Let one writer at a time work. Commit at the end, or roll back after an exception."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    def all(self, query: str, *arguments: object) -> list[Row]:
        """Return all rows of a SELECT."""
        self.reads += 1
        return self._open().execute(query, arguments).fetchall()

    def one(self, query: str, *arguments: object) -> Row | None:
        """Return the first row of a SELECT, or None."""
        rows = self.all(query, *arguments)
        return rows[0] if rows else None

    def value(self, query: str, *arguments: object) -> Any:
        """Return the only column of the only row of a SELECT."""
        [row] = self.all(query, *arguments)
        [value] = row.values()
        return value

    def loaded_by(self) -> str:
        """Return a mark of this read: the process, and the number of its page. No two reads have the same mark."""
        return f"{os.getpid()}/{self.pages}"

    def close(self) -> None:
        """Close the connection, if it is open."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        connection = self._open()
        connection.execute(begin)
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = sqlite3.connect(self.path, isolation_level=None)
            self._connection.row_factory = _as_dict
            self._connection.execute("PRAGMA busy_timeout = 10000")
            self._connection.execute("PRAGMA synchronous = NORMAL")
        return self._connection


def _as_dict(cursor: sqlite3.Cursor, row: tuple[Any, ...]) -> Row:
    return {column[0]: value for column, value in zip(cursor.description, row, strict=True)}
