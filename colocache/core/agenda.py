"""An agenda: things, each with the instant at which it is due.

To put a thing in, to move it and to drop it takes a time that hardly grows with the number of things. What was moved or
dropped leaves a place in the heap behind. There are never more such places than things, but for a few.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final, Generic, TypeVar

T = TypeVar("T", bound=Hashable)

FEW: Final = 64  # places that are left alone


class Agenda(Generic[T]):
    """Things with the instant at which each is due. Not thread-safe."""

    def __init__(self) -> None:
        self._places: dict[T, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, T]] = []
        self._order = 0  # decides between equal instants, so that things are never compared

    def put(self, what: T, instant: float) -> None:
        """Have a thing due at an instant, in place of the one before, if it is there already."""
        self._order += 1
        self._places[what] = instant, self._order
        heappush(self._heap, (instant, self._order, what))
        self._tidy()

    def drop(self, what: T) -> bool:
        """Take a thing out. Return False if it is not there."""
        found = self._places.pop(what, None) is not None
        self._tidy()
        return found

    def take(self, now: float) -> T | None:
        """Take out the thing that has been due for the longest time, and return it; None if none is due."""
        if self.deadline > now:
            return None
        what = heappop(self._heap)[2]
        del self._places[what]
        return what

    @property
    def deadline(self) -> float:
        """The instant at which the next thing is due; infinity if there is none."""
        heap = self._heap
        while heap and self._places.get(heap[0][2]) != heap[0][:2]:
            heappop(heap)
        return heap[0][0] if heap else math.inf

    def clear(self) -> None:
        """Take all things out."""
        self._places.clear()
        self._heap.clear()

    def _tidy(self) -> None:
        if len(self._heap) > 2 * len(self._places) + FEW:
            self._heap = [(*place, each) for each, place in self._places.items()]
            heapify(self._heap)

    def __contains__(self, what: object) -> bool:
        return what in self._places

    def __iter__(self) -> Iterator[T]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
