"""The log: all events of a host, in order, for its gateways to tell other hosts. Any process of the host appends.

The log has several **lanes**, each with its own lock and numbers of its own. Mostly one is used. Where its lock cannot
be had, because a process is stopped that has it, another lane is opened.

A lane is a ring of slots, and a word with the number of its last event, `last`. **An event is there once `last` says
so**, and not before. Whoever appends stores, under the lock of the lane,

1. the event's number into its slot, which belonged to the event that is so many slots older;
2. what the event is;
3. `last`.

So who is killed before the third step has appended nothing: the next one takes the same number, and writes the slot
anew. Whoever reads an event looks at `last`, at the slot, and then at the number in the slot:

* *`last` first.* Otherwise: 1. P stores number 7 and an event, and is killed. 2. R finds the number 7, and reads that
  event. 3. Q appends another event under the number 7. 4. R looks at `last`, which is 7, and has read what never was.
* *The number at the end.* Otherwise: 1. R looks at `last`, and is stopped. 2. Others append as many events as there are
  slots, and one. 3. R reads the slot, which has another event, or parts of two.
* *The number is stored first*, for the same reason: in a slot that has any of a new event, it is the new one's.

**All that one call invalidates** becomes visible at once, by one store of `last`, and is marked as stamped by one
store. If it takes several events, they come twice, all of the first pass before those of the second. Other hosts stamp
them one by one, and otherwise, as in `colocache.core.host.board.Board.invalidate`:

1. A host has stamped the first event, which names a page, and not the second one, which names a part of it.
2. R misses the page. Its label has the new stamps. Its loader reads the part, which still stands.
3. The host stamps the second event. The page stands for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from ..host.hashes import ROOT
from ..host.memory import Fences, Words
from . import layout
from .event import KEYS, MAX_HASHES, NAMESPACES, WRITES, Event, Position
from .layout import LANES, SLOTS

_LASTS: Final = tuple([layout.lane_last(lane) for lane in range(LANES)])

#: Events that one call makes at most, in each of two passes. A call with more invalidates everything elsewhere. So no
#: call takes more than a quarter of a lane, which gateways could hardly have read before it is overwritten.
MAX_CHUNKS: Final = SLOTS // 8

# Words of a slot: the event's number, its shape, the number once more when it is stamped, and the hashes.
_NUMBER, _SHAPE, _STAMPED, _HASHES = 0, 1, 2, 3

# The shape: 8 bits of kind, 8 bits of count, whether it is related, and from this bit on how many events of the same
# call come after it.
_COUNT, _RELATED, _AFTER = 8, 16, 32


class NoLane(Exception):
    """Nothing could be appended: all lanes are held by others, or could not be opened for want of room.

    Other hosts hear nothing of the event. So whoever invalidates has a receipt that is not complete.
    """


class LaneLocks(Protocol):
    """One lock for each lane, with the rules of `colocache.core.host.memory.RingLocks`.

    Two who have the same one would both write the same slot, and one's event would be lost under a complete receipt.
    """

    def lock(self, lane: int, /) -> bool:
        """Take the lock of a lane; return False if it is not to be had in a few milliseconds."""

    def unlock(self, lane: int, /) -> None:
        """Give it back, if the very function that calls this has it."""


class HostLog:
    """The log of one host, as one process uses it. Any thread may call all methods, and a signal handler, too."""

    __slots__ = ("_fences", "_grow", "_lane", "_locks", "_words")

    def __init__(self, words: Words, locks: LaneLocks, fences: Fences, grow: Callable[[int], bool]) -> None:
        """``words`` are those of the file ``hosts``.

        ``grow`` gives a lane its memory, all zeros; it returns False if there is no room. It is called under the lock
        of the lane, once, unless whoever called it was killed.
        """
        self._words = words
        self._locks = locks
        self._fences = fences
        self._grow = grow
        self._lane = 0  # which one was to be had lately

    # --- Writing

    def append(self, event: Event, *, stamped: bool = False) -> Position:
        """Append an event, and return its position. When this returns, everybody can see it.

        ``stamped`` says that nothing has to be stamped for it any more. What a signal handler raises may come out of
        this instead of the position; then the event may be there or not.

        Raise `NoLane`, and ValueError if an event cannot be so.
        """
        if event.kind not in range(KEYS, WRITES + 1) or not 0 < len(event.hashes) <= MAX_HASHES:
            raise ValueError(f"{event}: an event has a kind, and from 1 to {MAX_HASHES} hashes")
        return self._append((event,), stamped)

    def append_all(self, kind: int, hashes: Sequence[int], related: bool) -> Position:
        """Append what one call invalidates, in as many events as that takes, and return the position of the last one.

        ``kind`` is that of all hashes, of which there is at least one. ``related`` is as in `Event`. Whoever has
        applied all events up to that position has invalidated it all. With more than `MAX_CHUNKS` times `MAX_HASHES`
        hashes other hosts invalidate everything.

        When this returns, and what it raises, is as in `append`.
        """
        if len(hashes) <= MAX_HASHES:
            return self.append(Event(kind, tuple(hashes), related))
        if len(hashes) > MAX_CHUNKS * MAX_HASHES:
            return self.append(Event(NAMESPACES, (ROOT,), related=True))
        chunks = [Event(kind, tuple(hashes[start : start + MAX_HASHES])) for start in range(0, len(hashes), MAX_HASHES)]
        return self._append(chunks * 2, stamped=False)

    def _append(self, events: Sequence[Event], stamped: bool) -> Position:
        first = self._lane
        for step in range(LANES):
            lane = (first + step) % LANES
            try:
                position = self._write(lane, events, stamped) if self._locks.lock(lane) else None
                self._locks.unlock(lane)
            finally:
                self._locks.unlock(lane)
            if position is not None:
                self._lane = lane
                return position
        raise NoLane

    def _write(self, lane: int, events: Sequence[Event], stamped: bool) -> Position | None:
        """Append to a lane whose lock one has. Return None if it has no memory."""
        words, fences = self._words, self._fences
        if not words[layout.lane_open(lane)]:
            if not self._grow(lane):
                return None
            words[layout.lane_open(lane)] = 1
        before = words[layout.lane_last(lane)]
        last = before + len(events)
        for number in range(before + 1, last + 1):
            words[layout.slot_of(lane, number) + _NUMBER] = number
        fences.order()
        for number, event in enumerate(events, before + 1):
            at = layout.slot_of(lane, number)
            words[at + _SHAPE] = (
                event.kind | len(event.hashes) << _COUNT | event.related << _RELATED | last - number << _AFTER
            )
            words[at + _STAMPED] = number if stamped else 0
            for place, hash in enumerate(event.hashes, at + _HASHES):
                words[place] = hash
        fences.order()
        words[layout.lane_last(lane)] = last
        fences.full()
        return Position(lane, last)

    # --- Marks

    def mark_stamped(self, position: Position) -> None:
        """Say that all of a call is stamped, given the position that it has got. To be called after the bell has rung.

        At another position of the call a mark says nothing. So whoever stamps for a writer that was killed stamps the
        events of a call in their order, and marks the last one. Whoever is as slow as all slots are many takes away
        another event's mark. That one is stamped again.
        """
        self._words[layout.slot_of(*position) + _STAMPED] = position.number

    def is_stamped(self, lane: int, number: int) -> bool:
        """Tell whether an event is marked. One that is not there any more counts as not marked."""
        found = self._load(lane, number)
        return found is not None and self._is_marked(lane, number + found[1])

    def marks_itself(self, lane: int, number: int) -> bool:
        """Tell whether an event is the last one of its call, at whose position the call is marked."""
        found = self._load(lane, number)
        return found is not None and not found[1]

    def is_alone(self, lane: int, number: int) -> bool:
        """Tell whether an event is all that its call has made."""
        before = self._load(lane, number - 1)
        return self.marks_itself(lane, number) and (number == 1 or (before is not None and not before[1]))

    def unstamped(self, lane: int, first: int) -> Iterator[int]:
        """Give the numbers, from ``first`` on, of events that are not marked, and so may never be stamped.

        Whoever reads None for one of them has to stamp everything.
        """
        for number in range(first, self.last(lane) + 1):
            if not self.is_stamped(lane, number):
                yield number

    def _is_marked(self, lane: int, number: int) -> bool:
        return self._words[layout.slot_of(lane, number) + _STAMPED] == number

    # --- Reading

    def lasts(self) -> dict[int, int]:
        """Return the number of the last event of each lane that has any."""
        words = self._words
        return {lane: last for lane, place in enumerate(_LASTS) if (last := words[place])}

    def last(self, lane: int) -> int:
        """Return the number of the last event of a lane; 0 if there is none, or no such lane."""
        return self._words[layout.lane_last(lane)] if 0 <= lane < LANES else 0

    def read(self, lane: int, number: int) -> Event | None:
        """Return an event; None if it was overwritten, or never was there, or is garbage."""
        found = self._load(lane, number)
        return None if found is None else found[0]

    def _load(self, lane: int, number: int) -> tuple[Event, int] | None:
        """Return an event, and how many of the same call come after it."""
        words, fences = self._words, self._fences
        last = self.last(lane)
        if not max(0, last - SLOTS) < number <= last:
            return None
        at = layout.slot_of(lane, number)
        fences.order()
        shape = words[at + _SHAPE]
        count, after = shape >> _COUNT & 0xFF, shape >> _AFTER
        hashes = tuple([words[place] for place in range(at + _HASHES, at + _HASHES + min(count, MAX_HASHES))])
        fences.order()
        if words[at + _NUMBER] != number:
            return None
        event = Event(shape & 0xFF, hashes, bool(shape >> _RELATED & 1))
        if not KEYS <= event.kind <= WRITES or not 0 < count <= MAX_HASHES:
            return None
        return event, after
