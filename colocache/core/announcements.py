"""Invalidations on their way: who has acknowledged them, who is waited out, and what the caller may be told.

A member that does not answer is waited out: whatever it held back, it has stopped serving it L after the event, since
nobody renewed its lease without telling it of the event. 1 % more covers two clocks that differ in speed by as much.
That holds for members that count this one among those they must hear; so only a member that was **current once** can
promise it, and only for those that have **met** it. A joiner's call waits until then, and its L begins then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from .members import Acquaintance

DRIFT = 1.01  # two clocks differ in speed by less than 1 %


class Receipt(NamedTuple):
    """What became of an invalidation.

    ``acknowledged`` and ``waited_out`` are seats; ``complete`` says whether no process serves the old value any more;
    ``seconds`` is how long the call took.
    """

    acknowledged: tuple[str, ...]
    waited_out: tuple[str, ...]
    complete: bool
    seconds: float


class _Pending:
    __slots__ = ("acknowledged", "awaited", "began", "ends", "gives_up", "number", "settle")

    def __init__(self, number: int, began: float, ends: float, settle: Callable[[Receipt], None]) -> None:
        self.number = number
        self.began = began
        self.gives_up = ends
        self.ends = math.inf  # when the silent ones are waited out; set once this member may promise
        self.awaited: dict[bytes, Acquaintance] | None = None  # None: this member was never current yet
        self.acknowledged: list[str] = []
        self.settle = settle


class Announcements:
    """The events of this member that somebody waits for, oldest first. Not thread-safe."""

    def __init__(self, lease: float) -> None:
        self._lease = lease
        self._pending: list[_Pending] = []

    def __len__(self) -> int:
        return len(self._pending)

    def wait(self, number: int, now: float, patience: float, settle: Callable[[Receipt], None]) -> None:
        """Have ``settle`` called when event ``number`` is acknowledged by all, waited out, or ``patience`` is over."""
        self._pending.append(_Pending(number, now, now + min(patience, 2 * self._lease * DRIFT), settle))

    def deadline(self) -> float:
        """Return the next instant at which `advance` has something to do by the clock alone."""
        return min(min(p.ends, p.gives_up) for p in self._pending) if self._pending else math.inf

    def advance(self, members: Iterable[Acquaintance], established: bool, now: float) -> None:
        """Settle what is acknowledged, waited out, or out of patience."""
        if not self._pending:
            return
        others = {other.member.incarnation: other for other in members}
        for pending in list(self._pending):
            if pending.awaited is None and established:
                pending.awaited = dict(others)
                pending.ends = now + self._lease * DRIFT
            if pending.awaited is not None:
                self._collect(pending, pending.awaited)
            given_up = pending.awaited is None and now >= pending.began + self._lease
            if pending.awaited == {} or now >= min(pending.ends, pending.gives_up) or given_up:
                self._pending.remove(pending)
                pending.settle(self._receipt(pending, now))

    def _collect(self, pending: _Pending, awaited: dict[bytes, Acquaintance]) -> None:
        for incarnation, other in list(awaited.items()):
            if other.acked >= pending.number:
                del awaited[incarnation]
                pending.acknowledged.append(other.member.seat)
            elif other.ended:  # it serves nothing any more; one that was forgotten may, and is waited out
                del awaited[incarnation]

    def _receipt(self, pending: _Pending, now: float) -> Receipt:
        silent = list((pending.awaited or {}).values())
        waited = now >= pending.ends and all(other.met for other in silent)
        return Receipt(
            acknowledged=tuple(sorted(pending.acknowledged)),
            waited_out=tuple(sorted(other.member.seat for other in silent)) if waited else (),
            complete=pending.awaited is not None and (not silent or waited),
            seconds=now - pending.began,
        )
