"""One value as this process keeps it near, and how readers come to use it.

Readers look entries up without a lock, while other threads drop them. No reader may use a dropped entry. So an entry is
**dead** (its ``expires`` and its ``until`` are minus infinity) before it leaves its dictionaries:

1. A reader is about to put an entry where others find it.
2. Another thread drops the entry. It is dead now, and not yet in a dictionary.
3. The reader puts it there. Every reader that finds it sees that it is dead, and `Entry.publish` takes it out again.
"""

from __future__ import annotations

import math
from enum import Enum
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from .host.board import GROUP, Label
from .keys import Key

#: What an entry costs beside the bytes of its key and its value: the objects that hold them, its label, its places in
#: the dictionaries, the key as its reader writes it, and what the policy remembers of an entry that has left. It is the
#: most that benchmarks/footprint.py measured, rounded up. It measures just after the dictionaries have doubled, with
#: all that the allocator rounds up.
OVERHEAD = 1392  # bytes

#: The same without the bytes of the shortest label: that of a key without namespace and tags has three groups.
OVERHEAD_BESIDE_LABEL = OVERHEAD - 3 * GROUP.size


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"


#: Stands where no value is; None is a value.
MISSING: Final = _Missing.MISSING

DEAD: Final = -math.inf  # the `expires` and the `until` of an entry that nobody may use any more


class NearCounts:
    """What is counted of the near copies of a namespace."""

    __slots__ = ("evictions", "hits")

    def __init__(self) -> None:
        self.hits = self.evictions = 0


class Findable(Protocol):
    """What readers find in a home."""

    def count(self) -> None:
        """Count the hits since this was called last."""


E = TypeVar("E", bound=Findable)


class Home(Generic[E]):
    """Where the readers of a namespace find entries, by the keys as they write them.

    Each reader of the namespace holds its home, and so does each entry in it. The home goes with the last of them. So
    the memory that homes take is bounded by what is cached and used, not by how many names there ever were.
    """

    __slots__ = ("__weakref__", "copies", "counts", "entries", "owner")

    def __init__(self, owner: object, copies: bool = False, counts: NearCounts | None = None) -> None:
        self.owner = owner  # the store whose entries are found here; None if there is none
        self.copies = copies  # whether readers get copies
        self.entries: dict[Key, E] = {}
        self.counts = NearCounts() if counts is None else counts

    def hits(self) -> int:
        """Return how often readers found an entry here. Any thread may call it."""
        for entry in [*self.entries.values()]:
            entry.count()
        return self.counts.hits


class Entry:
    """A near copy: one value as the object that readers share, and what says until when it may be served.

    ``label`` is that of the record that it was made of, and ``bell`` the bell at which it was last compared. ``until``
    is the instant until which readers may serve it at that bell without asking: that of its expiry, or that until which
    the host was known to be current before the label was compared. ``way`` is where the shelf's index had the record:
    there the shelf is told that the value is still used.
    """

    __slots__ = (
        "bell", "counted", "expires", "hash", "hits", "home", "key", "label", "seen", "size", "told", "until", "value",
        "way",
    )  # fmt: skip

    #: The hits before the next one that is drawn for an audit.
    draw_at: ClassVar[float] = math.inf

    def __init__(
        self, home: Home[Entry], key: Key, value: object, hash: int, label: Label, way: int, expires: float,
        size: int,
    ) -> None:  # fmt: skip
        """``key`` is as its reader writes it; ``size`` is what the entry takes, in bytes."""
        self.home = home
        self.key = key
        self.value = value
        self.hash = hash
        self.label = label
        self.way = way
        self.expires = expires
        self.size = size
        self.bell: float | None = None  # so the first hit compares
        self.until = DEAD
        self.hits = 0  # raised by readers; two threads may lose one in a thousand, which only the statistics show
        self.seen = 0  # the ``hits`` that the policy has seen
        self.told = 0  # the ``hits`` that the shelf was told of
        self.counted = 0  # the ``hits`` that its home has counted

    def publish(self) -> None:
        """Let readers of this process find the entry. Any thread may call it; the module says why it looks twice."""
        entries, key = self.home.entries, self.key
        entries[key] = self
        if self.expires == DEAD and entries.get(key) is self:
            entries.pop(key, None)

    def die(self) -> None:
        """Let nobody use the entry any more. In this order: see `colocache.core.near.NearStore.lets`."""
        self.expires = DEAD
        self.until = DEAD

    def count(self) -> None:
        """Have the home count the hits since this was called last. Any thread may call it.

        It is one step, because Python switches threads after calls only.
        """
        counts = self.home.counts
        counts.hits += self.hits - self.counted
        self.counted = self.hits

    def withdraw(self) -> None:
        """Let readers find the entry no more."""
        self.die()
        home, key = self.home, self.key
        self.count()
        if home.entries.get(key) is self:
            home.entries.pop(key, None)


class SampledEntry(Entry):
    """A near copy of which some hits are drawn for an audit."""

    __slots__ = ("draw_at", "loaded")

    draw_at: float  # type: ignore[misc]  # each has its own

    def __init__(self, draw_at: float, loaded: float, *others: Any) -> None:
        """``loaded`` is that of the record, and ``others`` are what `Entry` takes."""
        super().__init__(*others)
        self.draw_at = draw_at
        self.loaded = loaded
