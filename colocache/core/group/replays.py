"""Replays: which positions are applied here, and how a member asks for, and gives, the events that are missing."""

from __future__ import annotations

from ..timers import Timers
from .knowledge import Knowledge
from .members import Acquaintance, Members
from .messages import MAX_LINK, NO_NUMBER, Replay, Replayed, Reset
from .outbox import Outbox
from .stream import Announcer


class Replays:
    """Asks for what is missing of the other members' streams, and answers for this member's own. Not thread-safe."""

    def __init__(
        self, knowledge: Knowledge, members: Members, announcer: Announcer, outbox: Outbox, timers: Timers
    ) -> None:
        self._knowledge = knowledge
        self._members = members
        self._announcer = announcer
        self._outbox = outbox
        self._timers = timers
        self._patience = knowledge.settings.fetch_timeout

    def has_applied(self, positions: dict[bytes, int]) -> bool | None:
        """Tell whether the positions are applied here; None if one of them never can be. Ask for what is missing."""
        missing = False
        for stream, number in positions.items():
            if stream == self._knowledge.incarnation:
                if number > self._announcer.last:
                    return None
            elif not self._members.has_ended(stream):
                other = self._members.get(stream)
                if other is None:
                    return None
                if other.stream.applied < number:
                    missing = True
                    self.ask(other)
        return not missing

    def ask(self, other: Acquaintance) -> None:
        """Ask a member for what is missing of its stream, unless it was asked a moment ago; repeat until it comes."""
        stream, incarnation, now = other.stream, other.member.incarnation, self._knowledge.now
        if now < stream.asked_at + self._patience:  # as `expect` adds them: their difference may be rounded to less
            return
        stream.asked_at = now
        self._outbox.counters.replays += 1
        first = min(stream.applied + 1, NO_NUMBER)  # one more fits no message
        self._outbox.send(Replay(self._knowledge.incarnation, incarnation, incarnation, first))
        self.expect(incarnation, now + self._patience)

    def expect(self, incarnation: bytes, at: float) -> None:
        """Ask for a replay at an instant, if the stream is still behind then."""
        self._timers.at(at, self._look, incarnation)

    def answer(self, ask: Replay) -> None:
        """Answer with this member's own events; with a reset if the log does not reach back so far."""
        me, log = self._knowledge.incarnation, self._announcer.log
        frames = log.since(ask.first)
        if ask.stream != me:
            self._outbox.counters.frames_ignored += 1
        elif frames is None:
            self._outbox.send(Reset(me, ask.sender, me, log.last))
        else:
            for part in _parts(frames):
                self._outbox.send(Replayed(me, ask.sender, me, part))

    def _look(self, incarnation: bytes) -> None:
        other = self._members.get(incarnation)
        if other is not None and other.stream.behind:
            self.ask(other)


def _parts(frames: list[bytes]) -> list[tuple[bytes, ...]]:
    """Return the frames in parts that each fit a link; at least one part, which may be empty."""
    parts: list[list[bytes]] = [[]]
    size = 0
    for frame in frames:
        if size + len(frame) > MAX_LINK - 1024:
            parts.append([])
            size = 0
        parts[-1].append(frame)
        size += len(frame) + 5
    return [tuple(part) for part in parts]
