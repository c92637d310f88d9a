"""Peeks and sets: what a member asks of owners on behalf of calls that load nothing.

An owner answers in the order in which it was asked. So a request is given up when the owner has said nothing for the
fetch timeout, to it or to an earlier one: of many requests at once each may take as long as those before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from ...errors import WireError
from ..entry import DEAD, Entry
from ..timers import Timers
from .announcements import Receipt
from .host import AnnouncingHost, AskingHost
from .messages import MAX_TARGETS, Found, Peek, Set, Settled, Stored, key_target, unpack_record


class Seen(NamedTuple):
    """What a peek found: wire key to entry; a key that nobody has is not in it."""

    entries: dict[bytes, Entry]


class Written(NamedTuple):
    """What became of a set: whether the owner keeps the value; the receipt, where one was asked for; and the event."""

    kept: bool
    receipt: Receipt | None
    position: tuple[bytes, int] | None = None  # that announces it; None if the set was given up


class Host(AskingHost, AnnouncingHost, Protocol):
    """What `Requests` needs of the peer that it belongs to."""

    @property
    def last(self) -> int:
        """The number of this member's newest event."""

    def overtaken(self, wire: bytes, tags: Iterable[str], moment: int) -> bool:
        """Whether the key or one of the tags was hit by an event applied after ``moment``."""

    def touch(self, wire: bytes) -> None:
        """Drop this member's own copy of a key, and mark its fetches."""

    def remember(self, wire: bytes, stream: bytes, number: int) -> None:
        """Depend on an event as if it were applied here."""

    def settle(self, ticket: int, outcome: Seen | Written) -> None:
        """Tell a caller what became of its call."""


class _Look:
    """One call's peeks at several owners."""

    __slots__ = ("entries", "open", "ticket")

    def __init__(self, ticket: int, entries: dict[bytes, Entry]) -> None:
        self.ticket = ticket
        self.entries = entries
        self.open = 0


class _Peeking(NamedTuple):
    look: _Look
    owner: bytes
    wires: tuple[bytes, ...]
    sent_at: float
    moment: int
    established: bool


class _Setting(NamedTuple):
    ticket: int
    wire: bytes
    owner: bytes
    settle: bool  # whether it is to be acknowledged by all; once it is stored, whether it was kept
    position: tuple[bytes, int] | None = None


