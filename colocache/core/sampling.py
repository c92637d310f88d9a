"""Which hits are drawn: a share of all, at random."""

from __future__ import annotations

from collections.abc import Callable
from math import log, log1p

_MOST = 1 << 62  # hits that pass by, at most


class Sample:
    """Draws a share of the hits. Any thread may call all methods."""

    __slots__ = ("_random", "_share")

    def __init__(self, share: float, random: Callable[[], float]) -> None:
        """``share`` is above 0, and 1 at most. ``random`` returns a number from 0 to 1, without 1."""
        self._share = share
        self._random = random

    def draws(self) -> bool:
        """Tell whether the present hit is drawn."""
        return self._random() < self._share

    def skip(self) -> int:
        """Return how many hits pass by before the next one that is drawn.

        To ask `draws` at each of them would draw as many, but a comparison of two numbers takes less time.
        """
        if self._share >= 1:
            return 0
        return int(min(log(1 - self._random()) / log1p(-self._share), _MOST))
