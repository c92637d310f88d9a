"""What the examples share: users in SQLite, and how often this process has read one. It does not use the cache."""

from __future__ import annotations

import json
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import parse_qs

FILE = os.environ.get("USERS_DATABASE") or os.path.join(tempfile.gettempdir(), f"colocache-users-{os.getuid()}.sqlite")

reads = 0


@contextmanager
def connection() -> Iterator[sqlite3.Connection]:
    """Open a connection to the database, and commit at the end."""
    with closing(sqlite3.connect(FILE, timeout=30)) as database, database:
        yield database


def read(user_id: int) -> dict[str, Any] | None:
    """Return a user, and the process that has read it. Return None for an unknown user."""
    global reads
    reads += 1
    with connection() as database:
        row = database.execute("SELECT id, name FROM users WHERE id = ?", (user_id,)).fetchone()
    return {"id": row[0], "name": row[1], "read_by": os.getpid()} if row else None


def rename(user_id: int, name: str) -> None:
    """Give a user another name, and commit."""
    with connection() as database:
        database.execute("UPDATE users SET name = ? WHERE id = ?", (name, user_id))


def page(user: dict[str, Any]) -> dict[str, Any]:
    """Return the user, the process that answers, and how often it has read the database."""
    return {**user, "answered_by": os.getpid(), "database_reads": reads}


# --- For the examples without a framework

NO_NAME = 400, b'{"error": "give a name, for example -d name=Ada"}'


def answer(user: dict[str, Any] | None) -> tuple[int, bytes]:
    """Return the status and the body of the answer with a user."""
    return (200, json.dumps(page(user)).encode()) if user else (404, b'{"error": "there is no such user"}')


def id_in(path: str) -> int:
    """Return the number in a path such as ``/users/1``, otherwise 0."""
    _, _, number = path.rpartition("/users/")
    return int(number) if number.isdecimal() else 0


def name_in(form: bytes) -> str:
    """Return the field ``name`` of a form, otherwise an empty text."""
    return parse_qs(form.decode()).get("name", [""])[0]


with connection() as first:
    first.execute("CREATE TABLE IF NOT EXISTS users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    first.execute("INSERT OR IGNORE INTO users VALUES (1, 'Ada'), (2, 'Grace'), (3, 'Edsger')")
