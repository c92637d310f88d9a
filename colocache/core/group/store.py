"""What a member keeps: its shard and its near copies. Every byte of them is accounted for here.

Only the thread that drives the peer changes the store. Other threads read the `Home.entries` dictionaries without a
lock: one look-up gives an entry, and its ``expires`` says whether it may still be used. See `colocache.core.entry`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from heapq import heapify, heappop, heappush

import cachetools

from ..entry import DEAD, MISSING
from ..keys import namespace_of, within
from ..policy import POLICIES, Policy
from .entry import Entry


class Store:
    """The shard and the near copies of one member, within a budget of bytes. See the module about threads."""

    def __init__(self, budget: int, near_budget: int, policy: str) -> None:
        self._shard: Policy[Entry] = POLICIES[policy](budget - near_budget, self._evicted)
        self._near: Policy[Entry] = POLICIES[policy](near_budget, self._evicted)
        self._wires: dict[str, dict[bytes, None]] = {}  # namespace to wire keys
        self._tagged: dict[str, dict[bytes, None]] = {}  # tag to wire keys
        self._expiries: list[tuple[float, bytes]] = []
        self._past_hits = [0, 0]  # of entries that have left: shard, near
        self.evictions = 0
        self.refused = 0  # larger than their part of the budget

    def find(self, wire: bytes, now: float) -> Entry | None:
        """Return the entry of a key, unless there is none or it has expired."""
        entry = self._shard.get(wire) or self._near.get(wire)
        if entry is not None and entry.expires <= now:
            self.drop(wire)
            return None
        return entry

    def put(self, entry: Entry, *, near: bool) -> bool:
        """Keep an entry in place of the key's present one. Return False if it is larger than the whole budget."""
        self.drop(entry.wire)
        entry.near = near
        entry.size = entry.cost()
        place = self._near if near else self._shard
        if entry.size > place.maxsize:
            self.refused += 1
            entry.expires = DEAD
            return False
        place[entry.wire] = entry
        self._wires.setdefault(namespace_of(entry.wire), {})[entry.wire] = None
        for tag in entry.tags:
            self._tagged.setdefault(tag, {})[entry.wire] = None
        if entry.expires < math.inf:
            heappush(self._expiries, (entry.expires, entry.wire))
        return True

    def use(self, entry: Entry) -> Entry:
        """Count a hit of a reader of this process, which may keep the entry's object from now on."""
        entry.hits += 1
        self.charge_object(entry)
        return entry

    def charge_object(self, entry: Entry) -> None:
        """Account for the object that a shard entry is about to keep beside its bytes: its size again, once.

        If an entry would not fit the budget with its object, nothing changes. If it was the next to leave, it leaves.
        """
        if entry.near or entry.expires == DEAD or entry.value is not MISSING or entry.payload is None:
            return
        size = entry.cost() + len(entry.payload)
        if entry.size < size <= self._shard.maxsize:
            _grow(self._shard, entry, size)

    def drop(self, wire: bytes) -> None:
        """Drop a key's entry, if there is one."""
        for place in (self._shard, self._near):
            if wire in place:  # most keys are in neither, and cachetools' `pop` takes long to say so
                self._forget(place.pop(wire))

    def drop_tag(self, tag: str) -> None:
        """Drop every entry that carries the tag."""
        for wire in list(self._tagged.get(tag, ())):
            self.drop(wire)

    def drop_namespace(self, namespace: str) -> None:
        """Drop every entry of the namespace and of those below it."""
        for name in [name for name in self._wires if within(name, namespace)]:
            for wire in list(self._wires[name]):
                self.drop(wire)

    def expire(self, now: float) -> None:
        """Drop what has expired."""
        expiries = self._expiries
        while expiries and expiries[0][0] <= now:
            wire = heappop(expiries)[1]
            self.find(wire, now)
        if len(expiries) > 2 * len(self) + 1024:  # most are of entries that left before they expired
            self._expiries = [(e.expires, e.wire) for e in self._entries() if e.expires < math.inf]
            heapify(self._expiries)

    def age(self, seconds: float) -> None:
        """Behave as if so many seconds had passed since everything was stored."""
        for entry in self._entries():
            entry.expires -= seconds
            entry.loaded_at -= seconds
        self._expiries = [(expires - seconds, wire) for expires, wire in self._expiries]

    def hit_counts(self) -> tuple[int, int]:
        """Return how often readers found an entry: in the shard, and among the near copies."""
        shard, near = self._past_hits
        return shard + sum(e.hits for e in self._shard.values()), near + sum(e.hits for e in self._near.values())

    def sizes(self) -> tuple[int, int, int, int]:
        """Return the number and the bytes of the shard's entries, and then of the near copies."""
        return len(self._shard), int(self._shard.currsize), len(self._near), int(self._near.currsize)

    def __len__(self) -> int:
        return len(self._shard) + len(self._near)

    def _entries(self) -> Iterable[Entry]:
        yield from self._shard.values()
        yield from self._near.values()

    def _evicted(self, entry: Entry) -> None:
        self.evictions += 1
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        entry.expires = DEAD
        self._past_hits[entry.near] += entry.hits
        home, key = entry.home, entry.key
        if home is not None and key is not None:
            home.past_hits += entry.hits
            if home.entries.get(key) is entry:
                del home.entries[key]
        _discard(self._wires, namespace_of(entry.wire), entry.wire)
        for tag in entry.tags:
            _discard(self._tagged, tag, entry.wire)


def _grow(place: Policy[Entry], entry: Entry, size: int) -> None:
    """Note that an entry takes ``size`` bytes from now on. This may remove the entry itself, to make room."""
    more = size - entry.size
    while place.currsize + more > place.maxsize:
        if place.popitem()[1] is entry:
            return
    cachetools.Cache.__delitem__(
        place, entry.wire
    )  # not the policy's own, so that the entry keeps its place in the queue
    entry.size = size
    cachetools.Cache.__setitem__(place, entry.wire, entry)


def _discard(index: dict[str, dict[bytes, None]], name: str, wire: bytes) -> None:
    wires = index.get(name)
    if wires is None:  # the entry names a tag twice
        return
    wires.pop(wire, None)
    if not wires:
        del index[name]
