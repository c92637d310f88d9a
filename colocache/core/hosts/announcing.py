"""What a client host has invalidated, on its way to a member, which makes an event of it.

A member that ends before it answers may have made an event, or not. So another one is asked: an invalidation twice is
harmless.
"""

from __future__ import annotations

from collections.abc import Sequence

from .event import Position
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
