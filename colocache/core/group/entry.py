"""One value as a member keeps it, and how readers come to use it.

Readers look entries up without a lock, while the thread that drives the peer drops them. No reader may use a dropped
entry. So an entry is **dead** (its ``expires`` is minus infinity) before it leaves its dictionaries:

1. A reader decodes a fetched value, and is about to put the entry where others find it.
2. An invalidation drops the entry. It is dead now, and not yet in a dictionary.
3. The reader puts it there. Every reader that finds it sees that it is dead, and `Entry.publish` takes it out again.
"""

from __future__ import annotations

from sys import getsizeof

from ..entry import DEAD, MISSING, Home
from ..keys import Key

#: What an entry costs beside the bytes of its key and its value: the objects that hold them, the record, its slots in
#: six dictionaries and among the expiries, the key as its reader writes it, and what the policy remembers of an entry
#: that has left. A tag costs, beside its text, a dictionary if no other entry carries it. Both numbers are the most
#: that benchmarks/footprint.py measured, rounded up. It measured an entry of the shard that this process uses, just
#: after the dictionaries had doubled, and with all that the allocator rounds up.
OVERHEAD = 1072  # bytes
TAG_OVERHEAD = 320  # bytes


class Entry:
    """One value: as bytes, as the object that readers share, or as both."""

    __slots__ = (
        "expires", "hits", "home", "key", "loaded_at", "near", "payload", "seen", "size", "tags", "value", "wire",
    )  # fmt: skip

    def __init__(self, wire: bytes, payload: bytes | None, loaded_at: float, expires: float, tags: tuple[str, ...]):
        self.wire = wire
        self.payload = payload
        self.value: object = MISSING
        self.key: Key | None = None  # as its user wrote it, once a reader of this process has used it
        self.home: Home[Entry] | None = None  # where readers find it then
        self.loaded_at = loaded_at
        self.expires = expires
        self.tags = tags
        self.near = False
        self.size = 0
        self.hits = 0  # raised by readers; two threads may lose one in a thousand, which only the statistics show
        self.seen = 0  # the ``hits`` that the policy has seen, less what other processes fetched

    def count_fetch(self) -> None:
        """Count a use by another process. Only the policy sees it; ``hits`` counts the readers of this process."""
        self.seen -= 1

    def cost(self) -> int:
        """Return the bytes that the entry takes, without the object."""
        tags = sum(getsizeof(tag) + TAG_OVERHEAD for tag in self.tags)
        return OVERHEAD + len(self.wire) + len(self.payload or b"") + tags

    def publish(self, home: Home[Entry], key: Key, value: object, keep_payload: bool) -> None:
        """Let readers of this process find the entry as an object. Any thread may call it.

        The module says what happens if the entry is dead, or dies meanwhile.

        ``value`` is MISSING if each reader decodes the payload. Then the payload must be kept.
        """
        self.value = value
        if self.near and not keep_payload:
            self.payload = None  # after the value is there: a reader that finds no payload finds the value
        old = self.key
        if self.home is not None and old is not None and old != key and self.home.entries.get(old) is self:
            self.home.entries.pop(old, None)  # a class that was defined anew is another key, but the same on the wire
        self.key, self.home = key, home
        if self.expires == DEAD:  # the key may have another entry by now, which must stay
            return
        home.entries[key] = self
        if self.expires == DEAD and home.entries.get(key) is self:
            home.entries.pop(key, None)
