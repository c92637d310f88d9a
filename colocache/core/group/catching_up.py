"""Calls that wait until this member has applied some events, as for a client that has seen their effect elsewhere."""

from __future__ import annotations

from ..timers import Timers
from .knowledge import Knowledge
from .outbox import Outbox
from .outcomes import CaughtUp
from .replays import Replays

MAX_WAITING = 1_000  # calls; a further one is told at once that the events are not applied


class CatchingUp:
    """The calls that wait for events. Not thread-safe."""

    def __init__(self, knowledge: Knowledge, outbox: Outbox, timers: Timers, replays: Replays) -> None:
        self._knowledge = knowledge
        self._outbox = outbox
        self._timers = timers
        self._replays = replays
        self._waiting: dict[int, dict[bytes, int]] = {}  # ticket to positions

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, ticket: int, positions: dict[bytes, int], patience: float) -> None:
        """Resolve a call once the positions are applied, or never can be, or ``patience`` is over."""
        applied = self._replays.has_applied(positions)
        if applied is False and patience > 0 and len(self._waiting) < MAX_WAITING:
            self._waiting[ticket] = positions
            self._timers.at(self._knowledge.now + patience, self._resolve, ticket, False)
        else:
            self._outbox.resolve(ticket, CaughtUp(applied is True))

    def retry(self) -> None:
        """Resolve the calls whose positions are applied by now, or never can be."""
        for ticket, positions in list(self._waiting.items()):
            applied = self._replays.has_applied(positions)
            if applied is not False:
                self._resolve(ticket, applied is True)

    def abandon(self, ticket: int) -> None:
        """A call no longer waits."""
        self._waiting.pop(ticket, None)

    def _resolve(self, ticket: int, done: bool) -> None:
        if self._waiting.pop(ticket, None) is not None:
            self._outbox.resolve(ticket, CaughtUp(done))
