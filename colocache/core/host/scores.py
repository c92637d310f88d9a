"""The scoreboard: what each process of a host counts, and what it has invalidated lately, for everybody to read.

Each seat has a block. The process that sits there writes it, and nobody else does. So whoever can map the file reads
the figures of all processes without asking them, also of those that were killed.

**Counts only grow** while the region lives. Whoever takes a seat goes on where the last one has stopped, and notes what
it has found there, the **base**. So the sum over all seats never shrinks, whoever is killed or recycled, and rates that
are made of it are right. What one process has counted is the difference to its base.

**Rows.** Each namespace has a row. A process that uses more namespaces than there are rows counts the others together,
in the row `OTHERS`. So a program that makes namespaces without end takes no memory without end.

**Torn by nothing.** Each word is loaded and stored whole. A reader may find one word newer than another one, but never
half of a number. While the base is being noted the block has no owner (the nonce is 0), and so no figures of one
process, but its counts are right. An event, and the name of a tag, carry what tells whether they are whole.

| words | what |
|---|---|
| 0 … | the head: nonce, pid, when the process has sat down, when it has written last, rows in use |
| 32 … | the gauges |
| 64 … | events, `EVENTS` times 16: number, time, pid, kind and length, hash, number of things; 80 bytes of text |
| 2112 … | tags, `TAGS` times 8: hash, check; length and 40 bytes of text |
| 6208 … | the keys that are hit most at present, `HOTTEST` times 2: hash, hits in 1000 s |
| 6272 … | rows: 26 words of name, `COLUMNS` counts, and the bases of these |

Times are in ns since the epoch, because readers compare them with their own.
"""

from __future__ import annotations

import itertools
import struct
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
_GAUGES_AT = 32
_EVENTS_AT, _EVENT = 64, 16
_TEXT_AT, _TEXT = 6, 80
_TAGS_AT, _TAG = _EVENTS_AT + EVENTS * _EVENT, 8
_TAG_TEXT = 40
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
        last = max([words[_EVENTS_AT + slot * _EVENT] for slot in range(EVENTS)])
        self._numbers = itertools.count(last + 1)
        order()
        words[_NONCE] = nonce

    def row(self, name: str) -> int:
        """Return the row of a namespace, or that of `OTHERS` if there is no more room."""
        row = self._rows.get(name)
        if row is None:
            row = self._rows[name] = self._new_row(name)
        return row

    def _new_row(self, name: str) -> int:
        row, encoded = self.words[_ROWS], name.encode("utf-8", "backslashreplace")
        readable = encoded.decode()
        if readable in self._rows:
            return self._rows[readable]
        is_full = row >= ROWS - (OTHERS not in self._rows)  # the last one is for all others
        if name != OTHERS and (is_full or len(encoded) > NAME_BYTES):
            return self.row(OTHERS)
        if row >= self._end:
            if not self._grow(end_of_rows(row), end_of_rows(row + ROWS_AT_ONCE)):
                return self._rows.get(OTHERS, 0)
            self._end = row + ROWS_AT_ONCE
        at, words = _ROWS_AT + row * _ROW, self.words
        padded = encoded.ljust(NAME_BYTES, b"\0")
        for place, (word,) in enumerate(struct.iter_unpack("@Q", padded), at + 1):
            words[place] = word
        words[at] = len(encoded)
        self._fences.order()
        words[_ROWS] = row + 1
        self._rows[readable] = row
        return row

    def add(self, row: int, counts: Sequence[int]) -> None:
        """Add to the counts of a row."""
        words, at = self.words, _ROWS_AT + row * _ROW + _NAME
        for place, count in enumerate(counts, at):
            if count:
                words[place] += count

    def show(self, gauges: Iterable[int], hottest: Iterable[tuple[int, int]], now: int) -> None:
        """Show the present state, and when it was looked at.

        ``hottest`` are the hashes of the keys that are hit most, and how often, in 1000 s.
        """
        words = self.words
        shown = [*hottest][:HOTTEST]
        for place, (hash, hits) in enumerate([*shown, *[(0, 0)] * (HOTTEST - len(shown))]):
            words[_HOT_AT + 2 * place + 1] = 0  # until the hash is there, too
            words[_HOT_AT + 2 * place] = hash
            words[_HOT_AT + 2 * place + 1] = hits
        for place, value in enumerate(gauges, _GAUGES_AT):
            words[place] = value
        words[_WRITTEN] = now

    def note_event(self, kind: int, hash: int, things: int, text: str, now: int) -> None:
        """Note what was invalidated. The oldest event goes."""
        number = next(self._numbers)
        at, words, order = _EVENTS_AT + number % EVENTS * _EVENT, self.words, self._fences.order
        encoded = _cut(text, _TEXT)
        words[at] = 0
        order()
        words[at + 1], words[at + 2], words[at + 3] = now, self._pid, kind | len(encoded) << 8
        words[at + 4], words[at + 5] = hash, things
        for place, (word,) in enumerate(struct.iter_unpack("@Q", encoded.ljust(_TEXT, b"\0")), at + _TEXT_AT):
            words[place] = word
        order()
        words[at] = number

    def note_tag(self, hash: int, tag: str) -> None:
        """Note the name of a tag, in place of another one. Labels have only hashes."""
        at, words = _TAGS_AT + hash % TAGS * _TAG, self.words
        if words[at] == hash:
            return
        encoded = _cut(tag, _TAG_TEXT)
        text = bytes((len(encoded),)).ljust(WORD, b"\0") + encoded.ljust(_TAG_TEXT, b"\0")
        words[at], words[at + 1] = hash, _check(hash, text)
        for place, (word,) in enumerate(struct.iter_unpack("@Q", text), at + 2):
            words[place] = word


