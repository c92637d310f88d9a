"""Streams: the numbered events of each member, as it announces them and as the others hear them.

A member numbers its events 1, 2, 3, …, logs them, and publishes them on a bus that may lose frames. A member that hears
5 after 3, or learns that the stream is at 5, has a gap and asks for a replay. It gets the missing events or, if the log
does not reach back far enough, a reset: it drops everything that may be stale, and counts the stream as applied up to
the number that the reset names.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol

from .messages import MAX_STREAMS, Event, encode

MAX_AHEAD = 1024  # events kept that came before their turn, per stream; more are lost, and replayed
MAX_BULK = 1024  # streams with bulk events, per generation of `Remembered`


class Journal(Protocol):
    """Where a member's events are kept so that they outlive it: in production, a mapped file."""

    def append(self, number: int, frame: bytes) -> None:
        """Keep an event's frame. Once this returns, the frame survives the death of the process."""


class EventLog:
    """The newest events of one stream, as frames: at most ``limit`` of them, none older than ``keep`` seconds."""

    def __init__(self, limit: int, keep: float) -> None:
        self._limit = limit
        self._keep = keep
        self._events: deque[tuple[float, bytes]] = deque()
        self.last = 0

    def append(self, frame: bytes, now: float) -> None:
        """Add the next event."""
        self.last += 1
        self._events.append((now, frame))
        self.prune(now)

    def prune(self, now: float) -> None:
        """Forget what is beyond the limits."""
        events = self._events
        while len(events) > self._limit or (events and events[0][0] < now - self._keep):
            events.popleft()

    def since(self, first: int) -> list[bytes] | None:
        """Return the frames from number ``first`` to the last one; None if the log does not reach back so far."""
        oldest = self.last - len(self._events) + 1
        if first < oldest:
            return None
        return [frame for _, frame in list(self._events)[first - oldest :]]

    def __len__(self) -> int:
        return len(self._events)


class Announcer:
    """A member's own stream: numbers each event, and journals it before any other member can hear of it."""

    def __init__(self, stream: bytes, log: EventLog, journal: Journal) -> None:
        self.stream = stream
        self.log = log
        self._journal = journal

    @property
    def last(self) -> int:
        """The number of the newest event."""
        return self.log.last

    def announce(self, targets: tuple[bytes, ...], now: float) -> tuple[int, bytes]:
        """Number, journal and log an event; return its number and the frame to publish.

        The order of the steps is fixed, because a pong must never report less than was published:

        1. The journal holds the event.
        2. Pongs name its number.
        3. The driver publishes it.

        If the process is killed between 1 and 3, it has announced the event all the same: its host-mates read the
        event from the journal.
        """
        number = self.log.last + 1
        frame = encode(Event(self.stream, number, targets))
        self._journal.append(number, frame)
        self.log.append(frame, now)
        return number, frame


class Reception:
    """One stream as this member hears it: what is applied, what came early, and whether events are missing."""

    __slots__ = ("_ahead", "applied", "asked_at", "known")

    def __init__(self) -> None:
        self.applied = 0  # the last event applied, with none missing before it
        self.known = 0  # the highest number that the stream is known to have reached
        self.asked_at = float("-inf")  # when a replay was last asked for
        self._ahead: dict[int, Event] = {}

    @property
    def behind(self) -> bool:
        """Tell whether this member knows of events that it has not applied."""
        return self.known > self.applied

    def hear(self, event: Event) -> list[Event]:
        """Take one event in; return the events whose turn has come, in order. A duplicate or a gap gives none."""
        self.known = max(self.known, event.number)
        if event.number <= self.applied:
            return []
        if event.number > self.applied + 1:
            if len(self._ahead) < MAX_AHEAD:
                self._ahead[event.number] = event
            return []
        ready = [event]
        self.applied = event.number
        while self._ahead and (following := self._ahead.pop(self.applied + 1, None)) is not None:
            ready.append(following)
            self.applied = following.number
        return ready

    def reset(self, last: int) -> list[Event]:
        """Count the stream as applied up to ``last``; return the events beyond it whose turn has come."""
        self.known = max(self.known, last)
        self.applied = max(self.applied, last)
        self._ahead = {number: event for number, event in self._ahead.items() if number > self.applied}
        following = self._ahead.pop(self.applied + 1, None)
        return self.hear(following) if following else []


