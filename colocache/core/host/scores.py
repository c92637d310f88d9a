"""The scoreboard: what each process of a host counts, and what it has invalidated lately, for everybody to read.

Each seat has a block. The process that sits there writes it, and nobody else does. So whoever can map the file reads
the figures of all processes without asking them, also of those that were killed.

**Counts only grow** while the region lives. Whoever takes a seat goes on where the last one has stopped, and notes what
it has found there, the **base**. So the sum over all seats never shrinks, whoever is killed or recycled, and rates that
are made of it are right. What one process has counted is the difference to its base.

**Rows.** Each namespace has a row. A process that uses more namespaces than there are rows, or is room for, counts the
others together, in the first row, `OTHERS`. So a program that makes namespaces without end takes no memory without end.

**Torn by nothing.** Each word is loaded and stored whole. A reader may find one word newer than another one, but never
half of a number. While the base is being noted the block has no owner (the nonce is 0), and so no figures of one
process, but its counts are right. An event, and the name of a tag, have a checksum: whoever writes them may be killed,
or stopped until another thread has come round to the same place.

| words | what |
|---|---|
| 0 … | the head: nonce, pid, when the process has sat down, when it has written last, rows in use |
| 32 … | the gauges |
| 64 … | events, `EVENTS` times 16: number, checksum, time, pid and kind and length, hash, things; 80 bytes of text |
| 2112 … | tags, `TAGS` times 8: hash, checksum; length, and 40 bytes of text |
| 6208 … | the keys that are hit most at present, `HOTTEST` times 2: hash, hits in 1000 s |
| 6272 … | rows: 26 words of name, `COLUMNS` counts, and the bases of these |

Times are in ns since the epoch, because readers compare them with their own.
"""

from __future__ import annotations

import itertools
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from .memory import Fences, Words

WORD: Final = 8  # bytes
WORDS: Final = 1 << 15  # of a block
SIZE: Final = WORD * WORDS
EVENTS: Final = 128  # the last ones that a block keeps
TAGS: Final = 512  # of which a block knows the names
COLUMNS: Final = 40  # counts of a row
GAUGES: Final = 16
HOTTEST: Final = 32  # keys

OTHERS: Final = "/"  # the name of the row of all namespaces without a row; no namespace has this name

_NONCE, _PID, _BEGAN, _WRITTEN, _ROWS = 0, 1, 2, 3, 4
HEAD: Final = 5 * WORD  # bytes; they are not 0 any more once anybody has sat down
_GAUGES_AT = 32
_EVENTS_AT, _EVENT = 64, 16
_TEXT = 80
_TAGS_AT, _TAG = _EVENTS_AT + EVENTS * _EVENT, 8
_TAG_TEXT = 40
#: Of an event: the time; the pid, the kind and the length; the hash; how many things; the text.
_WHAT = struct.Struct(f"@QQQQ{_TEXT}s")
#: Of a tag: the length, and the name.
_NAMED = struct.Struct(f"@Q{_TAG_TEXT}s")
_HOT_AT = _TAGS_AT + TAGS * _TAG
_ROWS_AT = _HOT_AT + 2 * HOTTEST
_NAME = 26  # words: the length, and 200 bytes
_ROW = _NAME + 2 * COLUMNS
ROWS: Final = (WORDS - _ROWS_AT) // _ROW
NAME_BYTES: Final = WORD * (_NAME - 1)
ROWS_AT_ONCE: Final = 32  # rows that get their memory together

#: Allocate the bytes of the block from here to there; False if there is no room.
Grow = Callable[[int, int], bool]


class Event(NamedTuple):
    """Something that a process has invalidated."""

    number: int  # of its block; each has a larger one than all before it
    time: int  # ns since the epoch
    pid: int
    kind: int
    hash: int  # of the thing, or of the first of several
    things: int  # how many were invalidated by the call
    text: str  # what a person calls the thing


class Row(NamedTuple):
    """What the processes of a seat have counted in one namespace."""

    name: str
    counts: tuple[int, ...]  # of all processes that had the seat
    base: tuple[int, ...]  # what the present one has found


class Block(NamedTuple):
    """What a seat's block says."""

    nonce: int  # of the process that writes it, or was the last to do so; 0 while one sits down
    pid: int
    began: int  # ns since the epoch
    written: int  # the same
    gauges: tuple[int, ...]
    rows: tuple[Row, ...]
    hottest: tuple[tuple[int, int], ...] = ()  # hashes of keys, and how often they are hit in 1000 s


#: What a block says that is not there.
NOTHING: Final = Block(0, 0, 0, 0, (0,) * GAUGES, ())


def first_part() -> tuple[int, int]:
    """Return the bytes of a block that must have their memory before anybody uses it."""
    return 0, WORD * (_ROWS_AT + ROWS_AT_ONCE * _ROW)


