"""Timers: one heap of instants and functions.

A timer is never cancelled. Its function looks whether there is still something to do. So to start a request costs one
push, and to end it costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any


class Timers:
    """Functions with the instant at which each is due. Not thread-safe."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0  # decides between equal instants, so that functions are never compared
        self.now = -math.inf  # of the present run. After a stop of the process it is much later than what is due

    def at(self, instant: float, function: Callable[..., None], *arguments: Any) -> None:
        """Let the first `run` at or after ``instant`` call ``function``."""
        self._order += 1
        heappush(self._heap, (instant, self._order, function, arguments))

    def deadline(self) -> float:
        """Return the next instant at which `run` has something to do; infinity if there is none."""
        return self._heap[0][0] if self._heap else math.inf

    def run(self, now: float) -> None:
        """Call the functions that are due. If one of them sets a timer that is due already, the next run calls it."""
        due = []
        self.now = now
        while self._heap and self._heap[0][0] <= now:
            due.append(heappop(self._heap))
        for _, _, function, arguments in due:
            function(*arguments)