# --- Reading: any process, any number of times


def read_block(words: Words, fences: Fences) -> Block:
    """Return what a block says.

    The base of a row is that of the block's owner, unless the nonce is 0: then another process sits down.
    """
    for _ in range(3):
        nonce = words[_NONCE]
        fences.order()
        rows = tuple([_row(words, _ROWS_AT + row * _ROW) for row in range(min(words[_ROWS], ROWS))])
        gauges = tuple([words[place] for place in range(_GAUGES_AT, _GAUGES_AT + GAUGES)])
        hottest = [(words[place], words[place + 1]) for place in range(_HOT_AT, _ROWS_AT, 2)]
        pid, began, written = words[_PID], words[_BEGAN], words[_WRITTEN]
        fences.order()
        if nonce and words[_NONCE] == nonce:
            return Block(nonce, pid, began, written, gauges, rows, tuple([each for each in hottest if each[1]]))
    return Block(0, 0, 0, 0, (0,) * GAUGES, rows)


def read_events(words: Words, fences: Fences, after: int = 0) -> list[Event]:
    """Return the events of a block with a number above ``after``, the oldest first."""
    found: list[Event] = []
    for slot in range(EVENTS):
        at = _EVENTS_AT + slot * _EVENT
        number = words[at]
        if number <= after:
            continue
        fences.order()
        time, pid, shape, hash, things = (words[at + place] for place in range(1, 6))
        text = b"".join([words[at + place].to_bytes(WORD, _ORDER) for place in range(_TEXT_AT, _EVENT)])
        fences.order()
        if words[at] == number:
            text = text[: shape >> 8 & 0xFF]
            found.append(Event(number, time, pid, shape & 0xFF, hash, things, text.decode("utf-8", "replace")))
    return sorted(found)


def read_tag(words: Words, hash: int) -> str | None:
    """Return the name of a tag, if the block has it. A long one is cut off."""
    at = _TAGS_AT + hash % TAGS * _TAG
    if words[at] != hash:
        return None
    check = words[at + 1]
    text = b"".join([words[at + place].to_bytes(WORD, _ORDER) for place in range(2, _TAG)])
    if check != _check(hash, text):
        return None  # it is being written
    return text[WORD : WORD + text[0]].decode("utf-8", "replace")


def _row(words: Words, at: int) -> Row:
    start = at + _NAME
    counts = tuple([words[place] for place in range(start, start + COLUMNS)])
    return Row(_name(words, at), counts, tuple([words[place + COLUMNS] for place in range(start, start + COLUMNS)]))


def _name(words: Words, at: int) -> str:
    length = min(words[at], NAME_BYTES)
    name = b"".join([words[at + 1 + place].to_bytes(WORD, _ORDER) for place in range(-(-length // WORD))])
    return name[:length].decode("utf-8", "replace")


def _cut(text: str, room: int) -> bytes:
    encoded = text.encode("utf-8", "backslashreplace")
    if len(encoded) <= room:
        return encoded
    end = "…".encode()
    return encoded[: room - len(end)].decode("utf-8", "ignore").encode() + end


def _check(hash: int, text: bytes) -> int:
    return xxh3_64_intdigest(text, hash)


_ORDER: Final = "little" if struct.pack("@H", 1)[0] else "big"
