"""One value as a member keeps it, and how readers come to use it.

Readers look entries up without a lock, while the thread that drives the peer drops them. So that nobody can ever use
what was dropped, an entry is **dead** (``expires`` minus infinity) before it leaves its dictionaries:

1. a reader decodes a fetched value, and is about to put the entry where others find it; 2. an invalidation drops the
entry: it is dead, and is in no dictionary yet; 3. the reader puts it there; everybody who finds it sees that it is
dead, and `Entry.publish` takes it out again.
"""

from __future__ import annotations

import math
from enum import Enum
from sys import getsizeof
from typing import Final

from .keys import Key

#: What an entry costs beside the bytes of its key and its value: the objects that hold them, the record, its slots in
#: six dictionaries and among the expiries, the key as its reader writes it, and what the policy remembers of another
#: one that has left. And what each tag costs beside its text: a dictionary, where no other entry carries it. The most
#: that benchmarks/footprint.py measured, rounded up: for an entry of the shard that is used here, just after the
#: dictionaries doubled, with all that the allocator rounds up.
OVERHEAD = 1072  # bytes
TAG_OVERHEAD = 320  # bytes


class _Missing(Enum):
    MISSING = "MISSING"

    def __repr__(self) -> str:
        return "MISSING"


#: Stands where no value is; None is a value.
MISSING: Final = _Missing.MISSING

DEAD: Final = -math.inf  # the `expires` of an entry that is not to be used any more


class Home:
    """Where the readers of a namespace find entries by themselves, by the keys as they write them.

    Whoever reads the namespace keeps it, and so does every entry in it; it goes with the last of them. So what is kept
    of a namespace is bounded by what is cached and what is used, however many names there ever were.
    """

    __slots__ = ("__weakref__", "copies", "hits", "owner", "past_hits")

    def __init__(self, owner: object, copies: bool = False) -> None:
        self.owner = owner  # the store whose entries may be found here; None if there is none
        self.copies = copies  # whether readers get copies
        self.hits: dict[Key, Entry] = {}
        self.past_hits = 0  # of entries that are gone

    def hit_count(self) -> int:
        """Return how often readers found an entry here. Any thread."""
        return self.past_hits + sum(entry.hits for entry in [*self.hits.values()])


class Entry:
    """One value: as bytes, as the object that readers share, or as both."""

    __slots__ = (
        "expires", "hits", "home", "key", "loaded_at", "near", "payload", "seen", "size", "tags", "value", "wire",
    )  # fmt: skip

    def __init__(self, wire: bytes, payload: bytes | None, loaded_at: float, expires: float, tags: tuple[str, ...]):
        self.wire = wire
        self.payload = payload
        self.value: object = MISSING
        self.key: Key | None = None  # as the user wrote it, once a reader of this process has used it
        self.home: Home | None = None  # where it belongs then
        self.loaded_at = loaded_at
        self.expires = expires
        self.tags = tags
        self.near = False
        self.size = 0
        self.hits = 0  # raised by readers; two threads may lose one of a thousand, which only the statistics see
        self.seen = 0  # of ``hits``, by the eviction policy; less what others fetched

    def count_fetch(self) -> None:
        """Count a use by another process: for the eviction policy alone, while ``hits`` is what readers found here."""
        self.seen -= 1

    def cost(self) -> int:
        """Return the bytes that the entry takes, without the object."""
        tags = sum(getsizeof(tag) + TAG_OVERHEAD for tag in self.tags)
        return OVERHEAD + len(self.wire) + len(self.payload or b"") + tags

    def publish(self, home: Home, key: Key, value: object, keep_payload: bool) -> None:
        """Let readers of this process find the entry as an object. Any thread; see the module on dead ones.

        ``value`` is MISSING where each reader decodes the payload, which is to be kept then.
        """
        self.value = value
        if self.near and not keep_payload:
            self.payload = None  # after the value is there: whoever finds no payload finds the value
        old = self.key
        if self.home is not None and old is not None and old != key and self.home.hits.get(old) is self:
            self.home.hits.pop(old, None)  # a class that was defined anew is another key, and the same on the wire
        self.key, self.home = key, home
        if self.expires == DEAD:  # the key may have another entry by now, which must not be pushed out
            return
        home.hits[key] = self
        if self.expires == DEAD and home.hits.get(key) is self:
            home.hits.pop(key, None)
