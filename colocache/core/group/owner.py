"""What a member does for those who ask it, as the owner of a key or because they believe that it is.

Before it answers, it applies what the asker has applied already (the request's **dependencies**):

1. W's event reaches R, which drops k, and asks O; 2. O has not heard the event, and answers with the old value; 3. R
keeps it, and will never hear of the event again. Nothing at R could have told: the event came before the request.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

from ..entry import Entry
from .announcements import Receipt
from .atomic import Atomic
from .fills import Asker, Desk, Grant
from .host import AnnouncingHost
from .messages import (
    MAX_LINK,
    Alone,
    Alter,
    Fill,
    Found,
    Get,
    GetFenced,
    Peek,
    Record,
    Set,
    SetFenced,
    Settled,
    Stored,
    Value,
    key_target,
    pack_record,
    unpack_positions,
)

# What askers may make an owner remember. Whoever comes beyond is told at once that it is on its own.
MAX_PARKED = 2_000  # requests that wait for events
MAX_PARKED_POSITIONS = 100_000  # that they depend on, in all
MAX_PARKED_SECONDS = 60.0
MAX_SETTLING = 10_000  # sets whose acknowledgements are waited for


class Host(AnnouncingHost, Protocol):
    """What `Owner` needs of the peer that it belongs to."""

    def servable(self, wire: bytes) -> Entry | None:
        """Return a key's entry if it may be served."""

    def store_entry(self, entry: Entry) -> bool:
        """Keep an entry in the shard; False if it is too large."""

    def hit_by(self, wire: bytes, stream: bytes, number: int) -> bool:
        """Whether the key was hit, as far as remembered, by an event of the stream beyond ``number``."""


Request = Get | Peek | GetFenced | Alter  # what an owner answers once it has applied what the asker has


class _Parked(NamedTuple):
    request: Request
    positions: dict[bytes, int]
    until: float

    def is_of(self, member: bytes, request: int) -> bool:
        """Whether it is this request of this member."""
        return self.request.sender == member and self.request.id == request


