"""What one request has invalidated and counted, in its context. `colocache.scope.Scope` is what users see of it."""

from __future__ import annotations

import os
from contextvars import ContextVar
from typing import Literal

from ..host import Host, Voided
from ..member import Member
from ..runtime.waiting.threads import RLock
from .positions import MAX_POSITIONS, Positions, lane_of, write_positions

Counted = Literal["loads", "fetches", "misses", "sets", "invalidations"]


class Tally:
    """What one request has invalidated and counted by one cache. Any thread may call its methods."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.is_closed = False
        self._counting = RLock()
        self._counts: dict[Counted, int] = {}
        self._positions: Positions = {}
        self._pending: list[Voided | None] = []
        self._pending_since = 0.0

    def close(self) -> None:
        """Note that the response is sent. A task that still invalidates inside then waits for its own receipt."""
        self.is_closed = True

    def position(self) -> str | None:
        """Return the position of all that was changed inside, for `Cache.catch_up`; None if nothing was.

        The position is a short ASCII text.
        """
        with self._counting:
            return write_positions(self._positions) if self._positions else None

    def counts(self) -> dict[Counted, int]:
        """Return what was done inside: loads, fetches, misses, sets, invalidations. Hits are not counted."""
        with self._counting:
            return dict(self._counts)

    # --- For the operations

    def collect(self, voided: Voided | None, began: float) -> None:
        """Have the end of the request wait for what was invalidated just now; None is what could not be told."""
        with self._counting:
            if not self._pending:
                self._pending_since = began
            if voided is None or voided.hosts is not None or not self._pending:
                self._pending.append(voided)

    def note(self, region: bytes, number: int) -> None:
        """Note the position of an event."""
        place = region, lane_of(number)
        with self._counting:
            self._positions[place] = max(number, self._positions.pop(place, 0))
            while len(self._positions) > MAX_POSITIONS:
                del self._positions[next(iter(self._positions))]

    def count(self, what: Counted, by: int) -> None:
        """Count something."""
        with self._counting:
            self._counts[what] = self._counts.get(what, 0) + by

    def _take(self) -> list[Voided | None]:
        with self._counting:
            pending, self._pending = self._pending, []
        return pending


#: The tallies of this context, the innermost last.
tallies: ContextVar[tuple[Tally, ...]] = ContextVar("colocache_tallies", default=())


def _leave_to_parent() -> None:
    """Forget all tallies, in a forked child: the parent answers the request, and nobody here would wait at its end."""
    tallies.set(())


os.register_at_fork(after_in_child=_leave_to_parent)


def current_tally(member: Member) -> Tally | None:
    """Return the innermost tally of a cache in this context that is not closed. The cache is given by its member."""
    return next((each for each in reversed(tallies.get()) if each.member is member and not each.is_closed), None)


def tell(member: Member, what: Counted, by: int = 1, host: Host | None = None) -> None:
    """Count something for the current request, and note the position of what it has changed on a host."""
    if not tallies.get():
        return
    tally = current_tally(member)
    if tally is not None:
        tally.count(what, by)
        note_position(member, host)


def note_position(member: Member, host: Host | None) -> None:
    """Note for the current request the position of what was changed on a host so far."""
    tally = current_tally(member)
    if tally is not None and host is not None:
        for region, number in host.positions():
            tally.note(region, number)
