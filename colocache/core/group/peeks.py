"""Peeks: what a member asks owners for without ever making anybody load."""

from __future__ import annotations

from collections.abc import Iterable

from ...errors import WireError
from ..entry import DEAD
from .entry import Entry
from .knowledge import Knowledge
from .messages import MAX_TARGETS, Peek, Peeked, unpack_record
from .outbox import Outbox
from .outcomes import Seen
from .requests import Part, Request, Requests
from .store import Store


class _Look:
    """One call's peeks at several owners."""

    __slots__ = ("entries", "open", "ticket")

    def __init__(self, ticket: int, entries: dict[bytes, Entry]) -> None:
        self.ticket = ticket
        self.entries = entries
        self.open = 0


class _Peeking(Request):
    __slots__ = ("look", "wires")

    def __init__(self, part: Part, owner: bytes, knowledge: Knowledge, look: _Look, wires: tuple[bytes, ...]) -> None:
        super().__init__(part, owner, knowledge)
        self.look = look
        self.wires = wires


class Peeks:
    """The peeks under way. Not thread-safe."""

    def __init__(self, knowledge: Knowledge, outbox: Outbox, store: Store, requests: Requests) -> None:
        self._knowledge = knowledge
        self._outbox = outbox
        self._store = store
        self._requests = requests

    def peek(self, ticket: int, known: dict[bytes, Entry], wires: Iterable[bytes]) -> None:
        """Ask the owners for keys; ``known`` is what this member has itself."""
        look = _Look(ticket, known)
        parts = [
            (owner, tuple(keys[start : start + MAX_TARGETS]))
            for owner, keys in self._by_owner(wires).items()
            for start in range(0, len(keys), MAX_TARGETS)
        ]
        look.open = len(parts)
        for owner, keys in parts:
            self._ask(_Peeking(self, owner, self._knowledge, look, keys))
        if not parts:
            self._outbox.resolve(ticket, Seen(look.entries))

    def answered(self, message: Peeked) -> None:
        """Take a part of an owner's answer in."""
        peeking = self._requests.answered(message, _Peeking)
        if peeking is None:
            return
        for blob in message.records:
            self._take(peeking, blob, message.current)
        if message.more:
            self._requests.still_answering(peeking)
        else:
            self._close(peeking)

    def unanswered(self, request: Request) -> None:
        """Nobody has what the owner was asked for."""
        if isinstance(request, _Peeking):
            self._close(request)

    owner_left = unanswered

    def _by_owner(self, wires: Iterable[bytes]) -> dict[bytes, list[bytes]]:
        by_owner: dict[bytes, list[bytes]] = {}
        for wire in wires:
            owner = self._knowledge.owner_of(wire)
            if owner is not None and owner != self._knowledge.incarnation:
                by_owner.setdefault(owner, []).append(wire)
        return by_owner

    def _ask(self, peeking: _Peeking) -> None:
        knowledge = self._knowledge
        self._requests.open(peeking)
        dependencies = knowledge.dependencies(peeking.wires)
        if dependencies is None:
            self._close(peeking)
            return
        self._requests.expect(peeking)
        ids = knowledge.incarnation, peeking.owner, peeking.id
        self._outbox.send(Peek(*ids, knowledge.settings.fetch_timeout, dependencies, peeking.wires))

    def _take(self, peeking: _Peeking, blob: bytes, current: bool) -> None:
        try:
            record = unpack_record(blob)
            wire = peeking.wires[record.place]
        except (WireError, IndexError):
            self._outbox.counters.frames_refused += 1
            return
        sent_at = peeking.sent_at
        entry = Entry(wire, record.payload, sent_at - record.age, sent_at + record.ttl_left, record.tags)
        if current and peeking.established and not self._knowledge.overtaken(wire, record.tags, peeking.version):
            self._store.put(entry, near=True)
        else:
            entry.expires = DEAD
        peeking.look.entries[wire] = entry
        self._outbox.counters.fetches += 1

    def _close(self, peeking: _Peeking) -> None:
        self._requests.close(peeking)
        look = peeking.look
        look.open -= 1
        if not look.open:
            self._outbox.resolve(look.ticket, Seen(look.entries))
