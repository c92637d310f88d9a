"""What becomes of a fetch's value: it is filled in, kept if nothing overtook it, and given to those who wait."""

from __future__ import annotations

import math

from ..entry import DEAD
from .entry import Entry
from .fetches import Fetch, Ticket
from .knowledge import Knowledge
from .messages import Fail, Fill, Value
from .outbox import Outbox
from .outcomes import Found, Loaded
from .owner import Owner
from .store import Store


class Deliveries:
    """Takes the values of fetches, and returns the tickets that must try again. Not thread-safe."""

    def __init__(self, knowledge: Knowledge, outbox: Outbox, store: Store, owner: Owner) -> None:
        self._knowledge = knowledge
        self._outbox = outbox
        self._store = store
        self._owner = owner

    def received(self, fetch: Fetch, value: Value) -> list[Ticket]:
        """Take a value that an owner has sent."""
        entry = Entry(fetch.wire, value.payload, fetch.sent_at - value.age, fetch.sent_at + value.ttl_left, value.tags)
        tainted = self._is_tainted(fetch, value.tags)
        if value.sender == self._knowledge.incarnation:
            entry.expires = DEAD  # if it is too large for the shard, nobody could drop it from where readers find it
            entry = self._own(fetch.wire) or entry
        else:
            self._outbox.counters.fetches += 1
            if tainted or not value.current or not fetch.established:
                entry.expires = DEAD
            else:
                self._store.put(entry, near=True)
        return self._hand_out(fetch, entry, tainted)

    def loaded(self, fetch: Fetch, loaded: Loaded) -> list[Ticket]:
        """Take a value that a loader of this process gave."""
        made_of, tags = min(loaded.oldest, self._oldest_part(fetch)), loaded.options.tags
        stored = self._fill(fetch, loaded, max(0.0, fetch.led_at - made_of))
        tainted = self._is_tainted(fetch, tags)
        expires = self._knowledge.now + loaded.options.ttl
        entry = Entry(fetch.wire, loaded.payload, min(fetch.sent_at, made_of), expires, tags)
        entry.value = loaded.value
        if tainted or not fetch.established or loaded.payload is None:
            entry.expires = DEAD
        else:
            entry = self._keep(fetch, entry, stored)
            if entry.expires != DEAD:
                loaded.publish(entry)
        return self._hand_out(fetch, entry, tainted)

    def _is_tainted(self, fetch: Fetch, tags: tuple[str, ...]) -> bool:
        return fetch.marked or self._knowledge.tags_invalidated_since(tags, fetch.version)

    def _own(self, wire: bytes) -> Entry | None:
        """Return what the shard has under a key, for a reader of this process."""
        entry = self._store.find(wire, self._knowledge.now)
        if entry is not None:
            self._store.charge_object(entry)
        return entry

    def _oldest_part(self, fetch: Fetch) -> float:
        """Return when, at the earliest, a cached value was loaded that the loader was served while current.

        What it is served while behind is noted as it is used. Return infinity if this member was behind all the time.
        """
        lease = self._knowledge.settings.lease
        if fetch.led_at < fetch.current_until:
            return fetch.current_until - lease
        if fetch.led_at < self._knowledge.current_until():
            return fetch.led_at - lease
        return math.inf

    def _fill(self, fetch: Fetch, loaded: Loaded, older: float) -> Entry | None:
        """Give a value to the owner under its token. If that is this member, return what its shard keeps."""
        me, options = self._knowledge.incarnation, loaded.options
        if fetch.token is None:
            return None
        if loaded.payload is None:
            self._outbox.send(Fail(me, fetch.owner, fetch.wire, fetch.token))
            return None
        fill = Fill(me, fetch.owner, fetch.wire, fetch.token, loaded.payload, options.ttl, older, options.tags)
        if fetch.owner == me:
            return self._owner.filled(fill)
        self._outbox.send(fill)
        return None

    def _keep(self, fetch: Fetch, entry: Entry, stored: Entry | None) -> Entry:
        """Return the entry that readers of this process find from now on: the shard's own, or a near copy."""
        if fetch.token is None or fetch.owner != self._knowledge.incarnation:
            self._store.put(entry, near=True)
        elif stored is None:  # the fill was refused
            entry.expires = DEAD
        else:
            self._store.charge_object(stored)
            return stored
        return entry

    def _hand_out(self, fetch: Fetch, entry: Entry, tainted: bool) -> list[Ticket]:
        """Give a value to those who wait, but not to those who came after an event that it may not reflect.

        A ticket that joined while this member was behind must not get what this member would not serve it from its own
        store either: the owner's answer may have been under way while an invalidation was waited out.
        """
        again = []
        margin = self._knowledge.now - self._knowledge.trusted_since()
        for ticket in fetch.tickets:
            late = tainted and ticket.version > fetch.version
            old = ticket.behind and ticket.since > fetch.sent_at and entry.loaded_at <= ticket.since - margin
            if late or old:
                again.append(ticket)
            else:
                self._outbox.resolve(ticket.id, Found(entry))
        return again
