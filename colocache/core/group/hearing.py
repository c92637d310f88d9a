"""The other members' streams, as they are heard here: events, gaps, replays, resets, and the end of a stream.

A stream ends in one of three ways: with a goodbye that names its last number; with its journal, which each host-mate of
a dead member reads; or with neither. Whoever has applied it up to its last number drops nothing; whoever cannot get
there drops everything:

1. W announces event n, and does not wait; 2. R loses it, and nothing later of W's stream reaches R; 3. W is killed; its
seat is free, and R counts it no more: nothing will ever show R the number n. Without the reset R would be current, and
serve the old value until its ttl.
"""

from __future__ import annotations

from typing import Protocol

from ...errors import WireError
from ..store import Store
from ..timers import Timers
from . import host
from .members import Acquaintance, Member, Members
from .messages import MAX_LINK, Event, Left, Replay, Replayed, Reset, decode
from .stream import Announcer


class Host(host.Host, Protocol):
    """What `Hearing` needs of the peer that it belongs to."""

    def apply(self, event: Event) -> None:
        """Drop, void, mark and remember what an event hits."""

    def drop_all(self) -> None:
        """Drop, void and mark everything."""

    def depend_on(self, stream: bytes, last: int) -> None:
        """Remember a reset: whoever is asked for a key must have come so far."""

    def progressed(self) -> None:
        """A stream is applied further, or over: look after what waits for that."""

    def gone(self, member: Member) -> None:
        """A member is one no more."""


