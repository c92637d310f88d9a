"""How soon the driver's thread gets the interpreter lock from threads that compute.

A thread that never pauses gives up Python's lock when another one has asked for it for `sys.getswitchinterval`, 5 ms by
default. A fetch from its process takes that long, and two such waits take 10 ms. So the interval is shorter while
somebody waits. Threads that compute lose a little by that, because they change places more often. So the interval is
long again as soon as nobody asks any more.
"""

from __future__ import annotations

import sys
from collections import deque

SHORT_FOR = 0.1  # s for which the interval stays short after a request

# The interval belongs to the process, and two caches in it may want different ones. The cache that holds the token has
# shortened the interval. Without the token, a second cache would take the shortened interval for the process's own, and
# restore that in the end.
# The token is taken and given back in one step each, without a lock that a fork could leave taken.
_token = deque([None], maxlen=1)


class SwitchInterval:
    """Python's switch interval, shortened while somebody waits. One thread calls; 0 leaves the interval as it is."""

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._own: float | None = None  # what it is when nobody waits; None if it is so now

    def shorten(self) -> None:
        """Shorten the interval, unless it is as short already, or another cache has shortened it."""
        if self._own is not None or sys.getswitchinterval() <= self._interval or not self._interval:
            return
        try:
            _token.pop()
        except IndexError:
            return
        self._own = sys.getswitchinterval()
        sys.setswitchinterval(min(self._own, self._interval))

    def restore(self) -> None:
        """Set the interval as it was, unless somebody else has set it since."""
        if self._own is not None:
            own, self._own = self._own, None
            if abs(sys.getswitchinterval() - self._interval) < 1e-6:
                sys.setswitchinterval(own)
            _token.append(None)
