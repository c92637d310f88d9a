"""What an owner does with a key in one step: give a fence, set under a fence, count, touch.

Its thread does one thing after another, so each of these steps is atomic in the group while there is one owner. If a
key's owner fails or changes, the key may be gone, or two owners may count it for a moment.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from ..numbers import pack_integer, unpack_integer
from .effects import Effects
from .entry import Entry
from .fences import NO_FENCE, Fences
from .knowledge import Knowledge
from .messages import Alter, Altered, Fenced, GetFenced, SetFenced, key_target
from .outbox import Outbox
from .outcomes import DONE, NO_INTEGER, NOTHING, REFUSED, UNAVAILABLE
from .store import Store


class _Change(NamedTuple):
    payload: bytes
    expires: float
    tags: tuple[str, ...]
    loaded_at: float
    announced: bool  # others may hold what is no longer true


class Atomic:
    """The owner's side of fences, counters and touches. Not thread-safe."""

    def __init__(self, knowledge: Knowledge, outbox: Outbox, store: Store, effects: Effects, fences: Fences) -> None:
        self._knowledge = knowledge
        self._outbox = outbox
        self._store = store
        self._effects = effects
        self._fences = fences
        self._newest: dict[bytes, int] = {}  # by asker: the number of its newest request that changes something

    def is_news(self, request: Alter | SetFenced) -> bool:
        """Tell whether a request is neither a duplicate nor overtaken by a later one: nothing may count twice."""
        if request.id <= self._newest.get(request.sender, 0):
            return False
        self._newest[request.sender] = request.id
        return True

    def give(self, request: GetFenced) -> None:
        """Answer with what there is under a key, and a fence.

        The answer names what this member depends on, too. A member that makes a value under the fence must have applied
        that first. Otherwise:

        1. One event invalidates a page and its part. O has applied it, and R has not.
        2. R misses the page, and O gives it a fence that no further event voids.
        3. R makes the page of its near copy of the old part, and sets it.
        """
        knowledge, now = self._knowledge, self._knowledge.now
        entry, payload = self._find(request.key)
        current, dependencies = knowledge.is_current(), knowledge.dependencies((request.key,))
        fence = NO_FENCE
        if current and dependencies is not None:
            fence = self._fences.give(request.key, knowledge.version, now)
        age, ttl_left, tags = 0.0, 0.0, tuple[str, ...]()
        if entry is not None and payload is not None:
            entry.count_fetch()
            age, ttl_left, tags = max(0.0, now - entry.loaded_at), max(0.0, entry.expires - now), entry.tags
        self._outbox.send(
            Fenced(
                knowledge.incarnation, request.sender, request.id, fence, current, payload is not None, payload or b"",
                age, ttl_left, dependencies or b"", tags,
            )
        )  # fmt: skip

    def refuse(self, request: GetFenced | Alter) -> None:
        """Answer a request whose dependencies cannot be met here."""
        if isinstance(request, GetFenced):
            ids = self._knowledge.incarnation, request.sender, request.id
            self._outbox.send(Fenced(*ids, NO_FENCE, False, False, b"", 0.0, 0.0, b"", ()))
        else:
            self._answer(request, UNAVAILABLE)

    def set(self, request: SetFenced) -> None:
        """Store a value if no event invalidated its key since the fence was given.

        It does not matter how late the request comes, because what was invalidated since has taken the fence's note
        away. So a request that its writer has given up needs no care, unlike a set without a fence.
        """
        if not self.is_news(request):
            return
        knowledge, now = self._knowledge, self._knowledge.now
        stands = knowledge.is_current() and self._fences.stands(request.key, request.fence, now)
        if not stands or knowledge.tags_invalidated_since(request.tags, request.fence):
            self._outbox.counters.sets_refused += 1
            self._answer(request, REFUSED)
            return
        self._outbox.counters.sets += 1
        change = _Change(request.payload, now + request.ttl, request.tags, -math.inf, announced=True)
        self._carry_out(request, change)

    def alter(self, request: Alter) -> None:
        """Count or touch a value that is there; otherwise start a counter.

        Do so only while current, because an event that this member has missed may have taken the counter away.
        """
        if not self._knowledge.is_current():
            self._answer(request, UNAVAILABLE)
            return
        entry, payload = self._find(request.key)
        if entry is None or payload is None:
            self._start(request)
        elif request.touch:
            # A near copy that expires too early is fetched again. Only one that expires too late concerns the others.
            expires = self._knowledge.now + request.ttl
            self._carry_out(request, _Change(payload, expires, entry.tags, entry.loaded_at, expires < entry.expires))
        else:
            self._count(request, entry, payload)

    def member_left(self, member: bytes) -> None:
        """A member is gone."""
        self._newest.pop(member, None)

    def _start(self, request: Alter) -> None:
        if not request.start:
            self._answer(request, NOTHING)
            return
        expires = self._knowledge.now + request.ttl
        self._carry_out(request, _Change(request.start, expires, request.tags, -math.inf, announced=True))

    def _count(self, request: Alter, entry: Entry, payload: bytes) -> None:
        number = unpack_integer(payload)
        counted = pack_integer(number + request.delta) if number is not None else None
        if counted is None:
            self._answer(request, NO_INTEGER)
        else:
            self._carry_out(request, _Change(counted, entry.expires, entry.tags, -math.inf, announced=True))

    def _find(self, wire: bytes) -> tuple[Entry | None, bytes | None]:
        entry = self._knowledge.servable(self._store, wire)
        return entry, entry.payload if entry is not None else None

    def _carry_out(self, request: Alter | SetFenced, change: _Change) -> None:
        number = self._effects.announce((key_target(request.key),)) if change.announced else 0
        entry = Entry(request.key, change.payload, change.loaded_at, change.expires, change.tags)
        kept = self._store.put(entry, near=False)
        self._answer(request, DONE if kept else REFUSED, number, change.payload if isinstance(request, Alter) else b"")

    def _answer(self, request: Alter | SetFenced, outcome: int, number: int = 0, payload: bytes = b"") -> None:
        self._outbox.send(Altered(self._knowledge.incarnation, request.sender, request.id, number, outcome, payload))
