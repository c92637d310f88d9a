"""What a client host has invalidated, on its way to a member, which makes an event of it.

A member that ends before it answers may have made an event, or not. So another one is asked: an invalidation twice is
harmless.
"""

from __future__ import annotations

from collections.abc import Sequence

from .event import Position
from .layout import SLOTS
from .log import HostLog
from .requests import Announce
from .rows import Incarnation, Numbers


class Announcement:
    """One invalidation. Its caller asks one member after another. Any thread may look at it."""

    __slots__ = ("_asked", "by", "is_over", "numbers", "positions", "request")

    def __init__(self, request: Announce, positions: Sequence[Position]) -> None:
        """``positions`` are where it stands in the log of the client itself, each at the end of a call."""
        self.request = request
        self.positions = positions
        self.by: Incarnation | None = None  #: which member has made an event of it
        self.numbers: Numbers = {}  #: which event
        self.is_over = False  #: whether that is done, or nobody is left who could do it
        self._asked: set[Incarnation] = set()

    def next(self, members: Sequence[Incarnation]) -> Incarnation | None:
        """Return which of these is to be asked now; None if all were."""
        found = next((id for id in members if id not in self._asked), None)
        if found is not None:
            self._asked.add(found)
        return found

    def succeed(self, by: Incarnation, numbers: Numbers) -> None:
        """Note that a member has made an event of it."""
        self.numbers = numbers
        self.by = by
        self.is_over = True  # last, for other threads

    def fail(self) -> None:
        """Note that nobody is left."""
        self.is_over = True

    def begin_anew(self, without: Incarnation) -> None:
        """Have it announced once more, by another member than one that has ended since."""
        self._asked = {without}
        self.by, self.is_over = None, False


class Pending:
    """What a client host has invalidated, and no member has told it yet: the events of its own log without a mark.

    See `colocache.core.hosts.dependencies`. Any thread may call all methods; two of them look at some events twice.
    """

    def __init__(self, log: HostLog) -> None:
        """``log`` is that of the client itself."""
        self._log = log
        self._done: dict[int, int] = {}  # up to where all events of a lane are marked
        self._seen: dict[int, tuple[int, int]] = {}  # up to where there were events, and when that was seen

    def lasts(self) -> dict[int, int]:
        """Return the number of the last event of each lane that has one without a mark."""
        found: dict[int, int] = {}
        for lane, last in self._log.lasts().items():
            first = max(self._done.get(lane, 0) + 1, last - SLOTS // 2)
            while first <= last and self._log.is_stamped(lane, first):
                first += 1
            self._done[lane] = first - 1
            if first <= last:
                found[lane] = last
        return found

    def left(self, now: int, patience: int) -> list[Position]:
        """Return where calls end that are without a mark for so long (ns): somebody was killed, or gave up.

        Each is returned once in that time.
        """
        found: list[Position] = []
        for lane, last in self.lasts().items():
            done = self._done[lane]
            upto, since = self._seen.get(lane, (0, now))
            is_old = now - since >= patience
            if done >= upto or is_old:
                self._seen[lane] = last, now
            if done < upto and is_old:
                found += [
                    Position(lane, number)
                    for number in range(done + 1, upto + 1)
                    if self._log.marks_itself(lane, number) and not self._log.is_stamped(lane, number)
                ]
        return found