def end_of_rows(rows: int) -> int:
    """Return the byte of a block where so many rows end, and the block itself at the latest."""
    return min(SIZE, WORD * (_ROWS_AT + rows * _ROW))


class Writer:
    """The block of this process. Any thread may note events and tags. The rest is for one thread at a time."""

    def __init__(self, words: Words, fences: Fences, grow: Grow) -> None:
        """``words`` are those of the block. The first part has its memory."""
        self.words = words
        self._fences = fences
        self._grow = grow
        self._rows: dict[str, int] = {}
        self._end = ROWS_AT_ONCE  # of the rows that have their memory
        self._pid = 0
        self._numbers: Iterator[int] = itertools.count(1)
        self._adds_row = False

    def sit_down(self, nonce: int, pid: int, now: int) -> None:
        """Begin to write. If the process is killed in the middle, the next one on this seat begins anew."""
        words, order = self.words, self._fences.order
        words[_NONCE] = 0
        order()
        rows = min(words[_ROWS], ROWS)
        self._end = max(ROWS_AT_ONCE, -(-rows // ROWS_AT_ONCE) * ROWS_AT_ONCE)
        for row in range(rows):
            at = _ROWS_AT + row * _ROW
            self._rows.setdefault(_name(words, at), row)
            for place in range(at + _NAME, at + _NAME + COLUMNS):
                words[place + COLUMNS] = words[place]
        self.show([0] * GAUGES, (), now)
        words[_PID], words[_BEGAN], words[_WRITTEN] = pid, now, now
        self._pid = pid
        if not rows:
            self._new_row(OTHERS, 0)
        self._rows.setdefault(OTHERS, 0)
        last = max([words[_EVENTS_AT + slot * _EVENT] for slot in range(EVENTS)])
        self._numbers = itertools.count(last + 1)
        order()
        words[_NONCE] = nonce

    def row(self, name: str) -> int:
        """Return the row of a namespace, or that of `OTHERS` if there is no more room.

        It is that of `OTHERS`, too, for a signal handler that comes while its own thread adds a row, and for another
        thread that will not wait for this one: two would give one row two names.
        """
        row = self._rows.get(name)
        if row is not None:
            return row
        if self._adds_row:  # no call until it is set: Python switches threads after calls only
            return self._rows[OTHERS]
        self._adds_row = True
        try:
            readable = name.encode("utf-8", "backslashreplace").decode()
            row = self._rows.get(readable)
            if row is None:
                row = self._new_row(readable, self.words[_ROWS])
            return row
        finally:
            self._adds_row = False

    def _new_row(self, name: str, row: int) -> int:
        encoded = name.encode()
        if row >= ROWS or len(encoded) > NAME_BYTES:
            return self._rows[OTHERS]
        if row >= self._end:
            if not self._grow(end_of_rows(row), end_of_rows(row + ROWS_AT_ONCE)):
                return self._rows[OTHERS]
            self._end = row + ROWS_AT_ONCE
        at, words = _ROWS_AT + row * _ROW, self.words
        _store(words, at + 1, encoded.ljust(NAME_BYTES, b"\0"))
        words[at] = len(encoded)
        self._fences.order()
        words[_ROWS] = row + 1
        self._rows[name] = row
        return row

    def add(self, row: int, counts: Sequence[int], told: list[int]) -> bool:
        """Add to a row what was counted beyond what was ``told``, and note that there. Return whether it was anything.

        A word, and the note, change in one step, because Python switches threads, and runs signal handlers, after calls
        only. So nothing is added twice, or never, whoever else tells the same at the same time, and wherever an
        exception comes.
        """
        words, at, is_anything = self.words, _ROWS_AT + row * _ROW + _NAME, False
        for place, count in enumerate(counts):
            if count > told[place]:
                words[at + place] += count - told[place]
                told[place] = count
                is_anything = True
        return is_anything

    def show(self, gauges: Iterable[int], hottest: Iterable[tuple[int, int]], now: int) -> None:
        """Show the present state, and when it was looked at.

        ``hottest`` are the hashes of the keys that are hit most, and how often, in 1000 s.
        """
        words, order = self.words, self._fences.order
        shown = [*hottest][:HOTTEST]
        for at, (hash, hits) in zip(range(_HOT_AT, _ROWS_AT, 2), [*shown, *[(0, 0)] * HOTTEST], strict=False):
            if words[at] != hash:
                words[at + 1] = 0  # until the hash is there, too
                order()
                words[at] = hash
                order()
            words[at + 1] = hits
        for place, value in enumerate(gauges, _GAUGES_AT):
            words[place] = value
        words[_WRITTEN] = now

    def note_event(self, kind: int, hash: int, things: int, text: str, now: int) -> None:
        """Note what was invalidated. The oldest event goes."""
        number = next(self._numbers)
        encoded = _cut(text, _TEXT)
        what = _WHAT.pack(now, self._pid << 16 | kind << 8 | len(encoded), hash, things, encoded)
        self._note(_EVENTS_AT + number % EVENTS * _EVENT, number, what)

    def note_tag(self, hash: int, tag: str) -> None:
        """Note the name of a tag, in place of another one. Labels have only hashes."""
        at = _TAGS_AT + hash % TAGS * _TAG
        if self.words[at] != hash:
            encoded = _cut(tag, _TAG_TEXT)
            self._note(at, hash, _NAMED.pack(len(encoded), encoded))

    def _note(self, at: int, name: int, what: bytes) -> None:
        """Store something, its checksum, and last what it is known by, which is 0 meanwhile."""
        words, order = self.words, self._fences.order
        words[at] = 0
        order()
        words[at + 1] = _check(name, what)
        _store(words, at + 2, what)
        order()
        words[at] = name


# --- Reading: any process, any number of times


def read_block(words: Words, fences: Fences) -> Block:
    """Return what a block says.

    The base of a row is that of the block's owner, unless the nonce is 0: then another process sits down.
    """
    for _ in range(3):
        nonce = words[_NONCE]
        fences.order()
        number = min(words[_ROWS], ROWS)
        fences.order()
        rows = tuple([_row(words, _ROWS_AT + row * _ROW) for row in range(number)])
        gauges = tuple([words[place] for place in range(_GAUGES_AT, _GAUGES_AT + GAUGES)])
        hottest = tuple([hot for place in range(_HOT_AT, _ROWS_AT, 2) if (hot := _hot(words, place, fences))])
        pid, began, written = words[_PID], words[_BEGAN], words[_WRITTEN]
        fences.order()
        if nonce and words[_NONCE] == nonce:
            return Block(nonce, pid, began, written, gauges, rows, hottest)
    return NOTHING._replace(rows=rows)


def read_events(words: Words, fences: Fences, after: int = 0) -> list[Event]:
    """Return the events of a block with a number above ``after``, the oldest first."""
    found: list[Event] = []
    for at in range(_EVENTS_AT, _EVENTS_AT + EVENTS * _EVENT, _EVENT):
        number = words[at]
        what = _noted(words, at, number, _WHAT.size, fences) if number > after else None
        if what is not None:
            time, shape, hash, things, text = _WHAT.unpack(what)
            kind, length = shape >> 8 & 0xFF, shape & 0xFF
            found.append(Event(number, time, shape >> 16, kind, hash, things, text[:length].decode("utf-8", "replace")))
    return sorted(found)


def read_tag(words: Words, hash: int, fences: Fences) -> str | None:
    """Return the name of a tag, if the block has it. A long one is cut off."""
    at = _TAGS_AT + hash % TAGS * _TAG
    named = _noted(words, at, hash, _NAMED.size, fences) if words[at] == hash else None
    if named is None:
        return None
    length, name = _NAMED.unpack(named)
    return str(name[:length], "utf-8", "replace")


def _noted(words: Words, at: int, name: int, size: int, fences: Fences) -> bytes | None:
    """Return what `Writer` has noted, or None if that is not whole."""
    fences.order()
    check, what = words[at + 1], _bytes(words, at + 2, size)
    return what if check == _check(name, what) else None


def _hot(words: Words, at: int, fences: Fences) -> tuple[int, int] | None:
    """Return a key and its hits, or None if there is none there, or it has just become another one."""
    hits = words[at + 1]
    fences.order()
    hash = words[at]
    fences.order()
    return (hash, hits) if hits and words[at + 1] == hits else None


def _row(words: Words, at: int) -> Row:
    start = at + _NAME
    counts = tuple([words[place] for place in range(start, start + COLUMNS)])
    return Row(_name(words, at), counts, tuple([words[place + COLUMNS] for place in range(start, start + COLUMNS)]))


def _name(words: Words, at: int) -> str:
    length = min(words[at], NAME_BYTES)
    return _bytes(words, at + 1, length).decode("utf-8", "replace")


def _store(words: Words, at: int, content: bytes) -> None:
    for place, (word,) in enumerate(struct.iter_unpack("@Q", content), at):
        words[place] = word


def _bytes(words: Words, at: int, size: int) -> bytes:
    return b"".join([words[place].to_bytes(WORD, sys.byteorder) for place in range(at, at - (-size // WORD))])[:size]


def _cut(text: str, room: int) -> bytes:
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= room:
        return encoded
    end = "…".encode()
    return encoded[: room - len(end)].decode("utf-8", "ignore").encode() + end


def _check(name: int, what: bytes) -> int:
    return xxh3_64_intdigest(what, name)
