"""Calls that wait until this member has applied some events, as for a client that has seen their effect elsewhere."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..timers import Timers
from . import host

MAX_WAITING = 1_000  # calls; whoever comes beyond is told at once that it cannot be had


class CaughtUp(NamedTuple):
    """Whether the events are applied here."""

    done: bool


class Host(host.Host, Protocol):
    """What `CatchingUp` needs of the peer that it belongs to."""

    def settle(self, ticket: int, outcome: CaughtUp) -> None:
        """Tell a caller what became of its call."""


class CatchingUp:
    """The calls that wait for events. Not thread-safe."""

    def __init__(self, host: Host, timers: Timers) -> None:
        self._host = host
        self._timers = timers
        self._waiting: dict[int, dict[bytes, int]] = {}  # ticket to positions

    def __len__(self) -> int:
        return len(self._waiting)

    def wait(self, ticket: int, positions: dict[bytes, int], patience: float, now: float) -> None:
        """Settle a call once the positions are applied, or cannot be, or ``patience`` is over."""
        applied = self._host.has_applied(positions)
        if applied is False and patience > 0 and len(self._waiting) < MAX_WAITING:
            self._waiting[ticket] = positions
            self._timers.at(now + patience, self._settle, ticket, False)
        else:
            self._host.settle(ticket, CaughtUp(applied is True))

    def retry(self) -> None:
        """Settle the calls whose positions are applied by now, or cannot be any more."""
        for ticket, positions in list(self._waiting.items()):
            applied = self._host.has_applied(positions)
            if applied is not False:
                self._settle(ticket, applied is True)

    def abandon(self, ticket: int) -> None:
        """A call waits no more."""
        self._waiting.pop(ticket, None)

    def _settle(self, ticket: int, done: bool) -> None:
        if self._waiting.pop(ticket, None) is not None:
            self._host.settle(ticket, CaughtUp(done))
