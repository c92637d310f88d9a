"""Eviction policies: which entry is removed when a part of the store is full. They are `cachetools.Cache` subclasses.

A hit must take no lock, so it changes no order. It only raises the entry's ``hits``. The policy compares that number
with ``seen``, the number that it saw when it last looked at the entry. Only the policy writes ``seen``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, Protocol, TypeVar

import cachetools


class Entry(Protocol):
    """What a policy looks at."""

    size: int  # bytes
    hits: int  # readers raise it
    seen: int  # the ``hits`` that the policy has seen


E = TypeVar("E", bound=Entry)


class Policy(cachetools.Cache["Hashable", E], Generic[E]):
    """A mapping of keys to entries, oldest first, bounded in bytes. Subclasses choose what `popitem` removes.

    It calls ``evicted`` with each entry, just before it removes it to make room. Not thread-safe. An exception of a
    signal handler in the middle of a change leaves it useless, but `entries` still gives all that it had.
    """

    def __init__(self, budget: int, evicted: Callable[[E], None]) -> None:
        super().__init__(budget, getsizeof=lambda entry: entry.size)
        self._evicted = evicted
        data: dict[Hashable, E] = self._Cache__data  # type: ignore[attr-defined]  # of cachetools
        #: Return the entry of a key, or None. `get` of cachetools takes longer: it is written in Python.
        self.find: Callable[[Hashable], E | None] = data.get
        # Not a dict: to find its first key, a dict passes all keys that were deleted before it since it last grew.
        self._queue: OrderedDict[Hashable, None] = OrderedDict()

    def __setitem__(self, key: Hashable, entry: E) -> None:
        super().__setitem__(key, entry)
        if key not in self._queue:
            entry.seen = entry.hits
            self._queue[key] = None

    def __delitem__(self, key: Hashable) -> None:
        super().__delitem__(key)
        del self._queue[key]

    def entries(self) -> list[E]:
        """Return all entries, in one step: any thread may call it, while another one changes the mapping."""
        data: dict[Hashable, E] = self._Cache__data  # type: ignore[attr-defined]  # of cachetools
        return [*data.values()]

    def popitem(self) -> tuple[Hashable, E]:
        """Remove the entry that the policy values least. Raise KeyError if the mapping is empty."""
        key = self._victim()
        entry = self[key]
        self._evicted(entry)  # first: whatever is raised then, somebody knows of the entry
        del self[key]
        return key, entry

    def _victim(self) -> Hashable:
        raise NotImplementedError

    def _oldest(self) -> tuple[Hashable, E]:
        for key in self._queue:
            return key, self[key]
        raise KeyError("there is no entry")

    def _is_spared(self, key: Hashable, entry: E, most: int) -> bool:
        """Move an entry with hits to the end of the queue, and tell whether it had any. ``most`` of them count."""
        credit = min(entry.hits - entry.seen, most)
        if credit <= 0:
            return False
        entry.seen = entry.hits - credit + 1
        self._queue.move_to_end(key)
        return True


class Lfu(Policy[E]):
    """Least frequently used, with ageing: each hit, up to `MOST` at a time, gives one more round in the queue.

    Source: Smith, "Sequentiality and prefetching in database systems", 1978 (generalised CLOCK).
    """

    MOST = 7

    def _victim(self) -> Hashable:
        while True:
            key, entry = self._oldest()
            if not self._is_spared(key, entry, self.MOST):
                return key


class Lru(Lfu[E]):
    """Least recently used, by second chance: all hits since the last look together give one more round in the queue.

    Source: Corbato, "A paging experiment with the Multics system", 1968 (CLOCK).
    """

    MOST = 1


class Sieve(Policy[E]):
    """SIEVE: a hand goes from the oldest entry to the newest, spares entries with hits, and stops at its victim.

    The next search goes on from there. Spared entries keep their places, so entries without a second hit leave soon.
    Source: Zhang, Yang, Yue, Vigfusson and Rashmi, "SIEVE is simpler than LRU", NSDI 2024.
    """

    def __init__(self, budget: int, evicted: Callable[[E], None]) -> None:
        super().__init__(budget, evicted)
        # The queue has two parts: what the hand has passed in this round, and what it has not looked at yet.
        self._passed: OrderedDict[Hashable, None] = OrderedDict()

    def __delitem__(self, key: Hashable) -> None:
        if key in self._passed:
            del self._passed[key]
            self._queue[key] = None
        super().__delitem__(key)

    def __setitem__(self, key: Hashable, entry: E) -> None:
        cachetools.Cache.__setitem__(self, key, entry)
        if key not in self._queue and key not in self._passed:
            # A hand that has passed the newest entry starts again at the oldest, before it looks at a newer one.
            # Otherwise it would take each new entry in turn, before that can have a hit, and would never again look
            # at an entry that had one.
            self._start_again()
            entry.seen = entry.hits
            self._queue[key] = None

    def _start_again(self) -> None:
        if not self._queue:
            self._queue, self._passed = self._passed, OrderedDict()

    def _victim(self) -> Hashable:
        while True:
            self._start_again()
            key, entry = self._oldest()
            if entry.hits == entry.seen:
                return key
            entry.seen = entry.hits
            del self._queue[key]
            self._passed[key] = None


class S3Fifo(Policy[E]):
    """S3-FIFO: new entries are on probation in a small queue. An entry with two hits there moves to the main queue.

    The policy remembers the keys that left from probation for a while, by their hashes. A key that comes back goes
    straight to the main queue. There each hit, up to `MOST` at a time, gives one more round. Source: Yang, Zhang, Qiu,
    Yue and Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023. In the paper the small queue has a
    tenth of the bytes. Here it has a tenth of the entries, because entries grow while they are in it.
    """

    MOST = 3
    SHARE = 10  # one of so many entries is on probation
    PROVEN = 2  # hits that end the probation

    def __init__(self, budget: int, evicted: Callable[[E], None]) -> None:
        super().__init__(budget, evicted)
        self._small: OrderedDict[Hashable, None] = OrderedDict()
        # Hashes of the keys that left, in two generations: together about as many as there are entries.
        self._ghosts: tuple[set[int], set[int]] = (set(), set())

    def __setitem__(self, key: Hashable, entry: E) -> None:
        cachetools.Cache.__setitem__(self, key, entry)
        if key not in self._queue and key not in self._small:
            entry.seen = entry.hits
            queue = self._queue if self._was_here(key) else self._small
            queue[key] = None

    def __delitem__(self, key: Hashable) -> None:
        if key in self._small:
            del self._small[key]
            self._queue[key] = None
        super().__delitem__(key)

    def _victim(self) -> Hashable:
        while True:
            if self._small and (not self._queue or len(self._small) * self.SHARE > len(self)):
                key = next(iter(self._small))
                entry = self[key]
                if entry.hits - entry.seen < self.PROVEN:
                    self._remember(key)
                    return key
                del self._small[key]
                entry.seen = entry.hits
                self._queue[key] = None
            else:
                key, entry = self._oldest()
                if not self._is_spared(key, entry, self.MOST):
                    return key

    def _remember(self, key: Hashable) -> None:
        if 2 * len(self._ghosts[0]) >= len(self):
            self._ghosts = (set(), self._ghosts[0])
        self._ghosts[0].add(hash(key))

    def _was_here(self, key: Hashable) -> bool:
        ghost, (newer, older) = hash(key), self._ghosts
        return ghost in newer or ghost in older


POLICIES: dict[str, type[Policy[Any]]] = {"s3fifo": S3Fifo, "sieve": Sieve, "lru": Lru, "lfu": Lfu}