class Requests:
    """The peeks and sets under way. Not thread-safe."""

    def __init__(self, host: Host, fetch_timeout: float, settle_timeout: float, timers: Timers) -> None:
        self._host = host
        self._fetch_timeout = fetch_timeout
        self._settle_timeout = settle_timeout
        self._timers = timers
        self._ids = 0
        self._peeks: dict[int, _Peeking] = {}
        self._sets: dict[int, _Setting] = {}
        self._unsettled: dict[int, _Setting] = {}  # stored, and to be settled
        self._heard: dict[bytes, tuple[int, float]] = {}  # owner to the request that it answered last, and when

    def __len__(self) -> int:
        return len(self._peeks) + len(self._sets) + len(self._unsettled)

    # --- Peeks

    def peek(self, ticket: int, known: dict[bytes, Entry], wires: Iterable[bytes], now: float) -> None:
        """Ask the owners for keys; ``known`` is what this member has itself."""
        look = _Look(ticket, known)
        by_owner: dict[bytes, list[bytes]] = {}
        for wire in wires:
            owner = self._host.owner_of(wire)
            if owner is not None and owner != self._host.incarnation:
                by_owner.setdefault(owner, []).append(wire)
        parts = [
            (owner, tuple(keys[start : start + MAX_TARGETS]))
            for owner, keys in by_owner.items()
            for start in range(0, len(keys), MAX_TARGETS)
        ]
        look.open = len(parts)
        for owner, keys in parts:
            self._ask(look, owner, keys, now)
        if not parts:
            self._host.settle(ticket, Seen(look.entries))

    def found(self, message: Found, now: float) -> None:
        """Take a part of an owner's answer in."""
        peeking = self._peeks.get(message.id)
        if peeking is None or peeking.owner != message.sender:
            return
        self._heard[message.sender] = message.id, now
        for blob in message.records:
            try:
                record = unpack_record(blob)
                wire = peeking.wires[record.place]
            except (WireError, IndexError):
                self._host.counters.frames_refused += 1
                continue
            left = peeking.sent_at + record.left
            entry = Entry(wire, record.payload, peeking.sent_at - record.age, left, record.tags)
            overtaken = self._host.overtaken(wire, record.tags, peeking.moment)
            if message.current and peeking.established and not overtaken:
                self._host.keep(entry)
            else:
                entry.expires = DEAD
            peeking.look.entries[wire] = entry
            self._host.counters.fetches += 1
        if not message.more:
            self._close(message.id)

    def owner_left(self, owner: bytes) -> None:
        """An owner is gone: what it was asked for, nobody has."""
        self._heard.pop(owner, None)
        for request in [request for request, peeking in self._peeks.items() if peeking.owner == owner]:
            self._close(request)
        for request in [request for request, setting in self._sets.items() if setting.owner == owner]:
            self._give_up_set(request, sent=True)
        for request in [request for request, setting in self._unsettled.items() if setting.owner == owner]:
            self._unsettling(request)

    def _ask(self, look: _Look, owner: bytes, wires: tuple[bytes, ...], now: float) -> None:
        host = self._host
        self._ids += 1
        self._peeks[self._ids] = _Peeking(look, owner, wires, now, host.moment, host.established)
        dependencies = host.dependencies(wires)
        if dependencies is None:
            self._close(self._ids)
            return
        self._timers.at(now + self._fetch_timeout, self._unanswered, self._ids)
        host.send(Peek(host.incarnation, owner, self._ids, self._fetch_timeout, dependencies, wires))

    def _unanswered(self, request: int) -> None:
        if request in self._peeks and not self._has_time(request, self._peeks[request].owner, self._unanswered):
            self._host.pass_over(self._peeks[request].owner)
            self._close(request)

    def _has_time(self, request: int, owner: bytes, overdue: Callable[[int], None]) -> bool:
        """Whether the owner is still answering this request, or those before it; then ``overdue`` is called again."""
        answered, heard_at = self._heard.get(owner, (0, -math.inf))
        due = heard_at + self._fetch_timeout
        if answered > request or due <= self._timers.now:
            return False
        self._timers.at(due, overdue, request)
        return True

    def _close(self, request: int) -> None:
        look = self._peeks.pop(request).look
        look.open -= 1
        if not look.open:
            self._host.settle(look.ticket, Seen(look.entries))

    # --- Sets

    def set(self, ticket: int, wire: bytes, payload: bytes, left: float, tags: tuple[str, ...], settle: bool,
            now: float) -> None:  # fmt: skip
        """Have a key's owner store a value; ``settle``: and have everybody acknowledge it."""
        host = self._host
        host.touch(wire)
        owner = host.owner_of(wire)
        self._ids += 1
        request = self._ids
        self._sets[request] = _Setting(ticket, wire, owner or host.incarnation, settle)
        if owner is None:
            self._give_up_set(request, sent=False)
            return
        self._timers.at(now + self._fetch_timeout, self._unstored, request)
        host.send(Set(host.incarnation, owner, request, wire, payload, left, settle, host.last, tags))

    def stored(self, message: Stored, now: float) -> None:
        """An owner has stored a value, and announced it."""
        setting = self._sets.get(message.id)
        if setting is None or setting.owner != message.sender:
            return
        del self._sets[message.id]
        self._heard[message.sender] = message.id, now
        if message.sender != self._host.incarnation:
            self._host.touch(setting.wire)  # first: what was asked for before now must not count as younger
            self._host.remember(setting.wire, message.sender, message.number)
        position = message.sender, message.number
        if setting.settle:
            self._unsettled[message.id] = setting._replace(settle=message.kept, position=position)
            self._timers.at(now + self._settle_timeout, self._unsettling, message.id)
        else:
            self._host.settle(setting.ticket, Written(message.kept, None, position))

    def settled(self, message: Settled) -> None:
        """Everybody has acknowledged a set, or was waited out."""
        setting = self._unsettled.get(message.id)
        if setting is None or setting.owner != message.sender:
            return
        del self._unsettled[message.id]
        acknowledged, waited = message.seats[: message.acknowledged], message.seats[message.acknowledged :]
        receipt = Receipt(acknowledged, waited, message.complete, message.seconds)
        self._host.settle(setting.ticket, Written(setting.settle, receipt, setting.position))

    def _unsettling(self, request: int) -> None:
        setting = self._unsettled.pop(request, None)
        if setting is not None:
            self._host.settle(setting.ticket, Written(setting.settle, None, setting.position))

    def _unstored(self, request: int) -> None:
        if request in self._sets and not self._has_time(request, self._sets[request].owner, self._unstored):
            self._host.pass_over(self._sets[request].owner)
            self._give_up_set(request, sent=True)

    def _give_up_set(self, request: int, *, sent: bool) -> None:
        """A set whose owner cannot be had becomes an invalidation: the old value must go all the same.

        And the call waits as one does, if the set was sent:

        1. A's set is long under way; A gives it up, announces that the key has changed, and returns; 2. B sets the key,
        and its call returns; 3. A's set arrives, before A's event; the owner keeps it, and B reads what A had given up.

        When the event is acknowledged the owner refuses the set, and while it is waited out it keeps none.
        """
        setting = self._sets.pop(request)
        number = self._host.announce((key_target(setting.wire),))
        if not setting.settle and not sent:
            self._host.settle(setting.ticket, Written(False, None))
            return

        def settle(receipt: Receipt) -> None:
            self._host.settle(setting.ticket, Written(False, receipt if setting.settle else None))

        self._host.receipt_for(number, settle)
