"""The weights of hosts in the ring: how many slots a host owns, compared with others, and when a change counts."""

from __future__ import annotations

from typing import Final

from .ring import MAX_WEIGHT

STEP: Final = 64 << 20
"""Bytes of shelf that give a host one more of weight. Finer steps would move slots for little."""

STEADY_FOR: Final = 10.0
"""Seconds for which a weight has to stay changed. A worker that is recycled is back before."""


def weight_of(shelf: int) -> int:
    """Return the weight of a host with so many bytes of shelf, at most ``MAX_WEIGHT``.

    A host without a shelf, such as a client, has the weight 0 and owns nothing; any other one has at least 1.
    """
    return min(-(-shelf // STEP), MAX_WEIGHT)


class SteadyWeight:
    """The weight of one host as it counts for the ring: a change counts once it has stayed for a while.

    A weight that returns to what counts was never changed, and one that changes again begins anew. So a host whose
    weight never rests keeps the one that counts. Times are seconds of any clock that never goes back. Not thread-safe.
    """

    __slots__ = ("_changed", "_counts", "_steady_for", "due")

    def __init__(self, weight: int, steady_for: float = STEADY_FOR) -> None:
        """Begin with a weight that counts at once: the first one that is heard of a host, which cannot be a change."""
        self._counts = weight
        self._changed = weight
        self._steady_for = steady_for
        self.due: float | None = None
        """When a changed weight begins to count, if it stays; None if there is no change. Ask `at` then."""

    def hear(self, weight: int, now: float) -> None:
        """Note what the host announces now. To hear the same again changes nothing."""
        if weight == self.at(now):
            self.due = None
        elif self.due is None or weight != self._changed:
            self.due = now + self._steady_for
        self._changed = weight

    def at(self, now: float) -> int:
        """Return the weight that counts now."""
        if self.due is not None and now >= self.due:
            self._counts = self._changed
            self.due = None
        return self._counts
