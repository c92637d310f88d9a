"""What the examples have in common: users in SQLite, and how often this process read one. It knows of no cache."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

FILE = os.environ.get("USERS_DATABASE") or os.path.join(tempfile.gettempdir(), f"colocache-users-{os.getuid()}.sqlite")

reads = 0


@contextmanager
def connection() -> Iterator[sqlite3.Connection]:
    """A connection to the database; what is written is committed at the end."""
    with closing(sqlite3.connect(FILE, timeout=30)) as database, database:
        yield database


def read(user_id: int) -> dict[str, Any] | None:
    """A user, and which process read it; None if there is none."""
    global reads
    reads += 1
    with connection() as database:
        row = database.execute("SELECT id, name FROM users WHERE id = ?", (user_id,)).fetchone()
    return {"id": row[0], "name": row[1], "read_by": os.getpid()} if row else None


def rename(user_id: int, name: str) -> bool:
    """Give a user another name, and commit; False if there is no such user."""
    with connection() as database:
        return database.execute("UPDATE users SET name = ? WHERE id = ?", (name, user_id)).rowcount == 1


def page(user: dict[str, Any]) -> dict[str, Any]:
    """What is answered: the user, who answers, and how often this process has read the database so far."""
    return {**user, "answered_by": os.getpid(), "database_reads": reads}


with connection() as first:
    first.execute("CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    first.execute("INSERT OR IGNORE INTO users VALUES (1, 'Ada'), (2, 'Grace'), (3, 'Edsger')")