class Owner:
    """Answers gets, peeks, fills and sets. Not thread-safe."""

    def __init__(self, host: Host, desk: Desk, atomic: Atomic) -> None:
        self._host = host
        self._desk = desk
        self._atomic = atomic
        self._parked: list[_Parked] = []
        self._last_sets: dict[bytes, int] = {}  # writer to the number of its newest set
        self._settling = 0

    def asked(self, request: Request, now: float) -> None:
        """Answer a request, once all that it depends on is applied here."""
        if isinstance(request, Alter) and not self._atomic.is_news(request):
            return
        positions = unpack_positions(request.dependencies)
        applied = self._host.has_applied(positions)
        if applied:
            self._answer(request, now)
        elif applied is None:
            self._refuse(request)
        elif self._may_park(positions):
            self._parked.append(_Parked(request, positions, now + min(request.patience, MAX_PARKED_SECONDS)))
        else:
            self._refuse(request)

    def retry(self, now: float) -> None:
        """Answer the parked requests whose dependencies are applied by now; forget those that nobody waits for."""
        parked, self._parked = self._parked, []
        for waiting in parked:
            if waiting.until > now:
                applied = self._host.has_applied(waiting.positions)
                if applied is False:
                    self._parked.append(waiting)
                elif applied:
                    self._answer(waiting.request, now)
                else:
                    self._refuse(waiting.request)

    def filled(self, fill: Fill, now: float) -> None:
        """Store a value under its token, and give it to who waits."""
        host = self._host
        grant = self._desk.redeem(fill)
        if grant is None or host.tags_hit_since(fill.tags, grant.moment):
            host.counters.fills_refused += 1
            if grant is not None:
                self._desk.pass_on(fill.key, now, host.moment)
            return
        if host.established:
            host.counters.fills += 1
            host.store_entry(Entry(fill.key, fill.payload, grant.at - fill.older, now + fill.left, fill.tags))
        for asker in self._desk.release(fill.key, now):
            self._hand_over(asker, fill, grant, now)

    def set(self, request: Set, now: float) -> None:
        """Store a value unconditionally, and announce that the key has changed.

        A set that was given up by its writer became an invalidation in the writer's stream: if that was applied here,
        the set came too late, and would bring back what others may have invalidated since; it is only announced.
        While behind, this member cannot know, and keeps nothing either. When the value was read from the source
        nobody says, so it is never served while behind: its age counts as infinite.
        """
        host = self._host
        if request.id <= self._last_sets.get(request.sender, 0):  # a duplicate, or overtaken by a later one
            return
        self._last_sets[request.sender] = request.id
        kept = host.is_current() and not host.hit_by(request.key, request.sender, request.after)
        number = host.announce((key_target(request.key),))
        if kept:
            entry = Entry(request.key, request.payload, -math.inf, now + request.left, request.tags)
            kept = host.store_entry(entry)
            host.counters.sets += 1
        host.send(Stored(host.incarnation, request.sender, request.id, number, kept))
        if request.settle and self._settling < MAX_SETTLING:
            self._settling += 1
            host.receipt_for(number, lambda receipt: self._settled(request, receipt))
        elif request.settle:
            self._send_settled(request, Receipt((), (), False, 0.0))

    def set_fenced(self, request: SetFenced, now: float) -> None:
        """Store a value if its fence stands."""
        if self._atomic.is_news(request):
            self._atomic.set(request, now)

    def cancel(self, member: bytes, get: int, now: float) -> None:
        """A member waits no more for the answer to a get."""
        self._parked = [p for p in self._parked if not (isinstance(p.request, Get) and p.is_of(member, get))]
        self._desk.cancel(member, get, now, self._host.moment)

    def left(self, member: bytes, now: float) -> None:
        """A member is gone: it waits for nothing, and its tokens lapse."""
        self._parked = [p for p in self._parked if p.request.sender != member]
        self._desk.cancel_all(member, now, self._host.moment)
        self._last_sets.pop(member, None)
        self._atomic.left(member)

    # --- Steps

    def _may_park(self, positions: dict[bytes, int]) -> bool:
        parked = sum(len(waiting.positions) for waiting in self._parked)
        return len(self._parked) < MAX_PARKED and parked + len(positions) <= MAX_PARKED_POSITIONS

    def _answer(self, request: Request, now: float) -> None:
        if isinstance(request, GetFenced):
            self._atomic.give(request, now)
            return
        if isinstance(request, Alter):
            self._atomic.alter(request, now)
            return
        if isinstance(request, Peek):
            self._found(request, now)
            return
        host = self._host
        entry = host.servable(request.key)
        if entry is None or entry.payload is None:
            self._desk.ask(request, now, host.moment)
            return
        entry.count_fetch()
        age, left = max(0.0, now - entry.loaded_at), max(0.0, entry.expires - now)
        host.send(
            Value(host.incarnation, request.sender, request.id, entry.payload, age, left, host.is_current(), entry.tags)
        )

    def _found(self, request: Peek, now: float) -> None:
        host = self._host
        current = host.is_current()
        records: list[bytes] = []
        size = 0
        for index, wire in enumerate(request.keys):
            entry = host.servable(wire)
            if entry is None or entry.payload is None:
                continue
            entry.count_fetch()
            age, left = max(0.0, now - entry.loaded_at), max(0.0, entry.expires - now)
            record = pack_record(Record(index, entry.payload, age, left, entry.tags))
            if size + len(record) > MAX_LINK - 2048:
                host.send(Found(host.incarnation, request.sender, request.id, current, True, tuple(records)))
                records, size = [], 0
            records.append(record)
            size += len(record) + 8
        host.send(Found(host.incarnation, request.sender, request.id, current, False, tuple(records)))

    def _refuse(self, request: Request) -> None:
        host = self._host
        if isinstance(request, Get):
            host.send(Alone(host.incarnation, request.sender, request.id))
        elif isinstance(request, GetFenced | Alter):
            self._atomic.refuse(request)
        else:
            host.send(Found(host.incarnation, request.sender, request.id, False, False, ()))

    def _hand_over(self, asker: Asker, fill: Fill, grant: Grant, now: float) -> None:
        """Only a current owner hands a fill over; while it is behind, an event that it missed may have overtaken it."""
        host, me = self._host, self._host.incarnation
        if host.is_current():
            age = now - grant.at + fill.older
            host.send(Value(me, asker.member, asker.id, fill.payload, age, fill.left, True, fill.tags))
        else:
            host.send(Alone(me, asker.member, asker.id))

    def _settled(self, request: Set, receipt: Receipt) -> None:
        self._settling -= 1
        self._send_settled(request, receipt)

    def _send_settled(self, request: Set, receipt: Receipt) -> None:
        seats = (*receipt.acknowledged, *receipt.waited_out)
        me, acknowledged = self._host.incarnation, len(receipt.acknowledged)
        self._host.send(Settled(me, request.sender, request.id, receipt.complete, receipt.seconds, acknowledged, seats))
