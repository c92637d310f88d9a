"""How soon the bus thread gets the interpreter lock from threads that compute.

A thread that never pauses gives Python's lock up when another one has asked for it for `sys.getswitchinterval`, 5 ms by
default: a fetch from its process takes that long, and two such waits are 10. So while somebody waits, the interval is
shorter. Threads that compute lose a little by that, as they change places more often; so it ends as soon as nobody
asks any more.
"""

from __future__ import annotations

import sys
from collections import deque

HURRY = 0.1  # s for which the interval stays short after a request

# The interval is the process's, and two caches in it may want different ones: whoever has the token has shortened it.
# Or the second would take what the first has set for the process's own, and set that in the end.
# Taken and given back in one step each, without a lock that a fork could leave taken; there is never a second one.
_token = deque([None], maxlen=1)


class Pace:
    """Python's switch interval, shortened while somebody waits. One thread calls; 0 leaves it as it is."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._own: float | None = None  # what it is when nobody waits; None if it is so now

    def hurry(self) -> None:
        """Shorten the interval, unless it is as short already, or another cache has shortened it."""
        if self._own is not None or sys.getswitchinterval() <= self._interval or not self._interval:
            return
        try:
            _token.pop()
        except IndexError:
            return
        self._own = sys.getswitchinterval()
        sys.setswitchinterval(min(self._own, self._interval))

    def relax(self) -> None:
        """Set it as it was, unless somebody else has set it since."""
        if self._own is not None:
            own, self._own = self._own, None
            if abs(sys.getswitchinterval() - self._interval) < 1e-6:
                sys.setswitchinterval(own)
            _token.append(None)
