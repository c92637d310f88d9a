"""What one request has invalidated and counted, in its context. `colocache.scope.Scope` is what users see of it."""

from __future__ import annotations

import os
from collections import deque
from contextvars import ContextVar
from typing import Literal, get_args

from ..host import Host, Voided
from ..member import Member
from ..runtime.waiting.threads import drained
from .positions import MAX_POSITIONS, Positions, lane_of, write_positions

Counted = Literal["loads", "fetches", "misses", "sets", "invalidations"]


class Tally:
    """What one request has invalidated and counted by one cache.

    Any thread, signal handler or finalizer may call its methods. They take no lock: each changes one thing in one step.
    """

    def __init__(self, member: Member) -> None:
        self.member = member
        self.is_closed = False
        self._counts: dict[Counted, int] = dict.fromkeys(get_args(Counted), 0)
        self._positions: dict[tuple[tuple[bytes, int], int], None] = {}  # the newest last; several of one place, maybe
        self._pending: deque[tuple[Voided | None, float]] = deque()  # and when its call began

    def close(self) -> None:
        """Note that the response is sent. A task that still invalidates inside then waits for its own receipt."""
        self.is_closed = True

    def position(self) -> str | None:
        """Return the position of all that was changed inside, for `Cache.catch_up`; None if nothing was.

        The position is a short ASCII text.
        """
        positions: Positions = {}
        for place, number in [*self._positions]:
            positions[place] = max(number, positions.pop(place, 0))
        return write_positions(positions) if positions else None

    def counts(self) -> dict[Counted, int]:
        """Return what was done inside: loads, fetches, misses, sets, invalidations. Hits are not counted."""
        return {what: count for what, count in self._counts.items() if count}

    # --- For the operations

    def collect(self, voided: Voided | None, began: float) -> None:
        """Have the end of the request wait for what was invalidated just now; None is what could not be told."""
        if voided is None or voided.hosts is not None or not self._pending:
            self._pending.append((voided, began))

    def note(self, region: bytes, number: int) -> None:
        """Note the position of an event."""
        place, known = (region, lane_of(number)), self._positions
        known[place, number] = None
        same = [other for other in [*known] if other[0] == place]
        for other in same:  # only now, so that at each moment the largest one is there
            if other < max(same):
                known.pop(other, None)
        for oldest in [*known][:-MAX_POSITIONS]:
            known.pop(oldest, None)

    def count(self, what: Counted, by: int) -> None:
        """Count something."""
        self._counts[what] += by  # without a call, and so in one step: see `Member.counters`

    def _take(self) -> tuple[list[Voided | None], float]:
        """Take out what was collected; return it, and when the first of these calls began."""
        pending = [*drained(self._pending)]
        return [voided for voided, _ in pending], min([began for _, began in pending], default=0.0)


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
