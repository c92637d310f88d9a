"""What a reader may serve, by the lease of its host.

A host is **current** until an instant that its gateway knows, `UNTIL` of the file ``hosts``: whatever other hosts have
invalidated more than a lease before that instant, and with a receipt that did not wait for this host, is stamped on its
board. After that instant the host is **behind**: others may have given such a receipt, and this host has not heard of
it. Before its first such instant a host is not **established**: others may not even know it.

**R1.** A reader reads its clock, then the word, and then bell and stamps. In another order:

1. R finds that the stamps of a value stand, and is stopped. W, on another host, invalidates the value, and waits for
   the lease of R's host, which hears nothing.
2. W's call returns. R's host is behind.
3. R's host catches up. Its gateway stamps the value, and stores a later instant.
4. R goes on, reads the word, and finds that its host is current. It serves the value, whose stamps stood long ago.

A stop after the last look does no harm, because the call was under way before W's receipt.

**R2.** The word is read once in a lease. Each process keeps a copy of it, and reads the word again, with a fence behind
it, when the copy has run out. So a hit compares a number of its own and the bell, and there is no order of two shared
words in which it could read them wrongly:

1. P reads the word, 100. It compares the label of an entry, and notes in the entry that it may be served until 100.
2. R, in the same process, finds that the entry has the present bell, and is stopped.
3. The gateway stamps what W has invalidated, rings the bell, and stores 103.
4. R goes on at 100.1. The entry says 100, so R asks again: the word is read first, then the bell, and then the label.
   Nobody can have noted 103 in the entry before that, because whoever reads 103 finds the label void.

A copy may be later than the word, where the gateway has met another host and has taken some back. It is not later than
a lease after that meeting, and the other host gives no complete receipt before it has waited for so long.

**R3.** On a host that is not established nothing may be served. While a host is current, everything may. While it is
behind, what was loaded less than a lease ago may: receipts that did not wait for it were given a lease after their
events at the earliest, and so the load came after such an event. That ends before others may forget this host: they
give receipts without waiting for it then. After that nothing may be served.

1. W, on a host that has forgotten this one, invalidates a value, and its call returns at once.
2. R serves what was loaded a second ago.
"""

from __future__ import annotations

import math
from typing import Final

from ..host.memory import Fences, Words
from .layout import UNTIL

_NS: Final = 1e9  # in a second


class Lease:
    """The lease of one host, as one process knows it. Any thread may call all methods.

    All times are in seconds on the host's monotonic clock, and ``now`` is always read before the call. Bell and stamps
    are to be read after it. Two threads may keep different copies, one after the other; the earlier one is right, too.
    """

    __slots__ = ("_fences", "_lease", "_serves_by_age", "_words", "known")

    def __init__(self, words: Words, fences: Fences, *, lease: float, serves_by_age: float) -> None:
        """``words`` are those of the file ``hosts``. ``lease`` and ``serves_by_age`` are in seconds.

        ``serves_by_age`` is for how long a host that is behind may serve what was loaded less than a lease ago.
        """
        self._words = words
        self._fences = fences
        self._lease = lease
        self._serves_by_age = serves_by_age
        self.known = -math.inf  # the copy: until then everything may be served

    def until(self, now: float) -> float:
        """Return the instant until which the host is current. If that is not after ``now``, it is behind.

        It is minus infinity as long as the host is not established, and never infinity.
        """
        known = self.known
        if now < known:
            return known
        word = self._words[UNTIL]
        self._fences.order()  # otherwise bell and stamps could be older than the word
        self.known = known = word / _NS if word else -math.inf
        return known

    def as_of(self, now: float) -> float:
        """Return the instant from which the age of a value counts whose loader begins now.

        A loader may read cached values. While the host is current, they are as of the instant up to which it knows all
        events, which is a lease before it is current no more. If the age counted from now:

        1. W, on another host, has invalidated a part, and waits for the lease of R's host, which has not heard of it.
        2. R's host is current. R loads a page, and its loader is served the old part.
        3. R's host is cut off. W's call returns, a lease after it began.
        4. R's host is behind. The page is younger than a lease, and R would be served it.

        While the host is behind, each cached value that a loader is served has an age of its own.
        """
        until = self.until(now)
        return min(now, until - self._lease) if now < until else now

    def as_of_end(self, began: float, now: float) -> float:
        """Return the same for a value whose loader has ended. It began when the host was behind.

        The host may have become current meanwhile, and know all events only up to an instant before the loader began:

        1. G, the gateway of R's host, sends a question. W, on another host, invalidates a part.
        2. R's host is behind. R's loader begins, and the age of its page counts from now.
        3. G gets the answer, which is late: the host is current, as of step 1. R's loader is served the old part.
        4. R's host is behind again. W's call returns, a lease after step 1. The page is younger than a lease.

        So such a page is not served while the host is behind.
        """
        return began - self._lease if self.until(now) > began else began

    def loaded_after(self, now: float) -> float:
        """Return the instant after which a value must have been loaded to be served.

        It is minus infinity while everything may be served, and infinity while nothing may.
        """
        until = self.until(now)
        if now < until:
            return -math.inf
        return now - self._lease if now < until + self._serves_by_age else math.inf


class _Forever(Lease):
    """The lease of a host that is alone. Nobody can invalidate anything elsewhere."""

    __slots__ = ()

    def __init__(self) -> None:
        self.known = math.inf

    def until(self, now: float) -> float:
        """Return infinity."""
        return math.inf

    def as_of(self, now: float) -> float:
        """Return ``now``."""
        return now

    def as_of_end(self, began: float, now: float) -> float:
        """Return ``began``."""
        return began

    def loaded_after(self, now: float) -> float:
        """Return minus infinity."""
        return -math.inf


FOREVER: Final[Lease] = _Forever()
