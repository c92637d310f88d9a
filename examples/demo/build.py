"""Build the demo's database from Python's own Unicode tables: ``python build.py demo.sqlite``.

It has a row for each assigned character, for each word of each name, and for each pair of a character and a character
that it decomposes into. Nothing is downloaded. It takes a few seconds.
"""

from __future__ import annotations

import os
import sqlite3
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

SCHEMA = """
CREATE TABLE run (id INTEGER PRIMARY KEY, first INTEGER NOT NULL, last INTEGER NOT NULL, label TEXT NOT NULL);
CREATE TABLE character (
    cp INTEGER PRIMARY KEY, char TEXT NOT NULL, name TEXT NOT NULL, category TEXT NOT NULL,
    bidirectional TEXT NOT NULL, combining INTEGER NOT NULL, width TEXT NOT NULL, mirrored INTEGER NOT NULL,
    decimal INTEGER, digit INTEGER, numeric REAL, decomposition TEXT NOT NULL, nfkd TEXT NOT NULL, nfc TEXT NOT NULL,
    run INTEGER NOT NULL REFERENCES run);
CREATE TABLE word (id INTEGER PRIMARY KEY, word TEXT NOT NULL UNIQUE, uses INTEGER NOT NULL);
CREATE TABLE name_word (word INTEGER NOT NULL, cp INTEGER NOT NULL, PRIMARY KEY (word, cp)) WITHOUT ROWID;
CREATE TABLE part (part INTEGER NOT NULL, whole INTEGER NOT NULL, PRIMARY KEY (part, whole)) WITHOUT ROWID;
CREATE TABLE annotation (
    cp INTEGER NOT NULL, version INTEGER NOT NULL, text TEXT NOT NULL, request TEXT NOT NULL UNIQUE,
    PRIMARY KEY (cp, version)) WITHOUT ROWID;
"""

# Made after the rows, because filling a table with indexes takes three times as long.
INDEXES = """
CREATE INDEX character_by_category ON character (category, run, bidirectional);
CREATE INDEX character_by_run ON character (run, category);
CREATE INDEX word_of_name ON name_word (cp, word);
CREATE INDEX part_of_whole ON part (whole, part);
ANALYZE;
"""

# Surrogates are not characters, private characters have no name, and the rest of C is not assigned.
NAMELESS = {"Cn", "Co", "Cs"}


def assigned(code_points: Iterable[int]) -> Iterator[str]:
    """Yield the assigned characters among the code points."""
    return (char for char in map(chr, code_points) if unicodedata.category(char) not in NAMELESS)


def name_of(char: str) -> str:
    """Return the name of a character, or its number if Python knows no name, as for control characters."""
    kind = "CONTROL" if unicodedata.category(char) == "Cc" else "UNNAMED"
    return unicodedata.name(char, f"{kind}-{ord(char):04X}")


def words_of(char: str) -> set[str]:
    """Return the words of a character's name, without the number at the end of an ideograph's name."""
    name = name_of(char).removesuffix(f"-{ord(char):04X}")
    return {word for word in name.replace("-", " ").split() if len(word) > 1 and word.isalpha()}


def parts_of(char: str) -> set[int]:
    """Return the code points that the character decomposes into, in one step or in all steps."""
    steps = {int(part, 16) for part in unicodedata.decomposition(char).split() if not part.startswith("<")}
    return (steps | {ord(part) for part in unicodedata.normalize("NFKD", char)}) - {ord(char)}


def runs_of(chars: list[str]) -> list[list[str]]:
    """Return runs of characters: neighbours without a gap whose names begin with the same word."""
    runs: list[list[str]] = []
    for char in chars:
        before = runs[-1][-1] if runs else ""
        if before and ord(char) == ord(before) + 1 and label_of(char) == label_of(before):
            runs[-1].append(char)
        else:
            runs.append([char])
    return runs


def label_of(char: str) -> str:
    """Return the first word of a character's name."""
    return name_of(char).split()[0].split("-")[0]


def row_of(char: str, run: int) -> tuple[object, ...]:
    """Return the row of a character in the table ``character``."""
    return (
        ord(char), char, name_of(char), unicodedata.category(char), unicodedata.bidirectional(char),
        unicodedata.combining(char), unicodedata.east_asian_width(char), unicodedata.mirrored(char),
        unicodedata.decimal(char, None), unicodedata.digit(char, None), unicodedata.numeric(char, None),
        unicodedata.decomposition(char), unicodedata.normalize("NFKD", char), unicodedata.normalize("NFC", char), run,
    )  # fmt: skip


def fill(db: sqlite3.Connection, chars: list[str]) -> None:
    """Write all tables for these characters."""
    for number, run in enumerate(runs_of(chars), start=1):
        db.execute("INSERT INTO run VALUES (?, ?, ?, ?)", (number, ord(run[0]), ord(run[-1]), label_of(run[0])))
        db.executemany(f"INSERT INTO character VALUES ({', '.join('?' * 15)})", (row_of(char, number) for char in run))
    uses = Counter(word for char in chars for word in words_of(char))
    numbers = {word: number for number, word in enumerate(sorted(uses), start=1)}
    db.executemany("INSERT INTO word VALUES (?, ?, ?)", ((numbers[word], word, uses[word]) for word in numbers))
    pairs = sorted((numbers[word], ord(char)) for char in chars for word in words_of(char))
    db.executemany("INSERT INTO name_word VALUES (?, ?)", pairs)
    parts = sorted((part, ord(char)) for char in chars for part in parts_of(char))
    db.executemany("INSERT INTO part VALUES (?, ?)", parts)


def build(path: Path, code_points: Iterable[int] = range(sys.maxunicode + 1)) -> None:
    """Make the database at this path. It is written beside it and then moved, so it is never there in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")
    db = sqlite3.connect(unfinished)
    try:
        db.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;" + SCHEMA)
        with db:
            fill(db, list(assigned(code_points)))
        db.executescript(INDEXES + "PRAGMA journal_mode = WAL;")
        db.close()
        unfinished.replace(path)
    finally:
        db.close()
        unfinished.unlink(missing_ok=True)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
