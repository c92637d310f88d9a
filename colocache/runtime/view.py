"""The memory of a host, for somebody who looks what is there: for processes of the group, and for those that only look.

with region.view(shelf, now) as view:
    ...
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from ..core.host.scores import Block, Event
from ..core.host.shelf import Shelf
from .board_file import Seat
from .scores_file import Scores


class View:
    """The memory of a host, while somebody looks. As a context manager it lets go of it at the end."""

    def __init__(
        self, shelf: Shelf, now: Callable[[], float], seats: Callable[[], list[tuple[Seat, bool]]], scores: Scores
    ) -> None:
        """``now`` is the host's clock, in seconds; ``seats`` are as of `colocache.runtime.region.Region.seats_ever`."""
        self.shelf = shelf
        self.now = now
        self._seats = seats
        self._scores = scores

    def scoreboard(self) -> list[tuple[Seat, bool, Block]]:
        """Return the block of each seat, who has it or had it last, and whether that process lives."""
        scores = self._scores
        return [(seat, lives, scores.block(seat.number)) for seat, lives in self._seats()]

    def events(self, after: dict[int, int] | None = None) -> list[tuple[Seat, Event]]:
        """Return what processes of this host have invalidated lately, the oldest first.

        ``after`` has the number of the last event that is known of each seat, and is brought up to date.
        """
        last = {} if after is None else after
        found: list[tuple[Seat, Event]] = []
        for seat, _ in self._seats():
            events = self._scores.events(seat.number, last.get(seat.number, 0))
            found += [(seat, event) for event in events]
            if events:
                last[seat.number] = events[-1].number
        return sorted(found, key=lambda each: each[1].time)

    def tag(self, hash: int) -> str | None:
        """Return the name of a tag, if any process has used it lately."""
        return self._scores.tag(hash)

    def close(self) -> None:
        """Let go of the memory."""
        self._scores.close()

    def __enter__(self) -> View:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
