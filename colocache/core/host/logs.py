"""The logs of a shelf: where records are appended, and which of them make room. S3-FIFO, without queues of objects.

Each ring has two logs. While the **main** log has room, records go there. Then new ones go to the **small** one. A
record that was found there `PROVEN` times before it came to the tail moves on to main. The others are dropped, and
their hashes are remembered for a while, as ghosts. A key that comes back then goes straight to main. There, each time
that a record was found, up to `MOST`, gives it one more round. Source: Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues
are all you need for cache eviction", SOSP 2023.

All methods are called under the ring's lock. Their holder may be killed between any two stores, so at each moment:

- Every way that is not empty points to a whole record between the tail and the head of its log.
- What is not between them is nobody's.

So room is made first (a dropped record's way is cleared, then the tail stored), then bytes are stored, then the head,
and then the way. A record that is moved is first stored at its new place, and its way changed, before the tail passes
its old one; what finds no free place for that is dropped.
"""

from __future__ import annotations

from typing import NamedTuple

from .board import Board, Label
from .layout import BUCKET, GROWTH, LINE, UNIT, ShelfMemory
from .memory import Fences
from .record import LENGTH, PAD, PREFIX, Header, checksum, label_of, unpack_header

TAG_SHIFT = 40
POSITION = (1 << TAG_SHIFT) - 1  # of a way: where the record is
MAIN = 1 << TAG_SHIFT - 1  # of a position: in the main log
UNIT_SHIFT = UNIT.bit_length() - 1
POSITION_END = MAIN << UNIT_SHIFT  # bytes; no log gets there without a reset

PROVEN = 2  # how often a record is found in the small log, to stay
MOST = 3  # how many times count
LARGE = 4  # what takes more than one of so many bytes of the small log goes to main
SLACK = 32  # one of so many bytes of the main log stays free, for records that are moved
MOVES, BYTES_A_MOVE = 8, 1024  # so many records are moved for one that is stored, and one more for so many bytes
REAPED = 8  # so many records that are not current any more make room for one in main

_TAIL, _HEAD, _LIMIT = range(3)  # words of a log; the limit is what is allocated, and odd if there is no more
_LOG_WORDS = 3
_ENTRIES, _RESETS = 6, 7
_FROZEN = 1
_WORD = (1 << 64) - 1
_PAD_CHECK = 0x9E3779B97F4A7C15  # an arbitrary number
NO_WAY = -1


class Garbage(Exception):
    """What is in a ring is no log: somebody has written over it, or two had its lock. It has to be reset."""


class _Living(NamedTuple):
    """What was last seen at the tail of a main log, which hardly moves while nothing proves itself."""

    tail: int
    way: int
    word: int
    expires: float
    label: Label


