"""What an owner does with a key in one step: give a fence, set under one, count, touch.

Its thread does one thing after another, so each of these is atomic in the group, as long as there is one owner: a key
whose owner fails, or changes, may be gone, or be counted by two owners for a moment.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from ..entry import Entry
from ..numbers import pack_integer, unpack_integer
from .fences import NO_FENCE, Fences
from .host import AnnouncingHost
from .messages import Alter, Altered, Fenced, GetFenced, SetFenced, key_target

# What became of an `Alter` or a `SetFenced`.
DONE, NOTHING, NO_INTEGER, REFUSED, UNAVAILABLE = range(5)


class Host(AnnouncingHost, Protocol):
    """What `Atomic` needs of the peer that it belongs to."""

    def servable(self, wire: bytes) -> Entry | None:
        """Return a key's entry if it may be served."""

    def store_entry(self, entry: Entry) -> bool:
        """Keep an entry in the shard; False if it is too large."""

    def dependencies(self, wires: tuple[bytes, ...]) -> bytes | None:
        """Return the packed positions that a reader must have applied; None if there are more than can be named."""


class _Change(NamedTuple):
    payload: bytes
    expires: float
    tags: tuple[str, ...]
    loaded_at: float
    announced: bool  # whether others may hold what is not true any more


class Atomic:
    """The owner's side of fences, counters and touches. Not thread-safe."""

    def __init__(self, host: Host, keep: float) -> None:
        """``keep`` is for how many seconds a fence may hold."""
        self._host = host
        self._newest: dict[bytes, int] = {}  # asker to the number of its newest request that changes something
        self.fences = Fences(keep)

    def is_news(self, request: Alter | SetFenced) -> bool:
        """Whether a request is neither a duplicate nor overtaken by a later one: what counts must not count twice."""
        if request.id <= self._newest.get(request.sender, 0):
            return False
        self._newest[request.sender] = request.id
        return True

    def give(self, request: GetFenced, now: float) -> None:
        """Answer with what there is under a key, and a fence.

        And with what this member depends on: whoever makes a value under the fence must have applied it. Else:

        1. one event hits a page and its part; O has applied it, and R has not; 2. R misses the page, and is given a
        fence that no event will touch; 3. R makes the page of its near copy of the old part, and sets it.
        """
        host = self._host
        entry, payload = self._find(request.key)
        current, dependencies = host.is_current(), host.dependencies((request.key,))
        fence = NO_FENCE
        if current and dependencies is not None:
            fence = self.fences.give(request.key, host.moment, now)
        age, left, tags = 0.0, 0.0, tuple[str, ...]()
        if entry is not None and payload is not None:
            entry.count_fetch()
            age, left, tags = max(0.0, now - entry.loaded_at), max(0.0, entry.expires - now), entry.tags
        host.send(
            Fenced(
                host.incarnation, request.sender, request.id, fence, current, payload is not None, payload or b"",
                age, left, dependencies or b"", tags,
            )
        )  # fmt: skip

    def refuse(self, request: GetFenced | Alter) -> None:
        """Answer a request whose dependencies cannot be met here."""
        host = self._host
        if isinstance(request, GetFenced):
            host.send(
                Fenced(host.incarnation, request.sender, request.id, NO_FENCE, False, False, b"", 0.0, 0.0, b"", ())
            )
        else:
            self._answer(request, UNAVAILABLE)

    def set(self, request: SetFenced, now: float) -> None:
        """Store a value if its key had no event since the fence was given.

        However late it comes: what was invalidated since has taken the note away. So one that its writer has given up
        needs no care, other than a set without a fence.
        """
        host = self._host
        stands = host.is_current() and self.fences.stands(request.key, request.fence, now)
        if not stands or host.tags_hit_since(request.tags, request.fence):
            host.counters.sets_refused += 1
            self._answer(request, REFUSED)
            return
        host.counters.sets += 1
        change = _Change(request.payload, now + request.left, request.tags, -math.inf, announced=True)
        self._carry_out(request, change)

    def alter(self, request: Alter, now: float) -> None:
        """Count, or touch, where there is something; or start a counter.

        Only while current: an event that this member has missed may have taken the counter away.
        """
        host = self._host
        if not host.is_current():
            self._answer(request, UNAVAILABLE)
            return
        entry, payload = self._find(request.key)
        if entry is None or payload is None:
            if not request.start:
                self._answer(request, NOTHING)
                return
            change = _Change(request.start, now + request.left, request.tags, -math.inf, announced=True)
        elif not request.touch:
            number = unpack_integer(payload)
            counted = pack_integer(number + request.delta) if number is not None else None
            if counted is None:
                self._answer(request, NO_INTEGER)
                return
            change = _Change(counted, entry.expires, entry.tags, -math.inf, announced=True)
        else:  # near copies that expire too early are fetched again; only too late is a matter for all
            expires = now + request.left
            change = _Change(payload, expires, entry.tags, entry.loaded_at, announced=expires < entry.expires)
        self._carry_out(request, change)

    def left(self, member: bytes) -> None:
        """A member is gone."""
        self._newest.pop(member, None)

    def _find(self, wire: bytes) -> tuple[Entry | None, bytes | None]:
        entry = self._host.servable(wire)
        return entry, entry.payload if entry is not None else None

    def _carry_out(self, request: Alter | SetFenced, change: _Change) -> None:
        host = self._host
        number = host.announce((key_target(request.key),)) if change.announced else 0
        kept = host.store_entry(Entry(request.key, change.payload, change.loaded_at, change.expires, change.tags))
        self._answer(request, DONE if kept else REFUSED, number, change.payload if isinstance(request, Alter) else b"")

    def _answer(self, request: Alter | SetFenced, outcome: int, number: int = 0, payload: bytes = b"") -> None:
        host = self._host
        host.send(Altered(host.incarnation, request.sender, request.id, number, outcome, payload))
