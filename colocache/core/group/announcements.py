"""Invalidations under way: who has acknowledged them, who is waited out, and what the caller may be told.

A member that does not answer is waited out: whatever it held back, it stops serving it by L after the event, because
nobody renews its lease without telling it of the event. 1 % more covers two clocks that differ in speed by as much.
That holds for members that count this one among those they must hear. So only a member that was **current once** can
promise it, and only for members that have **met** it. A joiner's call waits until then, and its L begins then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from heapq import heappop, heappush

from ..receipt import Receipt
from .members import Acquaintance

DRIFT = 1.01  # two clocks differ in speed by less than 1 %


class _Pending:
    __slots__ = ("acknowledged", "awaited", "began", "due", "ends", "gives_up", "number", "resolve", "resolved")

    def __init__(self, number: int, began: float, gives_up: float, resolve: Callable[[Receipt], None]) -> None:
        self.number = number
        self.began = began
        self.gives_up = gives_up
        self.due = math.inf  # when it is resolved in any case
        self.ends = math.inf  # when the silent members are waited out; set once this member may promise
        self.awaited: dict[Acquaintance, None] | None = None  # None: this member was not current yet
        self.acknowledged: list[str] = []
        self.resolve = resolve
        self.resolved = False


class Announcements:
    """The events of this member that somebody waits for. Not thread-safe.

    An acknowledgement covers all events up to a number. So there is a line of events for each member that must still
    acknowledge, and one heap of instants: the cost of an acknowledgement does not depend on how many events wait.
    """

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._size = 0
        self._unpromised: list[_Pending] = []  # announced before this member was current once
        self._lines: dict[Acquaintance, deque[_Pending]] = {}  # a member that was forgotten and met anew has two
        self._instants: list[tuple[float, int, _Pending]] = []
        self._order = 0  # breaks ties among the instants

    def __len__(self) -> int:
        return self._size

    def wait(self, number: int, now: float, patience: float, resolve: Callable[[Receipt], None]) -> None:
        """Have ``resolve`` called when event ``number`` is acknowledged by all, waited out, or ``patience`` is over.

        To be called in the order of the numbers. Nothing is resolved before the next `advance`.
        """
        pending = _Pending(number, now, now + min(patience, 2 * self._lease * DRIFT), resolve)
        self._size += 1
        self._unpromised.append(pending)
        self._resolve_at(min(pending.gives_up, now + self._lease), pending)

    def deadline(self) -> float:
        """Return the next instant at which `advance` has something to do by the clock alone."""
        while self._instants:
            instant, _, pending = self._instants[0]
            if instant == pending.due and not pending.resolved:
                return instant
            heappop(self._instants)
        return math.inf

    def advance(self, members: Iterable[Acquaintance], established: bool, now: float) -> None:
        """Resolve what is acknowledged, waited out, or out of patience."""
        if not self._size:
            return
        if established and self._unpromised:
            self._promise(list(members), now)
        for other in list(self._lines):
            self._collect(other, now)
        while self.deadline() <= now:
            self._resolve(heappop(self._instants)[2], now)

    def _promise(self, members: list[Acquaintance], now: float) -> None:
        """From now on, wait out the members that do not acknowledge."""
        unpromised, self._unpromised = self._unpromised, []
        for pending in unpromised:
            if pending.resolved:
                continue
            pending.awaited = dict.fromkeys(members)
            pending.ends = now + self._lease * DRIFT
            self._resolve_at(min(pending.ends, pending.gives_up), pending)
            for other in members:
                self._lines.setdefault(other, deque()).append(pending)
            if not members:
                self._resolve(pending, now)

    def _collect(self, other: Acquaintance, now: float) -> None:
        line = self._lines[other]
        while line and (line[0].resolved or other.ended or line[0].number <= other.acked):
            pending = line.popleft()
            if pending.resolved or pending.awaited is None:
                continue
            del pending.awaited[other]
            if pending.number <= other.acked:
                pending.acknowledged.append(other.member.seat)
            # Otherwise it has ended, and serves nothing any more. One that was forgotten may serve, and is waited out.
            if not pending.awaited:
                self._resolve(pending, now)
        if not line:
            del self._lines[other]

    def _resolve_at(self, instant: float, pending: _Pending) -> None:
        pending.due = instant
        self._order += 1
        heappush(self._instants, (instant, self._order, pending))

    def _resolve(self, pending: _Pending, now: float) -> None:
        pending.resolved = True
        self._size -= 1
        pending.resolve(self._receipt(pending, now))

    def _receipt(self, pending: _Pending, now: float) -> Receipt:
        silent = list(pending.awaited or ())
        waited = now >= pending.ends and all(other.met for other in silent)
        return Receipt(
            acknowledged=tuple(sorted(pending.acknowledged)),
            waited_out=tuple(sorted(other.member.seat for other in silent)) if waited else (),
            complete=pending.awaited is not None and (not silent or waited),
            seconds=now - pending.began,
        )
