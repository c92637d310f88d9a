"""Whether as many processes are there as somebody expects, for long enough to be said."""

from __future__ import annotations

import enum
import math
from typing import Final

#: s for which nobody has come or gone before too few are said to be there. While a deployment replaces one process
#: after the other, somebody always comes or goes.
SETTLED: Final = 10.0
#: s for which too few may be there, whoever comes and goes. A process that fails and is started again and again must
#: not put it off for ever.
LONGEST: Final = 60.0
#: s after which it is said again, as long as nothing changes.
AGAIN: Final = 60.0


class Said(enum.Enum):
    """What is to be said of who is there."""

    NOTHING = enum.auto()
    TOO_FEW = enum.auto()
    ENOUGH = enum.auto()  # after there were too few


class Attendance:
    """Who has come and gone, as one process sees it. For one thread at a time."""

    def __init__(self) -> None:
        self._there: frozenset[int] = frozenset()
        self._changed_at = self._short_since = 0.0
        self._is_short = False
        self._said_at, self._said_of = -math.inf, 0  # when too few were said to be there last, and how many; 0 is never

    def look(self, expected: int, there: frozenset[int], now: float) -> Said:
        """Note who is there, and return what is to be said of it.

        ``expected`` is a number of processes, ``there`` has a number of each one that is there, which no other has, and
        ``now`` is in seconds.
        """
        if there != self._there:
            self._there, self._changed_at = there, now
        if len(there) >= expected:
            was_said, self._is_short, self._said_of = self._said_of > 0, False, 0
            self._said_at = -math.inf
            return Said.ENOUGH if was_said else Said.NOTHING
        if not self._is_short:
            self._is_short, self._short_since = True, now
        if now < min(self._changed_at + SETTLED, self._short_since + LONGEST):
            return Said.NOTHING
        if len(there) == self._said_of and now < self._said_at + AGAIN:
            return Said.NOTHING
        self._said_at, self._said_of = now, len(there)
        return Said.TOO_FEW
