"""What a member asks of owners that may refuse: fences, sets under a fence, counts and touches.

If such a request is given up, nobody knows whether the owner carried it out, or will. So nothing is retried here.
"""

from __future__ import annotations

from ..entry import DEAD
from ..options import EntryOptions
from ..timers import Timers
from .effects import Effects
from .entry import Entry
from .fences import NO_FENCE
from .knowledge import Knowledge
from .messages import Alter, Altered, Fenced, GetFenced, SetFenced, unpack_positions
from .outbox import Outbox
from .outcomes import NO_ANSWER, Altering, Fence
from .replays import Replays
from .requests import Part, Request, Requests
from .store import Store


class _Attempt(Request):
    __slots__ = ("ticket", "wire")

    def __init__(self, part: Part, owner: bytes, knowledge: Knowledge, ticket: int, wire: bytes) -> None:
        super().__init__(part, owner, knowledge)
        self.ticket = ticket
        self.wire = wire


class _Fencing(_Attempt):
    __slots__ = ()


class _Altering(_Attempt):
    __slots__ = ()


class Attempts:
    """The requests under way that may be refused. Not thread-safe."""

    def __init__(
        self, knowledge: Knowledge, outbox: Outbox, store: Store, timers: Timers, replays: Replays, requests: Requests,
        effects: Effects,
    ) -> None:  # fmt: skip
        self._knowledge = knowledge
        self._outbox = outbox
        self._store = store
        self._timers = timers
        self._replays = replays
        self._requests = requests
        self._effects = effects
        self._late: dict[int, Fenced] = {}  # answers of owners that have applied more than this member

    def get(self, ticket: int, wire: bytes) -> None:
        """Ask a key's owner for what it has, with a fence."""
        owner, dependencies = self._knowledge.owner_of(wire), self._knowledge.dependencies((wire,))
        if owner is None or dependencies is None:
            self._outbox.resolve(ticket, Fence(None, b"", NO_FENCE))
            return
        request = self._begin(_Fencing(self, owner, self._knowledge, ticket, wire))
        patience = self._knowledge.settings.fetch_timeout
        self._outbox.send(GetFenced(self._knowledge.incarnation, owner, request, wire, patience, dependencies))

    def set(self, ticket: int, wire: bytes, payload: bytes, options: EntryOptions, fence: Fence) -> None:
        """Have a value stored by the owner that gave the fence, if it still owns the key, and the fence stands."""
        if fence.number == NO_FENCE or self._knowledge.owner_of(wire) != fence.owner:
            self._outbox.resolve(ticket, NO_ANSWER)
            return
        request = self._begin_change(ticket, wire, fence.owner)
        ids = self._knowledge.incarnation, fence.owner, request
        self._outbox.send(SetFenced(*ids, wire, payload, options.ttl, fence.number, options.tags))

    def alter(self, ticket: int, wire: bytes, delta: int | None, start: bytes, options: EntryOptions) -> None:
        """Have a key's owner count by ``delta``. Without a ``delta``, give the key another expiry.

        ``start`` is what a key without a value gets; empty for nothing.
        """
        owner, dependencies = self._knowledge.owner_of(wire), self._knowledge.dependencies((wire,))
        if owner is None or dependencies is None:
            self._outbox.resolve(ticket, NO_ANSWER)
            return
        ids = self._knowledge.incarnation, owner, self._begin_change(ticket, wire, owner)
        touch, patience = delta is None, self._knowledge.settings.fetch_timeout
        self._outbox.send(
            Alter(*ids, wire, touch, delta or 0, start, options.ttl, patience, dependencies, options.tags)
        )

    def fenced(self, message: Fenced) -> None:
        """Take an owner's answer in, once this member has applied what the owner has."""
        attempt = self._requests.answered(message, _Fencing)
        if attempt is not None:
            self._take(attempt, message)

    def altered(self, message: Altered) -> None:
        """Take an owner's answer in."""
        attempt = self._requests.answered(message, _Altering)
        if attempt is None:
            return
        self._requests.close(attempt)
        position = None
        if message.number:
            position = message.sender, message.number
            if message.sender != self._knowledge.incarnation:
                self._effects.touch(attempt.wire)  # as for a set: what was asked for before now is older
                self._knowledge.remember(attempt.wire, *position)
        self._outbox.resolve(attempt.ticket, Altering(message.outcome, message.payload, position))

    def retry(self) -> None:
        """Take in the answers that came too early."""
        for message in list(self._late.values()):
            attempt = self._requests.get(message.id, _Fencing)
            if attempt is not None:
                self._take(attempt, message)

    def unanswered(self, request: Request) -> None:
        """Give a request up."""
        if isinstance(request, _Attempt) and self._requests.close(request):
            self._late.pop(request.id, None)
            self._outbox.counters.unavailable += 1
            is_fence = isinstance(request, _Fencing)
            self._outbox.resolve(request.ticket, Fence(None, request.owner, NO_FENCE) if is_fence else NO_ANSWER)

    owner_left = unanswered

    def _begin(self, attempt: _Attempt) -> int:
        self._requests.open(attempt)
        self._requests.expect(attempt)
        return attempt.id

    def _begin_change(self, ticket: int, wire: bytes, owner: bytes) -> int:
        if owner != self._knowledge.incarnation:
            self._effects.touch(wire)  # as for a set; but what the owner is to count with is its own
        return self._begin(_Altering(self, owner, self._knowledge, ticket, wire))

    def _take(self, attempt: _Fencing, message: Fenced) -> None:
        applied = self._replays.has_applied(unpack_positions(message.dependencies))
        if applied is False:
            self._wait(attempt, message)
            return
        self._late.pop(message.id, None)
        self._requests.close(attempt)
        number = message.fence if applied else NO_FENCE
        self._outbox.resolve(attempt.ticket, Fence(self._entry(attempt, message), message.sender, number))

    def _wait(self, attempt: _Fencing, message: Fenced) -> None:
        if message.id not in self._late:
            self._late[message.id] = message
            self._timers.at(attempt.sent_at + self._knowledge.settings.fetch_timeout, self.unanswered, attempt)

    def _entry(self, attempt: _Fencing, message: Fenced) -> Entry | None:
        """Return what an owner has given, to be used by a reader of this process."""
        knowledge, sent_at = self._knowledge, attempt.sent_at
        if message.sender == knowledge.incarnation:
            own = knowledge.servable(self._store, attempt.wire)
            return self._store.use(own) if own is not None else None
        if not message.found:
            return None
        entry = Entry(attempt.wire, message.payload, sent_at - message.age, sent_at + message.ttl_left, message.tags)
        overtaken = knowledge.overtaken(attempt.wire, message.tags, attempt.version)
        if message.current and attempt.established and not overtaken:
            self._store.put(entry, near=True)
        else:
            entry.expires = DEAD
        self._outbox.counters.fetches += 1
        return entry
