"""What a member does for others that ask it as the owner of a key, or because they believe that it is the owner.

Before it answers, it applies what the asker has applied already: the **dependencies** of the request.

1. W's event reaches R, which drops k, and asks O.
2. O has not heard the event, and answers with the old value.
3. R keeps it, and will never hear of the event again. Nothing at R can tell, because the event came before the request.
"""

from __future__ import annotations

from typing import NamedTuple

from .atomic import Atomic
from .entry import Entry
from .knowledge import Knowledge
from .load_queues import Asker, Grant, LoadQueues
from .messages import (
    MAX_LINK,
    Alone,
    Alter,
    Cancel,
    Fill,
    Get,
    GetFenced,
    Peek,
    Peeked,
    Record,
    Value,
    pack_record,
    unpack_positions,
)
from .outbox import Outbox
from .replays import Replays
from .store import Store

# What others may make an owner remember. It tells those that ask beyond it, at once, that it cannot serve them.
MAX_PARKED = 2_000  # requests that wait for events
MAX_PARKED_POSITIONS = 100_000  # that they depend on, in all
MAX_PARKED_SECONDS = 60.0


Question = Get | Peek | GetFenced | Alter  # what an owner answers once it has applied what the asker has


class _Parked(NamedTuple):
    question: Question
    positions: dict[bytes, int]
    until: float


class Owner:
    """The owner's side of gets, peeks and fills; it passes on what `Atomic` answers. Not thread-safe."""

    def __init__(
        self, knowledge: Knowledge, outbox: Outbox, store: Store, replays: Replays, queues: LoadQueues, atomic: Atomic
    ) -> None:
        self._knowledge = knowledge
        self._outbox = outbox
        self._store = store
        self._replays = replays
        self._queues = queues
        self._atomic = atomic
        self._parked: list[_Parked] = []

    def asked(self, question: Question) -> None:
        """Answer a question, once all that it depends on is applied here."""
        if isinstance(question, Alter) and not self._atomic.is_news(question):
            return
        positions = unpack_positions(question.dependencies)
        applied = self._replays.has_applied(positions)
        if applied:
            self._answer(question)
        elif applied is False and self._may_park(positions):
            until = self._knowledge.now + min(question.patience, MAX_PARKED_SECONDS)
            self._parked.append(_Parked(question, positions, until))
        else:
            self._refuse(question)

    def retry(self) -> None:
        """Answer the parked questions whose dependencies are applied by now; forget those that nobody waits for."""
        parked, self._parked = self._parked, []
        for waiting in parked:
            if waiting.until > self._knowledge.now:
                applied = self._replays.has_applied(waiting.positions)
                if applied is False:
                    self._parked.append(waiting)
                elif applied:
                    self._answer(waiting.question)
                else:
                    self._refuse(waiting.question)

    def filled(self, fill: Fill) -> Entry | None:
        """Take a value under its token, and give it to those who wait; return its entry if it is stored."""
        knowledge = self._knowledge
        grant = self._queues.redeem(fill)
        if grant is None or knowledge.tags_invalidated_since(fill.tags, grant.version):
            self._outbox.counters.fills_refused += 1
            if grant is not None:
                self._queues.pass_on(fill.key)
            return None
        entry: Entry | None = None
        if knowledge.established:
            self._outbox.counters.fills += 1
            entry = Entry(fill.key, fill.payload, grant.at - fill.older, knowledge.now + fill.ttl, fill.tags)
            entry = entry if self._store.put(entry, near=False) else None
        for asker in self._queues.release(fill.key):
            self._hand_over(asker, fill, grant)
        return entry

    def cancel(self, cancel: Cancel) -> None:
        """A member no longer waits for the answer to a get."""
        request = cancel.sender, cancel.id
        self._parked = [
            parked
            for parked in self._parked
            if not isinstance(parked.question, Get) or (parked.question.sender, parked.question.id) != request
        ]
        self._queues.cancel(*request)

    def member_left(self, member: bytes) -> None:
        """A member is gone: it waits for nothing, and its tokens lapse."""
        self._parked = [parked for parked in self._parked if parked.question.sender != member]
        self._queues.cancel_all(member)
        self._atomic.member_left(member)

    # --- Steps

    def _may_park(self, positions: dict[bytes, int]) -> bool:
        parked = sum(len(waiting.positions) for waiting in self._parked)
        return len(self._parked) < MAX_PARKED and parked + len(positions) <= MAX_PARKED_POSITIONS

    def _answer(self, question: Question) -> None:
        if isinstance(question, GetFenced):
            self._atomic.give(question)
        elif isinstance(question, Alter):
            self._atomic.alter(question)
        elif isinstance(question, Peek):
            self._show(question)
        else:
            self._give(question)

    def _give(self, get: Get) -> None:
        record = self._record(get.key)
        if record is None:
            self._queues.ask(get)
            return
        me, current = self._knowledge.incarnation, self._knowledge.is_current()
        _, payload, age, ttl_left, tags = record
        self._outbox.send(Value(me, get.sender, get.id, payload, age, ttl_left, current, tags))

    def _show(self, peek: Peek) -> None:
        """Answer a peek, in parts that each fit a link."""
        ids = self._knowledge.incarnation, peek.sender, peek.id, self._knowledge.is_current()
        blobs: list[bytes] = []
        size = 0
        for place, wire in enumerate(peek.keys):
            record = self._record(wire, place)
            if record is None:
                continue
            blob = pack_record(record)
            if size + len(blob) > MAX_LINK - 2048:
                self._outbox.send(Peeked(*ids, True, tuple(blobs)))
                blobs, size = [], 0
            blobs.append(blob)
            size += len(blob) + 8
        self._outbox.send(Peeked(*ids, False, tuple(blobs)))

    def _record(self, wire: bytes, place: int = 0) -> Record | None:
        entry, now = self._knowledge.servable(self._store, wire), self._knowledge.now
        if entry is None or entry.payload is None:
            return None
        entry.count_fetch()
        age, ttl_left = max(0.0, now - entry.loaded_at), max(0.0, entry.expires - now)
        return Record(place, entry.payload, age, ttl_left, entry.tags)

    def _refuse(self, question: Question) -> None:
        ids = self._knowledge.incarnation, question.sender, question.id
        if isinstance(question, Get):
            self._outbox.send(Alone(*ids))
        elif isinstance(question, Peek):
            self._outbox.send(Peeked(*ids, False, False, ()))
        else:
            self._atomic.refuse(question)

    def _hand_over(self, asker: Asker, fill: Fill, grant: Grant) -> None:
        """Give a fill to a member that waits, unless this member is behind: an event that it missed may overtake it."""
        knowledge, ids = self._knowledge, (self._knowledge.incarnation, asker.member, asker.id)
        if knowledge.is_current():
            age = knowledge.now - grant.at + fill.older
            self._outbox.send(Value(*ids, fill.payload, age, fill.ttl, True, fill.tags))
        else:
            self._outbox.send(Alone(*ids))
