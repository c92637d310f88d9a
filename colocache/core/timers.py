"""What is to happen when: one heap of instants and functions.

A timer is never cancelled: its function looks whether there is still something to do. So starting a request costs one
push, ending it nothing.
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
        self._order = 0  # breaks ties, so that functions are never compared
        self.now = -math.inf  # of the present run; much later than what is due, where the process was stopped

    def at(self, instant: float, function: Callable[..., None], *arguments: Any) -> None:
        """Have ``function`` called by the first `run` at or after ``instant``."""
        self._order += 1
        heappush(self._heap, (instant, self._order, function, arguments))

    def deadline(self) -> float:
        """Return the next instant at which `run` has something to do; infinity if none."""
        return self._heap[0][0] if self._heap else math.inf

    def run(self, now: float) -> None:
        """Call what is due. A function that sets a timer which is due already is called in the next run."""
        due = []
        self.now = now
        while self._heap and self._heap[0][0] <= now:
            due.append(heappop(self._heap))
        for _, _, function, arguments in due:
            function(*arguments)
