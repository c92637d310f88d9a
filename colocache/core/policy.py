"""Eviction policies: which entry is removed when a part of the store is full. They are `cachetools.Cache` subclasses.

A hit must take no lock, so it changes no order. It only raises the entry's ``hits``. The policy compares that number
with ``seen``, the number that it saw when it last looked at the entry. Only the policy writes ``seen``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import cachetools

from .entry import Entry


class Policy(cachetools.Cache["bytes", "Entry"]):
    """A mapping of wire key to entry, oldest first, bounded in bytes. Subclasses choose what `popitem` removes.

    It calls ``evicted`` with each entry that it removes to make room. Not thread-safe.
    """

    def __init__(self, budget: int, evicted: Callable[[Entry], None]) -> None:
        super().__init__(budget, getsizeof=lambda entry: entry.size)
        self._evicted = evicted
        # Not a dict: to find its first key, a dict passes all keys that were deleted before it since it last grew.
        self._queue: OrderedDict[bytes, None] = OrderedDict()

    def __setitem__(self, wire: bytes, entry: Entry) -> None:
        super().__setitem__(wire, entry)
        if wire not in self._queue:
            entry.seen = entry.hits
            self._queue[wire] = None

    def __delitem__(self, wire: bytes) -> None:
        super().__delitem__(wire)
        del self._queue[wire]

    def popitem(self) -> tuple[bytes, Entry]:
        """Remove the entry that the policy values least. Raise KeyError if the mapping is empty."""
        wire = self._victim()
        entry = self[wire]
        del self[wire]
        self._evicted(entry)
        return wire, entry

    def grow(self, entry: Entry, size: int) -> None:
        """Note that an entry takes ``size`` bytes from now on. This may remove the entry itself, to make room."""
        more = size - entry.size
        while self.currsize + more > self.maxsize:
            if self.popitem()[1] is entry:
                return
        cachetools.Cache.__delitem__(self, entry.wire)  # not our own, so that the entry keeps its place in the queue
        entry.size = size
        cachetools.Cache.__setitem__(self, entry.wire, entry)

    def _victim(self) -> bytes:
        raise NotImplementedError

    def _oldest(self) -> tuple[bytes, Entry]:
        for wire in self._queue:
            return wire, self[wire]
        raise KeyError("there is no entry")

    def _is_spared(self, wire: bytes, entry: Entry, most: int) -> bool:
        """Move an entry with hits to the end of the queue, and tell whether it had any. ``most`` of them count."""
        credit = min(entry.hits - entry.seen, most)
        if credit <= 0:
            return False
        entry.seen = entry.hits - credit + 1
        self._queue.move_to_end(wire)
        return True


class Lfu(Policy):
    """Least frequently used, with ageing: each hit, up to `MOST` at a time, gives one more round in the queue.

    Source: Smith, "Sequentiality and prefetching in database systems", 1978 (generalised CLOCK).
    """

    MOST = 7

    def _victim(self) -> bytes:
        while True:
            wire, entry = self._oldest()
            if not self._is_spared(wire, entry, self.MOST):
                return wire


class Lru(Lfu):
    """Least recently used, by second chance: all hits since the last look together give one more round in the queue.

    Source: Corbato, "A paging experiment with the Multics system", 1968 (CLOCK).
    """

    MOST = 1


class Sieve(Policy):
    """SIEVE: a hand goes from the oldest entry to the newest, spares entries with hits, and stops at its victim.

    The next search goes on from there. Spared entries keep their places, so entries without a second hit leave soon.
    Source: Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is simpler than LRU", NSDI 2024.
    """

    def __init__(self, budget: int, evicted: Callable[[Entry], None]) -> None:
        super().__init__(budget, evicted)
        # The queue has two parts: what the hand has passed in this round, and what it has not looked at yet.
        self._passed: OrderedDict[bytes, None] = OrderedDict()

    def __delitem__(self, wire: bytes) -> None:
        if wire in self._passed:
            del self._passed[wire]
            self._queue[wire] = None
        super().__delitem__(wire)

    def __setitem__(self, wire: bytes, entry: Entry) -> None:
        cachetools.Cache.__setitem__(self, wire, entry)
        if wire not in self._queue and wire not in self._passed:
            # A hand that has passed the newest entry starts again at the oldest, before it looks at a newer one.
            # Otherwise it would take each new entry in turn, before that can have a hit, and would never again look
            # at an entry that had one.
            self._start_again()
            entry.seen = entry.hits
            self._queue[wire] = None

    def _start_again(self) -> None:
        if not self._queue:
            self._queue, self._passed = self._passed, OrderedDict()

    def _victim(self) -> bytes:
        while True:
            self._start_again()
            wire, entry = self._oldest()
            if entry.hits == entry.seen:
                return wire
            entry.seen = entry.hits
            del self._queue[wire]
            self._passed[wire] = None


class S3Fifo(Policy):
    """S3-FIFO: new entries are on probation in a small queue. An entry with two hits there moves to the main queue.

    The policy remembers the keys that left from probation for a while, by their hashes. A key that comes back goes
    straight to the main queue. There each hit, up to `MOST` at a time, gives one more round. Source: Yang, Zhang, Qiu,
    Yue and Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023. In the paper the small queue has a
    tenth of the bytes. Here it has a tenth of the entries, because entries grow while they are in it.
    """

    MOST = 3
    SHARE = 10  # one of so many entries is on probation
    PROVEN = 2  # hits that end the probation

    def __init__(self, budget: int, evicted: Callable[[Entry], None]) -> None:
        super().__init__(budget, evicted)
        self._small: OrderedDict[bytes, None] = OrderedDict()
        # Hashes of the keys that left, in two generations: together about as many as there are entries.
        self._ghosts: tuple[set[int], set[int]] = (set(), set())

    def __setitem__(self, wire: bytes, entry: Entry) -> None:
        cachetools.Cache.__setitem__(self, wire, entry)
        if wire not in self._queue and wire not in self._small:
            entry.seen = entry.hits
            queue = self._queue if self._was_here(wire) else self._small
            queue[wire] = None

    def __delitem__(self, wire: bytes) -> None:
        if wire in self._small:
            del self._small[wire]
            self._queue[wire] = None
        super().__delitem__(wire)

    def _victim(self) -> bytes:
        while True:
            if self._small and (not self._queue or len(self._small) * self.SHARE > len(self)):
                wire = next(iter(self._small))
                entry = self[wire]
                if entry.hits - entry.seen < self.PROVEN:
                    self._remember(wire)
                    return wire
                del self._small[wire]
                entry.seen = entry.hits
                self._queue[wire] = None
            else:
                wire, entry = self._oldest()
                if not self._is_spared(wire, entry, self.MOST):
                    return wire

    def _remember(self, wire: bytes) -> None:
        if 2 * len(self._ghosts[0]) >= len(self):
            self._ghosts = (set(), self._ghosts[0])
        self._ghosts[0].add(hash(wire))

    def _was_here(self, wire: bytes) -> bool:
        return any(hash(wire) in generation for generation in self._ghosts)


POLICIES: dict[str, type[Policy]] = {"s3fifo": S3Fifo, "sieve": Sieve, "lru": Lru, "lfu": Lfu}