class Hearing:
    """What of the members' streams is applied here, and what is missing. Not thread-safe."""

    def __init__(
        self, host: Host, members: Members, announcer: Announcer, store: Store, patience: float, timers: Timers
    ) -> None:
        """``patience`` is how long an answer to a replay, or a dead member's journal, is waited for, in seconds."""
        self._host = host
        self._members = members
        self._announcer = announcer
        self._store = store
        self._patience = patience
        self._timers = timers
        self._unacknowledged: dict[bytes, None] = {}

    def acknowledgements(self) -> list[tuple[bytes, int]]:
        """Return, and forget, the streams that were applied further, and how far."""
        if not self._unacknowledged:
            return []
        others = [self._members.get(stream) for stream in self._unacknowledged]
        self._unacknowledged.clear()
        return [(other.member.incarnation, other.stream.applied) for other in others if other is not None]

    def has_applied(self, positions: dict[bytes, int], now: float) -> bool | None:
        """Whether the positions are applied here; None if one of them never can be. Asks for what is missing."""
        missing = False
        for stream, number in positions.items():
            if stream == self._host.incarnation:
                if number > self._announcer.last:
                    return None
            elif not self._members.has_ended(stream):
                other = self._members.get(stream)
                if other is None:
                    return None
                if other.stream.applied < number:
                    missing = True
                    self.ask_replay(other, now)
        return not missing

    # --- Events

    def heard(self, event: Event, now: float) -> None:
        """Take in what came by the bus."""
        other = self._members.get(event.sender)
        if other is not None:
            self._hear(other, event, now)
            if other.stream.behind:
                self.ask_replay(other, now)

    def replayed(self, stream: bytes, frames: tuple[bytes, ...], now: float) -> None:
        """Take in what came by replay, or from a dead member's journal."""
        for frame in frames:
            other = self._members.get(stream)
            try:
                event = decode(frame)
            except WireError:
                event = None
            if not isinstance(event, Event) or event.sender != stream:
                self._host.counters.frames_refused += 1
            elif other is not None:
                self._host.counters.events_replayed += event.number > other.stream.applied
                self._hear(other, event, now)

    def answered(self, message: Replayed | Reset, now: float) -> None:
        """Take in what a member says of its own stream; nobody else speaks for it."""
        other = self._members.get(message.stream)
        if message.stream != message.sender:
            self._host.counters.frames_refused += 1
        elif other is None:
            return
        elif isinstance(message, Replayed):
            other.replays_running += 1
            self.replayed(message.stream, message.frames, now)
        elif message.last > other.stream.applied:
            self.reset_to(other, message.last, now)

    def reset_to(self, other: Acquaintance, last: int, now: float) -> None:
        """Drop everything, and count a stream as applied up to ``last``."""
        self._drop_all(other.member.incarnation, last)
        for ready in other.stream.reset(last):
            self._host.apply(ready)
        self._progress(other, now)

    def _hear(self, other: Acquaintance, event: Event, now: float) -> None:
        for ready in other.stream.hear(event):
            self._host.counters.events_applied += 1
            self._host.apply(ready)
        self._progress(other, now)

    def _progress(self, other: Acquaintance, now: float) -> None:
        self._unacknowledged[other.member.incarnation] = None
        self._members.extend(other)
        if other.last_ending is not None and other.stream.applied >= other.last_ending:
            self._finish(other.member, other.last_ending, now, reset=False)
        self._host.progressed()

    # --- Replays

    def expect(self, incarnation: bytes, at: float) -> None:
        """If a stream is still behind at an instant, have it replayed."""
        self._timers.at(at, self._check, incarnation)

    def ask_replay(self, other: Acquaintance, now: float) -> None:
        """Ask a member for what is missing of its stream, unless it was asked a moment ago; until it is not missing."""
        stream, incarnation = other.stream, other.member.incarnation
        if now < stream.asked_at + self._patience:  # as `expect` adds them: their difference may be rounded to less
            return
        stream.asked_at = now
        self._host.counters.replays += 1
        self._host.send(Replay(self._host.incarnation, incarnation, incarnation, stream.applied + 1))
        self.expect(incarnation, now + self._patience)

    def replay(self, ask: Replay) -> None:
        """Answer with this member's own events, or, if the log does not reach back, with a reset."""
        me, log = self._host.incarnation, self._announcer.log
        frames = log.since(ask.first)
        if ask.stream != me:
            self._host.counters.frames_ignored += 1
        elif frames is None:
            self._host.send(Reset(me, ask.sender, me, log.last))
        else:
            for part in _parts(frames):
                self._host.send(Replayed(me, ask.sender, me, part))

    def _check(self, incarnation: bytes) -> None:
        other = self._members.get(incarnation)
        if other is not None and other.stream.behind:
            self.ask_replay(other, self._timers.now)

    # --- Ends

    def left(self, left: Left, now: float) -> None:
        """A member says that a stream, its own or another's, is over."""
        other = self._members.get(left.stream)
        self.over(other.member if other is not None else Member(left.stream, "unknown", 0), left.last, now)

    def over(self, member: Member, last: int, now: float, *, journal_read: bool = False) -> None:
        """A stream has ended with number ``last``: get there, or drop everything.

        What is under way on the bus may still come, and so may what this member's driver reads from the journal.
        """
        other = self._members.get(member.incarnation)
        if self._members.has_ended(member.incarnation):
            return
        if (other.stream.applied if other is not None else 0) >= last:
            self._finish(member, last, now, reset=False)
        elif other is None or journal_read or not len(self._store):
            self._finish(member, last, now, reset=True)
        elif other.last_ending is None:
            other.last_ending = last
            self._timers.at(now + self._patience, self._unread, member)

    def _unread(self, member: Member) -> None:
        other = self._members.get(member.incarnation)
        if other is not None and other.last_ending is not None:
            self._finish(member, other.last_ending, self._timers.now, reset=True)

    def _finish(self, member: Member, last: int, now: float, *, reset: bool) -> None:
        self._members.end(member, last, now)
        if reset:
            self._drop_all(member.incarnation, last)
        self._host.gone(member)

    def _drop_all(self, stream: bytes, last: int) -> None:
        """Remember the reset first, for the tokens that are voided by the drop are granted anew at once:

        1. the owner of a page resets, and grants its token to the next who waits, R; 2. R, which has not heard the
        event either, must be told to apply it first, or it loads the page of its near copy of an old part; 3. the
        token stands.
        """
        self._host.depend_on(stream, last)
        self._host.drop_all()


def _parts(frames: list[bytes]) -> list[tuple[bytes, ...]]:
    """Return the frames in parts that each fit a link; at least one, be it empty."""
    parts: list[list[bytes]] = [[]]
    size = 0
    for frame in frames:
        if size + len(frame) > MAX_LINK - 1024:
            parts.append([])
            size = 0
        parts[-1].append(frame)
        size += len(frame) + 5
    return [tuple(part) for part in parts]
