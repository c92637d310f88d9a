"""What an owner does with a value that is set without a fence."""

from __future__ import annotations

import math

from ..receipt import Receipt
from .announcements import Announcements
from .effects import Effects
from .entry import Entry
from .knowledge import Knowledge
from .messages import Set, SetReceipt, Stored, key_target
from .outbox import Outbox
from .store import Store

MAX_WAITING = 10_000  # sets whose acknowledgements are waited for; a further one gets an incomplete receipt at once


class Storing:
    """The owner's side of sets without a fence. Not thread-safe."""

    def __init__(
        self, knowledge: Knowledge, outbox: Outbox, store: Store, effects: Effects, announcements: Announcements
    ) -> None:
        self._knowledge = knowledge
        self._outbox = outbox
        self._store = store
        self._effects = effects
        self._announcements = announcements
        self._newest: dict[bytes, int] = {}  # by writer: the number of its newest set
        self._waiting = 0  # sets whose acknowledgements are waited for

    def set(self, request: Set) -> None:
        """Store a value unconditionally, and announce that the key has changed.

        A set that its writer has given up became an invalidation in the writer's stream. If that is applied here, the
        set comes too late, and would bring back what others may have invalidated since: it is only announced. While
        behind, this member cannot know, and keeps nothing either. Nobody says when the value was read from its source,
        so its age counts as infinite, and it is never served while behind.
        """
        knowledge = self._knowledge
        if request.id <= self._newest.get(request.sender, 0):  # a duplicate, or overtaken by a later one
            return
        self._newest[request.sender] = request.id
        kept = knowledge.is_current() and not knowledge.invalidated_beyond(request.key, request.sender, request.after)
        number = self._effects.announce((key_target(request.key),))
        if kept:
            entry = Entry(request.key, request.payload, -math.inf, knowledge.now + request.ttl, request.tags)
            kept = self._store.put(entry, near=False)
            self._outbox.counters.sets += 1
        self._outbox.send(Stored(knowledge.incarnation, request.sender, request.id, number, kept))
        if request.acknowledged and self._waiting < MAX_WAITING:
            self._waiting += 1
            self._announcements.wait(
                number, knowledge.now, math.inf, lambda receipt: self._acknowledged(request, receipt)
            )
        elif request.acknowledged:
            self._send_receipt(request, Receipt((), (), False, 0.0))

    def member_left(self, member: bytes) -> None:
        """A member is gone."""
        self._newest.pop(member, None)

    def _acknowledged(self, request: Set, receipt: Receipt) -> None:
        self._waiting -= 1
        self._send_receipt(request, receipt)

    def _send_receipt(self, request: Set, receipt: Receipt) -> None:
        ids = self._knowledge.incarnation, request.sender, request.id
        seats = (*receipt.acknowledged, *receipt.waited_out)
        self._outbox.send(SetReceipt(*ids, receipt.complete, receipt.seconds, len(receipt.acknowledged), seats))
