"""Sets without a fence: what a member asks owners to store."""

from __future__ import annotations

import math

from ..options import EntryOptions
from ..receipt import Receipt
from ..timers import Timers
from .announcements import Announcements
from .effects import Effects
from .knowledge import Knowledge
from .messages import Set, SetReceipt, Stored, key_target
from .outbox import Outbox
from .outcomes import Written
from .requests import Part, Request, Requests


class _Setting(Request):
    __slots__ = ("acknowledged", "stored", "ticket", "wire")

    def __init__(
        self, part: Part, owner: bytes, knowledge: Knowledge, ticket: int, wire: bytes, acknowledged: bool
    ) -> None:
        super().__init__(part, owner, knowledge)
        self.ticket = ticket
        self.wire = wire
        self.acknowledged = acknowledged
        self.stored: Written | None = None  # once the owner has stored the value, while its receipt is waited for


class Sets:
    """The sets under way. Not thread-safe."""

    def __init__(
        self, knowledge: Knowledge, outbox: Outbox, timers: Timers, requests: Requests, effects: Effects,
        announcements: Announcements,
    ) -> None:  # fmt: skip
        self._knowledge = knowledge
        self._outbox = outbox
        self._timers = timers
        self._requests = requests
        self._effects = effects
        self._announcements = announcements
        self._patience = 3 * knowledge.settings.lease

    def set(self, ticket: int, wire: bytes, payload: bytes, options: EntryOptions, acknowledged: bool) -> None:
        """Have a key's owner store a value; ``acknowledged``: and have everybody acknowledge it."""
        knowledge = self._knowledge
        self._effects.touch(wire)
        owner = knowledge.owner_of(wire)
        setting = _Setting(self, owner or knowledge.incarnation, knowledge, ticket, wire, acknowledged)
        self._requests.open(setting)
        if owner is None:
            self._give_up(setting, sent=False)
            return
        self._requests.expect(setting)
        ids = knowledge.incarnation, owner, setting.id
        self._outbox.send(Set(*ids, wire, payload, options.ttl, acknowledged, self._effects.last, options.tags))

    def stored(self, message: Stored) -> None:
        """An owner has stored a value, and announced it."""
        setting = self._requests.answered(message, _Setting)
        if setting is None or setting.stored is not None:
            return
        position = message.sender, message.number
        if message.sender != self._knowledge.incarnation:
            self._effects.touch(setting.wire)  # first: what was asked for before now must not count as younger
            self._knowledge.remember(setting.wire, *position)
        setting.stored = Written(message.kept, None, position)
        if setting.acknowledged:
            self._timers.at(self._knowledge.now + self._patience, self._end, setting)
        else:
            self._end(setting)

    def acknowledged(self, message: SetReceipt) -> None:
        """Everybody has acknowledged a set, or was waited out."""
        setting = self._requests.answered(message, _Setting)
        if setting is None:
            return
        if setting.stored is None:  # the first part of the answer was lost
            self._requests.still_answering(setting)
            return
        acknowledged, waited = message.seats[: message.acknowledged], message.seats[message.acknowledged :]
        receipt = Receipt(acknowledged, waited, message.complete, message.seconds)
        setting.stored = setting.stored._replace(receipt=receipt)
        self._end(setting)

    def unanswered(self, request: Request) -> None:
        """The owner has not stored the value, as far as is known; or nobody will send the receipt."""
        if isinstance(request, _Setting) and request.stored is None:
            self._give_up(request, sent=True)
        elif isinstance(request, _Setting):
            self._end(request)

    owner_left = unanswered

    def _end(self, setting: _Setting) -> None:
        if setting.stored is not None and self._requests.close(setting):
            self._outbox.resolve(setting.ticket, setting.stored)

    def _give_up(self, setting: _Setting, *, sent: bool) -> None:
        """Invalidate the key instead of setting it: its owner does not answer, and the old value must go all the same.

        If the set was sent, the call waits as an invalidation does:

        1. A's set is under way for long. A gives it up, announces that the key has changed, and returns.
        2. B sets the key, and its call returns.
        3. A's set arrives, before A's event. The owner keeps it, and B reads what A has given up.

        Once the event is acknowledged, the owner refuses the set. While it is waited out, it keeps none.
        """
        self._requests.close(setting)
        number = self._effects.announce((key_target(setting.wire),))
        if not setting.acknowledged and not sent:
            self._outbox.resolve(setting.ticket, Written(False, None))
            return

        def resolve(receipt: Receipt) -> None:
            self._outbox.resolve(setting.ticket, Written(False, receipt if setting.acknowledged else None))

        self._announcements.wait(number, self._knowledge.now, math.inf, resolve)
