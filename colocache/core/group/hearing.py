"""The other members' streams as this member hears them: events, gaps, replays, resets, and the end of a stream.

A stream ends in one of three ways: with a goodbye that names its last number; with its journal, which each host-mate of
a dead member reads; or with neither. A member that has applied it up to its last number drops nothing. A member that
cannot get there drops everything:

1. W announces event n, and does not wait.
2. R loses it, and nothing later of W's stream reaches R.
3. W is killed. Its seat is free, and R counts W no more, so nothing will ever show R the number n. Without the reset, R
   would be current, and serve the old value until its ttl is over.
"""

from __future__ import annotations

from ...errors import WireError
from ..timers import Timers
from .effects import Effects
from .knowledge import Knowledge
from .members import Acquaintance, Member, Members
from .messages import Event, Goodbye, Replayed, Reset, decode
from .outbox import Outbox
from .replays import Replays
from .store import Store


class Hearing:
    """What of the members' streams is applied here, and which of them are over. Not thread-safe.

    The engine looks at the news when a step ends: ``gone`` are members that are gone, and ``progressed`` says that a
    stream was applied further or is over, so that what waits for it may go on. The engine takes the news away.
    """

    def __init__(
        self, knowledge: Knowledge, members: Members, outbox: Outbox, store: Store, timers: Timers, replays: Replays,
        effects: Effects,
    ) -> None:  # fmt: skip
        self._knowledge = knowledge
        self._members = members
        self._outbox = outbox
        self._store = store
        self._timers = timers
        self._replays = replays
        self._effects = effects
        self._unacknowledged: dict[bytes, None] = {}
        self.gone: list[Member] = []
        self.progressed = False

    def acknowledgements(self) -> list[tuple[bytes, int]]:
        """Return, and forget, the streams that were applied further, and how far."""
        if not self._unacknowledged:
            return []
        others = [self._members.get(stream) for stream in self._unacknowledged]
        self._unacknowledged.clear()
        return [(other.member.incarnation, other.stream.applied) for other in others if other is not None]

    # --- Events

    def heard(self, event: Event) -> None:
        """Take in an event from the bus."""
        other = self._members.get(event.sender)
        if other is not None:
            self._hear(other, event)
            if other.stream.behind:
                self._replays.ask(other)

    def replayed(self, stream: bytes, frames: tuple[bytes, ...]) -> None:
        """Take in events from a replay, or from a dead member's journal."""
        for frame in frames:
            other = self._members.get(stream)
            try:
                event = decode(frame)
            except WireError:
                event = None
            if not isinstance(event, Event) or event.sender != stream:
                self._outbox.counters.frames_refused += 1
            elif other is not None:
                self._outbox.counters.events_replayed += event.number > other.stream.applied
                self._hear(other, event)

    def answered(self, message: Replayed | Reset) -> None:
        """Take in what a member says of its own stream; no other member speaks for it."""
        other = self._members.get(message.stream)
        if message.stream != message.sender:
            self._outbox.counters.frames_refused += 1
        elif other is None:
            return
        elif isinstance(message, Replayed):
            other.replays_running += 1
            self.replayed(message.stream, message.frames)
        elif message.last > other.stream.applied:
            self.reset_to(other, message.last)

    def reset_to(self, other: Acquaintance, last: int) -> None:
        """Drop everything, and count a stream as applied up to ``last``."""
        self._effects.reset(other.member.incarnation, last)
        for ready in other.stream.reset(last):
            self._effects.apply(ready)
        self._progress(other)

    def _hear(self, other: Acquaintance, event: Event) -> None:
        for ready in other.stream.hear(event):
            self._outbox.counters.events_applied += 1
            self._effects.apply(ready)
        self._progress(other)

    def _progress(self, other: Acquaintance) -> None:
        self._unacknowledged[other.member.incarnation] = None
        self.progressed = True
        self._members.extend(other)
        if other.last_ending is not None and other.stream.applied >= other.last_ending:
            self._end(other.member, other.last_ending, reset=False)

    # --- Ends

    def goodbye(self, goodbye: Goodbye) -> None:
        """A member says that a stream, its own or another's, is over."""
        other = self._members.get(goodbye.stream)
        self.over(other.member if other is not None else Member(goodbye.stream, "unknown", 0), goodbye.last)

    def over(self, member: Member, last: int, *, journal_read: bool = False) -> None:
        """A stream has ended with number ``last``: get there, or drop everything.

        What is under way on the bus may still come, and so may what this member's driver reads from the journal.
        """
        other = self._members.get(member.incarnation)
        if self._members.has_ended(member.incarnation):
            return
        if (other.stream.applied if other is not None else 0) >= last:
            self._end(member, last, reset=False)
        elif other is None or journal_read or not len(self._store):
            self._end(member, last, reset=True)
        elif other.last_ending is None:
            other.last_ending = last
            self._timers.at(self._knowledge.now + self._knowledge.settings.fetch_timeout, self._give_up, member)

    def forget(self, other: Acquaintance) -> None:
        """Count a member no more that nobody has heard for long. What was kept while it was silent may be stale."""
        self._members.forget(other.member.incarnation, self._knowledge.now)
        self._effects.drop_all()
        self._lose(other.member)

    def _give_up(self, member: Member) -> None:
        """The missing events of a stream that is over have not come."""
        other = self._members.get(member.incarnation)
        if other is not None and other.last_ending is not None:
            self._end(member, other.last_ending, reset=True)

    def _end(self, member: Member, last: int, *, reset: bool) -> None:
        self._members.end(member, last, self._knowledge.now)
        if reset:
            self._effects.reset(member.incarnation, last)
        self._lose(member)

    def _lose(self, member: Member) -> None:
        self.gone.append(member)
        self.progressed = True