class Logs:
    """The logs of all rings of a shelf."""

    __slots__ = (
        "_board", "_data", "_fences", "_ghost_mask", "_ghosts", "_grow", "_head", "_index", "_living",
        "_max_record", "_moves", "_ring_ghosts", "_ring_shift", "_sizes", "_slack", "_starts", "_used", "_way_mask",
        "_words", "bucket", "evicted", "moved", "pops",
    )  # fmt: skip

    def __init__(self, memory: ShelfMemory, board: Board, fences: Fences) -> None:
        geometry = memory.geometry
        self.bucket = memory.bucket
        self._board, self._fences = board, fences
        self._head, self._index, self._used, self._ghosts = memory.head, memory.index, memory.used, memory.ghosts
        self._data, self._words, self._grow = memory.data, memory.words, memory.grow
        self._way_mask = geometry.ways - 1 & -BUCKET
        self._ring_shift = geometry.ring_ways.bit_length() - 1
        self._ring_ghosts, self._ghost_mask = geometry.ring_ghosts, geometry.ring_ghosts - 1
        self._max_record = geometry.max_record
        main_size = geometry.ring_size - geometry.small_size
        self._sizes = geometry.small_size, main_size
        self._slack = 0, main_size // SLACK & -UNIT
        starts = [geometry.data_offset + ring * geometry.ring_size for ring in range(geometry.rings)]
        self._starts = starts, [start + geometry.small_size for start in starts]
        self._moves = 0
        self._living: dict[int, _Living] = {}  # by ring
        self.pops = 0
        self.evicted = 0
        self.moved = 0

    # --- Ways

    def find_way(self, base: int, tag: int) -> tuple[int, int]:
        """Return the way of a tag in a bucket, and its word; or else an empty way, or `NO_WAY`, and 0."""
        words = self.bucket(base << 3)
        found, free = 0, NO_WAY
        for word in words:
            if word >> TAG_SHIFT == tag:
                if found:
                    raise Garbage(f"two ways of one tag in the bucket {base}")
                found = word
        if found:
            return base + words.index(found), found
        if 0 in words:
            free = base + words.index(0)
        return free, 0

    def commit(self, base: int, way: int, old: int, word: int) -> int:
        """Store a word in a way whose word was ``old``; where it is `NO_WAY`, take another record's. Return the way."""
        if way == NO_WAY:
            way = self._least_way(base)
            self.evicted += 1
            self._index[way] = word
            self._used[way] = 0
        elif old:
            self._index[way] = word
        else:
            self._index[way] = word
            self._used[way] = 0
            entries = self._line(base >> self._ring_shift) + _ENTRIES
            self._head[entries] = self._head[entries] + 1 & _WORD
        return way

    def _least_way(self, base: int) -> int:
        """Return that of a full bucket whose record was found least often, small before main, the oldest first."""
        words = self.bucket(base << 3)
        used = [self._used[base + way] for way in range(BUCKET)]
        least = min(range(BUCKET), key=lambda way: (used[way], words[way] & POSITION))
        if used[least]:
            for way in range(BUCKET):
                self._used[base + way] = used[way] - 1 if used[way] else 0
        return base + least

    def offset(self, way: int, word: int) -> int:
        """Return where in the file the record is that a way points to."""
        ring = way >> self._ring_shift
        if word & MAIN:
            return self._starts[1][ring] + ((word & MAIN - 1) << UNIT_SHIFT) % self._sizes[1]
        return self._starts[0][ring] + ((word & POSITION) << UNIT_SHIFT) % self._sizes[0]

    # --- Room

    def log_for(self, ring: int, hash: int, way: int, word: int, size: int, now: float) -> int:
        """Return which log a record goes to: 0, the small one, or 1, main. ``word`` is its key's, or 0."""
        if size * LARGE > self._sizes[0]:
            return 1
        if word:
            return 1 if word & MAIN or self._used[way] >= PROVEN else 0
        ghost = ring * self._ring_ghosts + (hash >> 4 & self._ghost_mask)
        return 1 if self._ghosts[ghost] == hash >> 32 or self._has_room(ring, size, now) else 0

    def _has_room(self, ring: int, size: int, now: float) -> bool:
        """Tell whether main has room without dropping what is current: then nothing has to prove itself."""
        head, at = self._head, LINE + LINE * ring + _LOG_WORDS
        tail, most = head[at + _TAIL], self._sizes[1] - self._slack[1] - size - UNIT
        if head[at + _HEAD] - tail <= most:
            return True
        for _ in range(REAPED):
            if tail == head[at + _HEAD] or self._is_living(ring, tail, now):
                break
            tail = self._pop(ring, 1, tail, now, NO_WAY)
            head[at + _TAIL] = tail
        return head[at + _HEAD] - tail <= most

    def _is_living(self, ring: int, tail: int, now: float) -> bool:
        """Tell whether what is at the tail of main is a record that is current and can be found."""
        known = self._living.get(ring)
        if known is None or known.tail != tail:
            record = self._read(ring, 1, tail)
            if record is None or record[1] == NO_WAY:
                return False
            _, way, header, body = record
            known = self._living[ring] = _Living(tail, way, self._index[way], header.expires, label_of(body))
        return self._index[known.way] == known.word and known.expires > now and self._board.stands(known.label)

    def make_room(self, ring: int, log: int, size: int, now: float, keep: int = NO_WAY) -> int:
        """Drop what has to go, and return the position at which so many bytes may be appended; -1 if there is none.

        The record of the way ``keep`` is moved rather than dropped.
        """
        head, at = self._head, LINE + LINE * ring + log * _LOG_WORDS
        need = size + UNIT - 1 & -UNIT
        position = self._fit(ring, log, need)
        if position - head[at + _TAIL] <= self._sizes[log] - need - self._slack[log]:
            return position
        self._moves = MOVES + size // BYTES_A_MOVE
        return self._make_room(ring, log, size, now, keep)

    def _make_room(self, ring: int, log: int, size: int, now: float, keep: int) -> int:
        head, at = self._head, LINE + LINE * ring + log * _LOG_WORDS
        need = size + UNIT - 1 & -UNIT
        most = self._sizes[log] - need - self._slack[log]
        tail = head[at + _TAIL]
        position = self._fit(ring, log, need)
        while position >= 0 and position - tail > most and tail != head[at + _HEAD]:
            moved = self.moved
            tail = self._pop(ring, log, tail, now, keep)
            head[at + _TAIL] = tail
            if self.moved != moved:
                position = self._fit(ring, log, need)
        return position

    def _fit(self, ring: int, log: int, need: int) -> int:
        """Return the first position, from the head on, at which so many bytes fit in one piece; -1 if none."""
        head, at = self._head, LINE + LINE * ring + log * _LOG_WORDS
        size = self._sizes[log]
        tail, position, limit = head[at + _TAIL], head[at + _HEAD], head[at + _LIMIT]
        if (
            not tail <= position <= tail + size
            or (tail | position) % UNIT
            or position + 2 * size > POSITION_END
            or not _is_limit(limit, size)
        ):
            raise Garbage(
                f"the log {log} of the ring {ring} has the tail {tail}, the head {position}, the limit {limit}"
            )
        place = position % size
        if place + need <= limit & -UNIT:
            return position
        while not limit & _FROZEN:
            wanted = place + (
                need if place + need <= size else UNIT
            )  # or but a pad, which says that the log wraps here
            if wanted <= limit:
                break
            more = min(-(-wanted // GROWTH) * GROWTH, size)
            start = self._starts[log][ring]
            if self._grow(start + limit, start + more):
                limit = more
            elif limit:
                limit |= _FROZEN
            else:
                return -1
            head[at + _LIMIT] = limit
        end = limit & -UNIT if limit & _FROZEN else size
        if 2 * need + self._slack[log] > end:
            return -1
        return position if place + need <= end else position + size - place

    def append(self, ring: int, log: int, position: int, body: bytes) -> int:
        """Store a record at a position that `make_room` has returned; return its position as ways have it."""
        head, at = self._head, LINE + LINE * ring + log * _LOG_WORDS
        size, start = self._sizes[log], self._starts[log][ring]
        last = head[at + _HEAD]
        if position != last and last % size < head[at + _LIMIT] & -UNIT:
            pad = start + last % size >> 3
            self._words[pad] = last ^ _PAD_CHECK
            self._words[pad + 1] = PAD
        offset = start + position % size
        seed = position >> UNIT_SHIFT | (MAIN if log else 0)
        total = len(body) + 8
        self._data[offset + 8 : offset + total] = body
        self._words[offset >> 3] = checksum(body, seed)
        head[at + _HEAD] = position + (total + UNIT - 1 & -UNIT)
        self._fences.order()  # otherwise its way could be seen before its bytes, and a key that has a value be missed
        return seed

    def _pop(self, ring: int, log: int, tail: int, now: float, keep: int) -> int:
        """Move the record at the tail, or drop it, and return where the tail is after it."""
        self.pops += 1
        record = self._read(ring, log, tail)
        if record is None:
            return tail + self._sizes[log] - tail % self._sizes[log]
        after, way, header, body = record
        if way != NO_WAY:
            self._retire(ring, log, way, header, body, now, keep)
        return after

    def _read(self, ring: int, log: int, tail: int) -> tuple[int, int, Header, bytes] | None:
        """Return of the record at the tail: the position after it, its way, and itself; None if the log wraps here."""
        size, at = self._sizes[log], LINE + LINE * ring + log * _LOG_WORDS
        place = tail % size
        if place == self._head[at + _LIMIT] & -UNIT:
            return None
        offset = self._starts[log][ring] + place
        check, shape = self._words[offset >> 3], self._words[(offset >> 3) + 1]
        if shape == PAD and check == tail ^ _PAD_CHECK:
            return None
        total = shape & LENGTH
        after = tail + (total + UNIT - 1 & -UNIT)
        if not PREFIX <= total <= self._max_record or total > size - place or after > self._head[at + _HEAD]:
            raise Garbage(f"at the tail {tail} of the log {log} of the ring {ring} are {total} bytes")
        body = self._data[offset + 8 : offset + total]
        position = tail >> UNIT_SHIFT | (MAIN if log else 0)
        if checksum(body, position) != check:
            raise Garbage(f"the record at the tail {tail} of the log {log} of the ring {ring} is not whole")
        header = unpack_header(body)
        base = header.hash & self._way_mask
        words = self.bucket(base << 3)
        word = (header.hash >> TAG_SHIFT | 1) << TAG_SHIFT | position
        return after, base + words.index(word) if word in words else NO_WAY, header, body

    def _retire(self, ring: int, log: int, way: int, header: Header, body: bytes, now: float, keep: int) -> None:
        """Move a record that has come to the tail of its log, or drop it."""
        used = self._used[way]
        current = header.expires > now and self._board.stands(label_of(body))
        if way == keep or (current and used >= (1 if log else PROVEN) and self._moves > 0):
            self._moves -= 1
            if self._move(ring, log, way, header.hash, body, now, keep):
                if way != keep:
                    self._used[way] = min(used, MOST) - 1 if log else 0
                return
        self.evicted += 1
        self._index[way] = 0
        entries = self._line(ring) + _ENTRIES
        self._head[entries] = max(self._head[entries] - 1, 0)
        if current and not log:
            self._ghosts[ring * self._ring_ghosts + (header.hash >> 4 & self._ghost_mask)] = header.hash >> 32

    def _move(self, ring: int, log: int, way: int, hash: int, body: bytes, now: float, keep: int) -> bool:
        """Append a record to main, and let its way point there; return False if it does not fit."""
        total = len(body) + 8
        if log:
            need = total + UNIT - 1 & -UNIT
            position = self._fit(ring, 1, need)
            if position < 0 or position + need - self._head[self._line(ring) + _LOG_WORDS + _TAIL] > self._sizes[1]:
                return False
        else:
            position = self._make_room(ring, 1, total, now, keep)
            if position < 0:
                return False
        self._index[way] = (hash >> TAG_SHIFT | 1) << TAG_SHIFT | self.append(ring, 1, position, body)
        self.moved += 1
        return True

    # --- The whole ring

    def reset(self, ring: int) -> None:
        """Drop everything in a ring."""
        first = ring << self._ring_shift
        for way in range(first, first + (1 << self._ring_shift)):
            if self._index[way]:
                self._index[way] = 0
        line, head = self._line(ring), self._head
        for log, size in enumerate(self._sizes):
            at = line + log * _LOG_WORDS
            tail, last, limit = head[at + _TAIL], head[at + _HEAD], head[at + _LIMIT]
            sound = tail <= last <= tail + size and last + 4 * size <= POSITION_END
            head[at + _HEAD] = head[at + _TAIL] = (last // size + 1) * size if sound else 0
            if not _is_limit(limit, size):
                head[at + _LIMIT] = 0
        head[line + _ENTRIES] = 0
        head[line + _RESETS] = head[line + _RESETS] + 1 & _WORD

    def entries(self) -> int:
        """Return how many records can be found; kills may have put it a few off."""
        return sum(self._head[self._line(ring) + _ENTRIES] for ring in range(len(self._starts[0])))

    def taken(self) -> int:
        """Return how many bytes of the logs are taken."""
        lines = [self._line(ring) + log * _LOG_WORDS for ring in range(len(self._starts[0])) for log in range(2)]
        return sum(self._head[at + _HEAD] - self._head[at + _TAIL] for at in lines)

    def resets(self) -> int:
        """Return how often rings were reset."""
        return sum(self._head[self._line(ring) + _RESETS] for ring in range(len(self._starts[0])))

    @staticmethod
    def _line(ring: int) -> int:
        return LINE + LINE * ring


def _is_limit(limit: int, size: int) -> bool:
    """Tell whether a log of this size can have such a limit. One that has nothing is not frozen, but tried again."""
    return limit <= size + _FROZEN and limit % UNIT <= _FROZEN and limit != _FROZEN