class Remembered:
    """Recent events by key, and recent bulk events: what a request must name as its dependencies.

    They are kept for at least ``keep`` seconds and at most twice as long, in two generations, so that forgetting costs
    nothing per event. A generation that is full turns the events of keys into bulk events, which are dependencies of
    every key: this is safe, and bounded. If even the bulk events are too many for a request to name, this member asks
    nobody until they are forgotten.
    """

    def __init__(self, keep: float, limit: int = 100_000) -> None:
        self._keep = keep
        self._limit = limit
        self._turned_at = float("-inf")
        self._young: dict[bytes, tuple[int, dict[bytes, int]]] = {}
        self._old: dict[bytes, tuple[int, dict[bytes, int]]] = {}
        self._young_bulk: dict[bytes, int] = {}
        self._old_bulk: dict[bytes, int] = {}
        self._bulk_version = 0
        self._young_full = self._old_full = False  # there were more bulk events than are remembered

    def turn(self, now: float) -> None:
        """Begin a new generation if the present one is old enough."""
        if now - self._turned_at >= self._keep:
            self._turned_at = now
            self._old, self._young = self._young, {}
            self._old_bulk, self._young_bulk = self._young_bulk, {}
            self._old_full, self._young_full = self._young_full, False

    def key(self, wire: bytes, stream: bytes, number: int, version: int) -> None:
        """Remember an event that invalidates one key; ``version`` counts the events that this member has applied."""
        if len(self._young) >= self._limit and wire not in self._young:
            self._overflow()
        _, positions = self._young.get(wire, (0, {}))
        _raise(positions, stream, number)
        self._young[wire] = (version, positions)

    def bulk(self, stream: bytes, number: int, version: int) -> None:
        """Remember an event, a reset or a stream's end that may invalidate any key."""
        self._bulk_version = version
        self._add_bulk(stream, number)

    def dependencies(self, wires: Iterable[bytes]) -> dict[bytes, int] | None:
        """Return, by stream, the highest number among the remembered events that may invalidate one of the keys.

        Return None if they are of more streams than a request can name.
        """
        if self._young_full or self._old_full:
            return None
        positions = {**self._old_bulk}
        for stream, number in self._young_bulk.items():
            _raise(positions, stream, number)
        for wire in wires:
            for generation in (self._old, self._young):
                if wire in generation:
                    for stream, number in generation[wire][1].items():
                        _raise(positions, stream, number)
        return positions if len(positions) <= MAX_STREAMS else None

    def invalidated_since(self, wire: bytes, version: int) -> bool:
        """Tell whether an event that may invalidate the key was applied after ``version``."""
        if self._bulk_version > version:
            return True
        young, old = self._young.get(wire), self._old.get(wire)
        return (young is not None and young[0] > version) or (old is not None and old[0] > version)

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def _overflow(self) -> None:
        for version, positions in self._young.values():
            self._bulk_version = max(self._bulk_version, version)
            for stream, number in positions.items():
                self._add_bulk(stream, number)
        self._young = {}

    def _add_bulk(self, stream: bytes, number: int) -> None:
        if len(self._young_bulk) < MAX_BULK or stream in self._young_bulk:
            _raise(self._young_bulk, stream, number)
        else:
            self._young_full = True


class TagVersions:
    """The version at which each tag was last invalidated, kept for as long as a load may take.

    An owner refuses a fill if one of its tags was invalidated since the load was granted.
    """

    def __init__(self, keep: float, limit: int = 100_000) -> None:
        self._keep = keep
        self._limit = limit
        self._turned_at = float("-inf")
        self._young: dict[str, int] = {}
        self._old: dict[str, int] = {}
        self._floor = 0  # every tag counts as invalidated at this version

    def turn(self, now: float) -> None:
        """Begin a new generation if the present one is old enough."""
        if now - self._turned_at >= self._keep:
            self._turned_at = now
            self._old, self._young = self._young, {}

    def invalidate(self, tag: str, version: int) -> None:
        """Note an event that invalidates a tag."""
        if len(self._young) >= self._limit and tag not in self._young:
            self._floor = version
            self._young = {}
        self._young[tag] = version

    def invalidated_since(self, tags: Iterable[str], version: int) -> bool:
        """Tell whether one of the tags was invalidated after ``version``."""
        return any(max(self._young.get(tag, 0), self._old.get(tag, 0), self._floor) > version for tag in tags)


def _raise(positions: dict[bytes, int], stream: bytes, number: int) -> None:
    if number > positions.get(stream, -1):
        positions[stream] = number
