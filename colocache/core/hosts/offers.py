"""Which copies a host offers, and to whom: the next hosts in the ring's order of preference.

Nothing is pushed. An offer names keys, and who is offered them asks for those that it lacks, as it asks for any value
(`colocache.core.hosts.copies`). So an offer that comes late, twice, or never, does no harm.

What is worth a copy is what others have fetched, what took long to load, and what was set, which nobody could load
again. Values that are read once are not worth it, and are most values.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from math import inf
from typing import Final, Protocol

from ..host.hashes import ROOT, key_hash
from ..host.record import Record, hashes_of
from ..host.shelf import Shelf
from .dependencies import Dependencies
from .log import HostLog
from .requests import MAX_OFFERED, Key, Offer
from .rows import Incarnation

EVERY: Final = 0.05  # s between two offers
MOST_BYTES: Final = 1 << 20  # of the values of one offer
MOST_NOTED: Final = 16384  # keys that wait; further ones are not offered
MOST_LOOKED_AT: Final = 1024  # keys at a time
REMEMBERED: Final = 1 << 16  # keys that were offered
SLOW: Final = 0.01  # s that a load takes which is worth a copy
BESIDE: Final = 64  # bytes of a key in an offer, beside the wire key


class Order(Protocol):
    """Which hosts are to have a key."""

    def owners(self, wire: bytes, count: int, /) -> list[Incarnation]:
        """Return the hosts that are to have a key, its owner first; fewer, if there are not so many."""


class Batch:
    """The keys of one offer."""

    def __init__(self) -> None:
        self.keys: list[Key] = []
        self._bytes = 0

    def take(self, wire: bytes, record: Record) -> bool:
        """Add a key if there is room. An empty batch has room for any."""
        hashes = hashes_of(record.label)
        size = len(record.payload) + len(wire) + BESIDE + 9 * len(hashes)
        if self.keys and (len(self.keys) >= MAX_OFFERED or self._bytes + size > MOST_BYTES):
            return False
        self._bytes += size
        self.keys.append(Key(wire, (ROOT, *hashes)))
        return True


class Offers:
    """What one process has filled or set, and what is not offered yet. Any thread may note keys; one thread offers."""

    def __init__(
        self, me: Incarnation, copies: int, shelf: Shelf, log: HostLog, order: Order, wake: Callable[[], object],
        *, all: bool = False,
    ) -> None:  # fmt: skip
        """``copies`` is how many hosts are to have a value, its owner included; with 1, nothing is offered.

        ``wake`` has the thread look at `due`. ``all`` says that everything is offered that is loaded.
        """
        self.copies = copies
        self.due = inf  #: when `take` has something to do, in seconds on the clock that it is given
        self._me, self._shelf, self._log, self._order, self._wake = me, shelf, log, order, wake
        self._slowest = 0.0 if all else SLOW
        self._noted: deque[bytes] = deque()
        self._offered: OrderedDict[int, int] = OrderedDict()  # by hash: the version

    def loaded(self, wire: bytes, seconds: float) -> None:
        """Note that a value was loaded, and filled, in so many seconds."""
        if seconds >= self._slowest:
            self.note(wire)

    def note(self, wire: bytes) -> None:
        """Note that a value was set, or fetched by another host. Neither waits nor takes a lock."""
        if self.copies > 1 and len(self._noted) < MOST_NOTED:
            self._noted.append(wire)
            # 1. This appends, and then looks whether a time is set. 2. `take` takes the time away, and then looks at
            # what was noted. So one of them sees to it.
            if self.due == inf:
                self.due = 0.0
                self._wake()

    def take(self, now: float) -> list[tuple[Incarnation, Offer]]:
        """Return what is offered to whom now."""
        self.due = inf
        noted, batches = self._noted, dict[Incarnation, Batch]()
        for _ in range(min(len(noted), MOST_LOOKED_AT)):
            wire = noted.popleft()
            if not self._offer(wire, now, batches):
                noted.appendleft(wire)
                break
        if batches or noted:
            self.due = now + EVERY
        depends: Dependencies = {self._me: self._log.lasts()}
        return [(to, Offer(self._me, tuple(batch.keys), depends)) for to, batch in batches.items()]

    def _offer(self, wire: bytes, now: float, batches: dict[Incarnation, Batch]) -> bool:
        """Add a key to the batches of those that are to have a copy. Return False if one of them is full."""
        owner, *others = self._order.owners(wire, self.copies) or [b""]
        hash = key_hash(wire)
        record = self._shelf.held(wire, hash, now) if others and owner == self._me else None
        if record is None or self._offered.get(hash) == record.version:
            return True
        for to in others:
            if not batches.setdefault(to, Batch()).take(wire, record):
                return False  # who had room already is offered it twice, and asks once
        self._offered[hash] = record.version
        self._offered.move_to_end(hash)
        if len(self._offered) > REMEMBERED:
            self._offered.popitem(last=False)
        return True
